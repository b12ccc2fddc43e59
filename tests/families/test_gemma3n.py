"""Gemma 3n as transformers 5 saves it, and numbers of it that contradict each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import family_table
import numpy as np
import pytest
from commands import quantkit
from described import describe_infos
from family_table import TABLE
from oracles import ggml
from row_headers import headers

from quantkit.errors import QuantkitError
from quantkit.families.describe import find_family
from quantkit.families.parts import Zeros
from quantkit.tensors import TensorInfo

CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text", "hidden_size": 256, "vocab_size": 2048,
    "vocab_size_per_layer_input": 2000, "intermediate_size": 256, "num_hidden_layers": 10, "head_dim": 32,
    "num_kv_shared_layers": 3,
}  # fmt: skip
FAMILY = find_family(CONFIG).family


def tensors(config: dict[str, Any]) -> dict[str, TensorInfo]:
    return {info.name: info for info in headers(FAMILY, FAMILY.hparams(config))}


@pytest.mark.slow
def test_what_nothing_reads_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp wants keys and values of all layers: it gets zeros, and computes the same."""
    logits = {}
    for name, entry in (("gemma3n", TABLE["gemma3n"]), ("gemma3n-lacking", replace(TABLE["gemma3n"], published=None))):
        monkeypatch.setitem(family_table.TABLE, "gemma3n", entry)
        folder = family_table.build("gemma3n", tmp_path / name)
        ran = quantkit("convert", folder, "--to", "q8_0", "-o", tmp_path / f"{name}.gguf")
        assert ran.status == 0, ran.stderr
        with ggml.Model(tmp_path / f"{name}.gguf") as loaded:
            logits[name] = loaded.last_logits(list(range(3, 90)))
    assert np.array_equal(logits["gemma3n"], logits["gemma3n-lacking"])


def test_zeros_are_where_nothing_reads_and_where_tokens_have_no_vector() -> None:
    model = describe_infos(tensors(CONFIG), CONFIG)
    zeros = {t.name: t.shape for t in model.tensors if any(isinstance(part, Zeros) for part in t.parts)}
    assert zeros == {
        "per_layer_token_embd.weight": (2048, 2560),
        **{f"blk.{layer}.attn_k.weight": (64, 256) for layer in (7, 8, 9)},
        **{f"blk.{layer}.attn_v.weight": (64, 256) for layer in (7, 8, 9)},
        **{f"blk.{layer}.attn_k_norm.weight": (32,) for layer in (7, 8, 9)},
    }
    table = next(t for t in model.tensors if t.name == "per_layer_token_embd.weight")
    assert [part.rows for part in table.parts] == [2000, 48]


def test_one_sharing_layer_with_keys_needs_them_in_all() -> None:
    infos = tensors(CONFIG)
    own = {n: i for n, i in infos.items() if n.startswith("model.layers.0.self_attn.k_")}
    moved = {
        n.replace("layers.0.", "layers.7."): replace(i, name=n.replace("layers.0.", "layers.7."))
        for n, i in own.items()
    }
    with pytest.raises(QuantkitError, match=r"layers\.[789]\.self_attn\.[kv]"):
        describe_infos({**infos, **moved}, CONFIG)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"altup_num_inputs": 3}, "altup_num_inputs is 3"),
        ({"intermediate_size": [256] * 9 + [512]}, "intermediate_size differs from layer to layer"),
        ({"intermediate_size": [256] * 9}, "intermediate_size is no list of 10 numbers"),
        ({"activation_sparsity_pattern": [0.95]}, "activation_sparsity_pattern is no list of 10 numbers"),
        ({"activation_sparsity_pattern": [1.0] * 10}, "activation_sparsity_pattern has 1, expected 0 to 1"),
        ({"activation_sparsity_pattern": ["x"] * 10}, "activation_sparsity_pattern is 'x'"),
        ({"layer_types": ["sliding_attention"] * 9}, "layer_types has 9 entries"),
    ],
)
def test_odd_numbers_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(QuantkitError, match=words):
        describe_infos(tensors(CONFIG), {**CONFIG, **changes})
