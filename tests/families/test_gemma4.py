"""Gemma 4's numbers, which transformers 5 writes layer by layer and Google once for all global layers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from described import describe_infos
from row_headers import headers

from quantkit.errors import InputError, QuantkitError
from quantkit.families.describe import find_family
from quantkit.tensors import TensorInfo

SLIDING, FULL = "sliding_attention", "full_attention"
CONFIG: dict[str, Any] = {
    "architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", "hidden_size": 64, "vocab_size": 256,
    "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_size_per_layer_input": 32, "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True, "layer_types": [SLIDING, FULL] * 2, "vocab_size_per_layer_input": 256,
}  # fmt: skip
LAYERS = {"per_layer_config": {"1": {"head_dim": 32}, "3": {"head_dim": 32}}}
GOOGLE = {"global_head_dim": 32, "num_global_key_value_heads": None}


def tensors(config: dict[str, Any]) -> dict[str, TensorInfo]:
    family = find_family(config).family
    return {info.name: info for info in headers(family, family.hparams(config))}


def keys(config: dict[str, Any]) -> dict[str, Any]:
    model = describe_infos(tensors(config), config)
    return {kv.key.removeprefix("gemma4."): kv.value for kv in model.metadata}


def test_both_spellings_are_one_model() -> None:
    one, other = ({**CONFIG, **said} for said in (LAYERS, GOOGLE))
    assert tensors(one) == tensors(other)
    assert keys(one) == keys(other)
    caches = [describe_infos(tensors(config), config).shape.cache for config in (one, other)]
    assert caches[0] == caches[1]
    assert caches[0].shared == 2
    assert [layer.rows[0] for layer in caches[0].layers] == [(2, 16), (2, 32)]
    assert keys(one)["attention.key_length"] == 32
    assert keys(one)["feed_forward_length"] == (96, 96, 192, 192)


def test_global_layers_may_have_other_heads_without_values() -> None:
    said = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "global_head_dim": 32, "num_kv_shared_layers": 0}
    config = {**CONFIG, **said}
    names = {name for name in tensors(config) if name.endswith("v_proj.weight")}
    assert names == {f"model.layers.{layer}.self_attn.v_proj.weight" for layer in (0, 2)}
    assert keys(config)["attention.head_count_kv"] == (2, 1, 2, 1)


def test_sharing_layers_may_have_keys_and_values_of_their_own() -> None:
    """As Google published the small models; llama.cpp takes them and does not read them."""
    config = {**CONFIG, **GOOGLE}
    infos = tensors(config)
    own = [info for name, info in infos.items() if ".layers.0.self_attn." in name and name.split(".")[-2][0] in "kv"]
    own = [info for info in own if "proj" in info.name or "k_norm" in info.name]
    added = {i.name.replace(".0.", ".2."): TensorInfo(i.name.replace(".0.", ".2."), i.dtype, i.shape, 0) for i in own}
    names = {t.name for t in describe_infos({**infos, **added}, config).tensors}
    assert {"blk.2.attn_k.weight", "blk.2.attn_v.weight", "blk.2.attn_k_norm.weight"} <= names
    assert "blk.3.attn_k.weight" not in names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"per_layer_config": {"1": {"head_dim": 32}, "3": {"head_dim": 64}}}, "unlike head_dim"),
        (
            {"per_layer_config": {"0": {"head_dim": 32}, "1": {"head_dim": 32}, "3": {"head_dim": 32}}},
            "unlike head_dim",
        ),
        ({"per_layer_config": {"1": {"head_dim": "x"}, "3": {"head_dim": "x"}}}, "head_dim is 'x'"),
        ({"per_layer_config": [32]}, "per_layer_config expected an object"),
        ({"layer_types": [SLIDING, FULL, "chunked", FULL]}, '"chunked" for layer 2'),
        ({"rope_parameters": {FULL: {"rope_type": "yarn", "factor": 2.0}}}, 'rope scaling "yarn" of the global layers'),
        (
            {"rope_parameters": {FULL: {"rope_type": "proportional", "partial_rotary_factor": 3}}},
            "partial_rotary_factor is 3",
        ),
    ],
)
def test_odd_numbers_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(QuantkitError, match=words):
        describe_infos(tensors({**CONFIG, **LAYERS}), {**CONFIG, **LAYERS, **changes})


def test_a_tower_is_left_out_with_a_reason() -> None:
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4",
        "text_config": {**CONFIG, **GOOGLE, "architectures": None},
    }  # fmt: skip
    infos = tensors(config)
    text = {n.replace("model.", "model.language_model.", 1): i for n, i in infos.items()}
    text = {n: TensorInfo(n, i.dtype, i.shape, 0) for n, i in text.items()}
    towers = ("vision_tower.x.weight", "embed_vision.y.weight", "audio_tower.z.input_max", "embed_audio.w.weight")
    beside = {
        f"model.{name}": TensorInfo(f"model.{name}", "BF16", () if "max" in name else (8, 8), 0) for name in towers
    }
    model = describe_infos({**text, **beside}, json.loads(json.dumps(config)))
    assert set(model.dropped) == set(beside)
    with pytest.raises(InputError, match="no tensor"):
        describe_infos({n: i for n, i in text.items() if "layers.3.mlp.up_proj" not in n}, config)
