"""Claims of small files that would cost minutes or gigabytes, and names that look like patterns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import llama_folder as llama
import pytest
from commands import quantkit
from described import describe_infos
from machine_speed import within

from quantkit.errors import InputError, QuantkitError
from quantkit.families.known import known_families
from quantkit.families.linears import _modules
from quantkit.families.roles import Role
from quantkit.tensors import TensorInfo
from quantkit.tokenizer import native
from quantkit.tokenizer.libraries import load_tokenizer_json
from quantkit.tokenizer.native import known_patterns, no_panic, try_tokenizer_json
from quantkit.tokenizer.sentencepiece_model import MAX_UNKNOWN, parse_sentencepiece

STRANGE = [
    "model.layers.{}.mlp.up_proj.weight",
    "model.layers.0.mlp.experts.{}.up_proj.weight",
    "model.layers.².mlp.up_proj.weight",
    "model.layers.٣.mlp.up_proj.weight",
    "model.layers.{0}.x.weight",
    "{}",
    "{0.__class__}",
    "%s%n",
    "model.layers.99999999999.mlp.up_proj.weight",
    "model.layers..mlp.up_proj.weight",
    "model.layers.-1.mlp.up_proj.weight",
]


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_name_is_no_tensor_of_the_model(name: str, tmp_path: Path) -> None:
    weights = llama.weights()
    folder = llama.write(tmp_path / "model", {**weights, name: weights[llama.UP]})
    gguf = quantkit("plan", folder, "--to", "f16")
    assert gguf.status == 4
    assert "has no place for tensor" in gguf.stderr
    servers = quantkit("plan", folder, "--to", "int8")
    assert servers.status == 0, servers.stderr


def test_more_tokens_than_rows_are_refused_before_they_are_made(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model", vocab_size=4_194_304)
    with within(2):
        outcome = quantkit("plan", folder, "--to", "f16")
    assert outcome.status == 3
    assert "vocab_size is 4194304, the largest tensor has 2,048 rows" in outcome.stderr


def test_more_layers_than_any_model_has_are_refused_before_something_is_made_for_each() -> None:
    claim = {"num_hidden_layers": 2**31 - 1}
    with within(5):
        with pytest.raises(InputError, match="num_hidden_layers is 2147483647, expected 16,384 at most"):
            describe_infos({}, {"architectures": ["LlamaForCausalLM"], **claim})
        for family in known_families():
            for model_type in family.defaults:
                with pytest.raises(QuantkitError):
                    describe_infos({}, {"architectures": [family.hf[0]], "model_type": model_type, **claim})


def test_more_experts_than_any_model_has() -> None:
    [family] = (each for each in known_families() if each.name == "qwen3_moe")

    def held(experts: int) -> int:
        info = TensorInfo("model.layers.0.mlp.experts.down_proj", "BF16", (experts, 4, 2), experts * 16)
        return len(list(_modules(family, info, Role.FFN_DOWN, turned=set(), whole=set(), before={})))

    assert held(3) == 3
    with pytest.raises(InputError, match="holds 1,000,000 experts"):
        held(1_000_000)


def test_fields_that_nobody_knows_are_counted() -> None:
    with within(1), pytest.raises(InputError, match=f"more than {MAX_UNKNOWN:,} fields"):
        parse_sentencepiece(b"\x20\x00" * 5_000_000)


BPE = json.loads(checkpoints.bpe_tokenizer())
PADDING = {
    "strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "x",
}  # fmt: skip
SOURCE_OF_8_GB = {"type": "Precompiled", "precompiled_charsmap": "AAAA/wAA/////w=="}
SPLIT = {"type": "Split", "pattern": {"Regex": "(a|aa)+$c"}, "behavior": "Isolated", "invert": False}
ONE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
GROWTH = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}

# changes of a tokenizer.json -> what is said of it
DEADLY: dict[str, tuple[dict[str, Any], str]] = {
    "claims 8 GB": (
        {"normalizer": SOURCE_OF_8_GB},
        "dies of it .*memory allocation",
    ),
    "grows": ({"normalizer": {"type": "Sequence", "normalizers": [GROWTH] * 3}}, "dies of it .*memory allocation"),
    "backtracks": ({"pre_tokenizer": SPLIT}, "rejects it: Onig"),
    "doubles and doubles": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BPE["pre_tokenizer"]] * 40}},
        "dies of it .*memory allocation|takes more than",
    ),
    "unknown fields": ({"x": [{}] * 1000}, "rejects it"),
    "no model": ({"model": 3}, "rejects it"),
}  # fmt: skip


def tokenizer(**changes: Any) -> bytes:
    return json.dumps({**BPE, **changes}).encode()


@pytest.mark.parametrize("name", DEADLY)
def test_a_tokenizer_that_kills_the_library_does_so_elsewhere(name: str) -> None:
    changes, message = DEADLY[name]
    with pytest.raises(InputError, match=message) as caught:
        try_tokenizer_json(tokenizer(**changes), "tokenizer.json")
    assert caught.value.message.isprintable()
    assert caught.value.path == "tokenizer.json"


@pytest.mark.parametrize("name", DEADLY)
def test_whatever_is_unusual_is_tried_first(name: str) -> None:
    with pytest.raises(InputError, match="tokenizers library"):
        load_tokenizer_json(tokenizer(**DEADLY[name][0]))


@pytest.mark.parametrize(
    ("changes", "tried"),
    [
        ({}, False),
        ({"normalizer": {"type": "NFC"}, "truncation": {"max_length": 0}, "padding": PADDING}, False),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, ONE]}}, False),
        ({"normalizer": {"type": "Sequence", "normalizers": [ONE, ONE]}}, True),
        ({"normalizer": {**ONE, "content": "▁" * 5}}, True),
        ({"normalizer": {"type": "Lowercase"}}, True),
        ({"normalizer": {"type": ["NFC"]}}, True),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BPE["pre_tokenizer"]] * 40}}, True),
        ({"pre_tokenizer": {**SPLIT, "pattern": {"Regex": "a"}}}, True),
        ({"pre_tokenizer": {**SPLIT, "pattern": {"Regex": known_patterns()[0]}}}, False),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, False),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}}, True),
    ],
)
def test_what_is_tried_first(changes: dict[str, Any], tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(native, "try_tokenizer_json", lambda data, name: asked.append(name))
    native.require_harmless(tokenizer(**changes), "tokenizer.json")
    assert bool(asked) == tried


def test_a_sound_tokenizer_passes_its_trial() -> None:
    try_tokenizer_json(tokenizer(), "tokenizer.json")
    try_tokenizer_json(tokenizer(padding=PADDING), "tokenizer.json")  # which nobody asks for


LIMITED = """
import resource, sys
from quantkit.errors import QuantkitError
from quantkit.tokenizer.native import try_tokenizer_json
resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
try:
    try_tokenizer_json(sys.stdin.buffer.read(), "tokenizer.json")
except QuantkitError as error:
    print(type(error).__name__)
else:
    print("read")
"""


@pytest.mark.parametrize(("changes", "outcome"), [({}, "read"), ({"normalizer": SOURCE_OF_8_GB}, "ResourceError")])
def test_limits_that_are_lower_already_stay(changes: dict[str, Any], outcome: str) -> None:
    root = Path(checkpoints.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], input=tokenizer(**changes), capture_output=True, check=True, cwd=root
    )
    assert done.stdout.decode().strip() == outcome


class PanicException(BaseException):
    """Named as pyo3's."""


def test_a_panic_is_an_error_of_the_file() -> None:
    with pytest.raises(InputError, match="tokenizers library gives up: at the disco"), no_panic("tokenizer.json"):
        raise PanicException("at the disco")
    with pytest.raises(InputError, match="gives up: Unk token"), no_panic("tokenizer.json"):
        raise Exception("Unk token is not there")  # noqa: TRY002 - as the library does
    with pytest.raises(ValueError, match="ours"), no_panic("tokenizer.json"):
        raise ValueError("ours")
    with pytest.raises(KeyboardInterrupt), no_panic("tokenizer.json"):
        raise KeyboardInterrupt
