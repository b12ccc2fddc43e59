"""The fuzzers of `make fuzz`, for a moment: every reader takes damaged files without surprise."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quantkit.calibration.text import templates
from quantkit.errors import InputError, NetworkError

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))

from fuzz import Result, fuzz, one
from fuzz_hub import answers
from fuzz_readers import READERS

INPUTS = {
    "template-process": 60, "tokenizer-json": 120, "tokenizer-json-spm": 120, "tokenizer-config": 120,
    "special-tokens-map": 80, "added-tokens": 80, "texts-parquet": 150, "folder": 60, "folder-mistral": 60,
    "folder-quantized": 60, "gguf-source": 60, "hub": 40, "hub-gguf": 40, "hub-headers": 40,
}  # fmt: skip
READER = {reader.name: reader for reader in READERS}


@pytest.mark.parametrize("name", READER)
def test_damaged_files_are_refused_or_read(name: str) -> None:
    result = fuzz(READER[name], seed=20, inputs=INPUTS.get(name, 400))
    assert not result.findings
    assert result.accepted, "the mutator destroys everything"
    assert result.inputs == result.accepted + result.refused


def test_inputs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    mutate, _ = READER["safetensors"].make(tmp_path)
    first, again, other = ([mutate(random.Random(seed)) for _ in range(5)] for seed in ("1", "1", "2"))
    assert first == again != other


def answered(key: str, status: int, **headers: str) -> dict[str, Any]:
    table = answers()
    table[key]["status"] = status
    table[key]["headers"] |= {name.replace("_", "-"): text for name, text in headers.items()}
    return table


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(answered("head config.json", 200, X_Linked_Size="9" * 400), id="a size that no float holds"),
        pytest.param(answered("info", 429, Retry_After="9" * 20), id="a wait that no clock holds"),
        pytest.param(answered("info", 307, Location="http://[::1"), id="a redirect to no address"),
        pytest.param(answered("head config.json", 302, Location="\0"), id="a file at no address"),
        pytest.param(answered("get model.safetensors", 302, Location="https://a\x1b/"), id="weights at no address"),
        pytest.param(answered("tree", 200, Link='<\0>; rel="next"'), id="a next page at no address"),
    ],
)
def test_what_no_hub_answers_is_a_failure_of_the_network(table: dict[str, Any], tmp_path: Path) -> None:
    _, read = READER["hub"].make(tmp_path)
    with pytest.raises(NetworkError) as error:
        read(json.dumps(table).encode())
    assert error.value.hint


def test_children_end_as_they_would_if_started(tmp_path: Path) -> None:
    """Exit status, output and limits of a forked child; the module is as it was afterwards."""
    _, read = READER["template-process"].make(tmp_path)
    assert read(b"{{ messages[0].content }} {{ eos_token }}") == ["hello </s>"]
    with pytest.raises(InputError, match="took more than"):
        read(b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    with pytest.raises(InputError, match="MemoryError"):
        read(b"{{ 'a' * 2000000000 }}")
    assert templates.subprocess is subprocess


def fails(data: bytes) -> None:
    errors: dict[bytes, BaseException] = {b"a": ValueError("x"), b"b": InputError("x"), b"c": InputError("x" * 10**6)}
    if data == b"d":
        end = time.process_time() + 2.1
        while time.process_time() < end:
            pass
    if data in errors:
        raise errors[data]


def test_what_is_no_refusal_is_found() -> None:
    result = Result("x")
    for data in (b"a", b"b", b"c", b"d", b"e"):
        one(result, fails, data)
    assert (result.inputs, result.refused, result.accepted) == (5, 2, 2)
    assert sorted(result.findings.values()) == [b"a", b"d"]
    assert result.slowest > 2
