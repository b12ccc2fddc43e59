"""The fuzzers of `make fuzz`, for a moment: every reader takes damaged files without surprise."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from quantkit.errors import InputError

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))

from fuzz import Result, fuzz, one
from fuzz_readers import READERS

INPUTS = {"template-process": 8, "tokenizer-json": 120, "tokenizer-config": 120, "texts-parquet": 150}  # slow ones
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
