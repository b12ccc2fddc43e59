"""Hybrids: how config.json says the kinds of layers, other spellings of names, and numbers multiplied into weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from described import Tokens, evaluate
from family_table import (
    FALCON_H1,
    GRANITE_H,
    KIMI_LINEAR,
    NEMOTRON_3,
    NEMOTRON_H,
    RWKV6,
    RWKV7,
    TABLE,
    WITHOUT_EXPERTS,
)
from row_headers import headers

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.families.describe import describe, find_family
from quantkit.families.describe_gguf import describe_gguf
from quantkit.families.model import Model
from quantkit.tensors import F32, TensorInfo

NEMOTRON = {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h"}
DENSE = {**NEMOTRON, **NEMOTRON_H, "hybrid_override_pattern": "M-M*-"}
MIXTURE = {**NEMOTRON, **NEMOTRON_3}
GRANITE = {"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid", **GRANITE_H}
FALCON = {"architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1", **FALCON_H1}
KIMI = {"architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear", **KIMI_LINEAR}
KIMI_LISTS = {
    "full_attn_layers": [3], "kda_layers": [1, 2, 4], "head_dim": 256, "num_heads": 2, "short_conv_kernel_size": 4,
}  # fmt: skip
JAMBA = {
    "architectures": ["JambaForCausalLM"], "model_type": "jamba", "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 3,
}  # fmt: skip


def tensors_of(config: Mapping[str, Any]) -> dict[str, TensorInfo]:
    family = find_family(config).family
    return {info.name: info for info in headers(family, family.hparams(config))}


def model_of(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo] | None = None) -> Model:
    given = tensors_of(config) if tensors is None else tensors
    named = find_family(config)
    return describe(given, config, lambda name: None, named, Tokens(config["vocab_size"]), name="x")


def renamed(tensors: Mapping[str, TensorInfo], old: str, new: str) -> dict[str, TensorInfo]:
    found = {name.replace(old, new): info for name, info in tensors.items()}
    assert found.keys() != tensors.keys()
    return {n: TensorInfo(n, info.dtype, info.shape, info.nbytes) for n, info in found.items()}


def without(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "silu"), ("moe_router_activation_func", "softmax"), ("mla_use_nope", False)]
)
def test_what_llama_cpp_does_not_compute_in_kimi_k3_is_refused(key: str, value: object) -> None:
    config = {**TABLE["kimi-k3"].config, "text_config": {**TABLE["kimi-k3"].config["text_config"], key: value}}
    with pytest.raises(UnsupportedError, match=f"{key} is {value!r}, llama.cpp computes"):
        find_family(config).family.hparams(config)


@pytest.mark.parametrize(
    ("name", "key", "value", "what"),
    [
        ("bitnet", "hidden_act", "relu2", 'hidden_act is "relu2", llama.cpp computes silu'),
        ("bitnet", "tie_word_embeddings", False, "the output head is a matrix of its own"),
        ("minimax-01", "layer_types", ["full_attention"] * 8, "other layers attend than the last of every 8"),
        ("minimax-01", "mlp_alpha_factor", 2.5, "residuals are scaled by several numbers"),
        ("minimax-01", "mlp_alpha_factor", 0, "residuals are scaled by several numbers"),
        ("minimax-01", "mlp_beta_factor", 2.5, "residuals are scaled by several numbers"),
        ("minimax-01", "mlp_beta_factor", 0, "residuals are scaled by several numbers"),
        ("arwkv-7", "wkv_version", 6, "wkv_version is 6, llama.cpp runs 7"),
    ],
)
def test_what_llama_cpp_takes_for_granted_is_refused_otherwise(name: str, key: str, value: object, what: str) -> None:
    entry = TABLE[name]
    config = {**entry.config, "architectures": [entry.architecture], key: value}
    with pytest.raises(UnsupportedError, match=what):
        find_family(config).family.hparams(config)


@pytest.mark.parametrize("listed", [[[1]] * 8, [2] * 8, ["1"] * 8])
def test_kinds_of_layers_of_minimax_are_zeros_and_ones(listed: list[object]) -> None:
    entry = TABLE["minimax-01"]
    config = {**without(entry.config, "layer_types"), "architectures": [entry.architecture], "attn_type_list": listed}
    with pytest.raises(InputError, match=r"attn_type_list is .*, expected 0 or 1 for each layer"):
        find_family(config).family.hparams(config)


def test_residuals_of_minimax_that_are_left_out_are_scaled_by_nothing() -> None:
    entry = TABLE["minimax-01"]
    alphas = dict.fromkeys(("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor"), 0)
    config = {**entry.config, "architectures": [entry.architecture], **alphas}
    assert find_family(config).family.hparams(config).number("residual") == 0


def test_norms_of_the_first_bitnet_are_those_of_transformers() -> None:
    config = {**TABLE["bitnet"].config, "architectures": ["BitnetForCausalLM"]}
    tensors = tensors_of(config)
    again = renamed(renamed(tensors, "attn_sub_norm", "inner_attn_ln"), "ffn_sub_norm", "ffn_layernorm")
    assert {t.name for t in model_of(config, tensors).tensors} == {t.name for t in model_of(config, again).tensors}


OF_CLASS = {"num_experts_per_tok": 2, "n_routed_experts": 8, "moe_intermediate_size": 7688, "norm_topk_prob": True}
LISTED = {
    **without(DENSE, "hybrid_override_pattern", "num_hidden_layers"), **OF_CLASS,
    "layers_block_type": ["linear_attention", "mlp", "linear_attention", "full_attention", "mlp"],
}  # fmt: skip
LFM2 = {
    "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 96, "block_multiple_of": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
FALCON_GROUPS = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "num_kv_heads": 2,
    "new_decoder_architecture": True, "architectures": ["FalconForCausalLM"], "model_type": "falcon",
}  # fmt: skip
FIRST_FALCON = {
    "vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 8, "alibi": False, "bias": False,
    "parallel_attn": True, "architectures": ["RWForCausalLM"],
}  # fmt: skip
SAME: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "as transformers 5 saves it": (DENSE, LISTED),
    "as transformers 4 called the kinds": (
        DENSE, {**LISTED, "layers_block_type": ["mamba", "mlp", "mamba", "attention", "mlp"]}
    ),
    "a number of layers that nobody reads": (DENSE, {**LISTED, "num_hidden_layers": 52}),
    "both ways": (DENSE, {**DENSE, **LISTED}),
    "heads by their old name": (DENSE, {**without(DENSE, "head_dim"), "attention_head_dim": 64}),
    "a mixture by its list": (
        MIXTURE, {**without(MIXTURE, "hybrid_override_pattern"),
                  "layers_block_type": ["linear_attention", "moe", "linear_attention", "full_attention", "moe"]}
    ),
    "Kimi Linear's own lists": (
        {**KIMI, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        {**without(KIMI, "layer_types", "linear_head_dim", "linear_num_heads"), "linear_attn_config": KIMI_LISTS},
    ),
    "Kimi Linear's default": (
        {**KIMI, "num_hidden_layers": 6,
         "layer_types": [*["linear_attention"] * 4, "full_attention", "linear_attention"]},
        {**without(KIMI, "layer_types"), "num_hidden_layers": 6},
    ),
    "LFM2 as first published": (
        {**LFM2, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
        {**without(LFM2, "intermediate_size"), "block_ff_dim": 96, "full_attn_idxs": [1, 3], "tie_embedding": True},
    ),
    "LFM2's default": ({**LFM2, "layer_types": ["full_attention"] * 4}, LFM2),
    "Falcon 40B as first published": (
        FALCON_GROUPS, {**FIRST_FALCON, "model_type": "RefinedWeb", "n_head_kv": 2},
    ),
    "Falcon 7B as first published": (
        {**without(FALCON_GROUPS, "num_kv_heads", "new_decoder_architecture"), "multi_query": True},
        {**FIRST_FALCON, "model_type": "RefinedWebModel", "multi_query": True},
    ),
    "Granite in the words of transformers 5": (
        GRANITE, {**GRANITE, "layer_types": ["linear_attention", "full_attention", "linear_attention"]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_the_same_model_said_otherwise_is_the_same_file(case: str) -> None:
    one, other = (model_of(config, tensors_of(SAME[case][0])) for config in SAME[case])
    assert (other.gguf_architecture, other.tensors) == (one.gguf_architecture, one.tensors)
    assert set(other.metadata) == set(one.metadata)


def test_a_mixture_is_one_by_its_layers() -> None:
    assert model_of(DENSE).gguf_architecture == "nemotron_h"
    assert "expert" not in " ".join(kv.key for kv in model_of(LISTED).metadata)
    assert model_of(LISTED).shape.experts == 0
    assert model_of(MIXTURE).gguf_architecture == "nemotron_h_moe"


ALL_ATTENTION = {"layer_types": ["attention"] * 3}
CHOSEN = {
    "granitehybrid": GRANITE,
    "granitemoe": {**GRANITE, **ALL_ATTENTION},
    "granite": {**GRANITE, **ALL_ATTENTION, **WITHOUT_EXPERTS},
}


@pytest.mark.parametrize("architecture", CHOSEN)
def test_granite_4_is_what_its_layers_are(architecture: str) -> None:
    assert model_of(CHOSEN[architecture]).gguf_architecture == architecture


WRONG: dict[str, tuple[Mapping[str, Any], type[QuantkitError], str]] = {
    "a number of no layer": ({**LFM2, "full_attn_idxs": [1, 4]}, InputError, "full_attn_idxs is .* 0 to 3"),
    "no list of layers": ({**LFM2, "full_attn_idxs": "1, 3"}, InputError, "expected numbers of layers"),
    "ways that differ": ({**LISTED, "hybrid_override_pattern": "M-M**"}, InputError, "differ in layer 4"),
    "lengths that differ": ({**LISTED, "hybrid_override_pattern": "M-M*"}, InputError, "4 entries"),
    "an unknown letter": ({**DENSE, "hybrid_override_pattern": "M-X*-"}, InputError, '"X" for layer 2'),
    "an unknown word": ({**LISTED, "layers_block_type": ["mlp", "rwkv"]}, InputError, '"rwkv" for layer 1'),
    "no kinds": (without(DENSE, "hybrid_override_pattern"), InputError, "hybrid_override_pattern is missing"),
    "too short": ({**DENSE, "num_hidden_layers": 6}, InputError, "5 entries, expected one for each of 6"),
    "experts beside MLPs": ({**MIXTURE, "hybrid_override_pattern": "ME-*E"}, UnsupportedError, "none is an MLP"),
    "an inner width of three": ({**GRANITE, "mamba_n_heads": 12}, UnsupportedError, "twice hidden_size"),
    "heads that are no mixer": ({**FALCON, "mamba_n_heads": 7}, InputError, "7 heads of 64"),
    "a list too short": ({**FALCON, "ssm_multipliers": [1.0, 2.0]}, InputError, "expected 5 numbers"),
    "a list of layers that is none": (
        {**KIMI, "layer_types": None, "linear_attn_config": {**KIMI_LISTS, "full_attn_layers": 3}}, InputError,
        "no list of layers from 1 to 4",
    ),
    "a layer beyond the last": (
        {**KIMI, "layer_types": None, "linear_attn_config": {**KIMI_LISTS, "full_attn_layers": [5]}}, InputError,
        "no list of layers from 1 to 4",
    ),
    "a layer of both kinds": (
        {**KIMI, "layer_types": None, "linear_attn_config": {**KIMI_LISTS, "kda_layers": [1, 2, 3, 4]}}, InputError,
        "do not name layer 3 once",
    ),
    "a layer of no kind": (
        {**KIMI, "layer_types": None, "linear_attn_config": {**KIMI_LISTS, "kda_layers": [1, 2]}}, InputError,
        "do not name layer 4 once",
    ),
    "compressed queries": ({**KIMI, "q_lora_rank": 64}, UnsupportedError, "compressed row"),
    "other heads in linear layers": ({**KIMI, "linear_num_heads": 3}, UnsupportedError, "3 heads and the others 2"),
    "an MLP after experts": (
        {**KIMI, "mlp_layer_types": ["dense", "sparse", "dense", "sparse"]}, UnsupportedError, "only before all"
    ),
    "attention in RWKV": ({**RWKV7, "attn": {"layers": [1]}}, UnsupportedError, "layers are of attention"),
    "a negative rescaling": ({**RWKV6, "rescale_every": -1}, InputError, "rescale_every is -1"),
    "a multiplier that is none": ({**FALCON, "ssm_multipliers": [1, 1, 1, 1, "x"]}, InputError, "of_dt is 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_configuration_that_does_not_fit_is_explained(case: str) -> None:
    config, error, message = WRONG[case]
    base = next(
        c
        for c in (DENSE, MIXTURE, GRANITE, FALCON, KIMI, LFM2, RWKV6, RWKV7)
        if c["architectures"] == config["architectures"]
    )
    with pytest.raises(error, match=message):
        model_of(config, tensors_of(base))


WARNED: dict[str, tuple[Mapping[str, Any], str]] = {
    "steps": ({**DENSE, "time_step_limit": [0.001, 0.1]}, "time_step_limit"),
    "a gate after its norm": ({**FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": True}, "gates first"),
    "norms without a bias": ({**RWKV7, "norm_bias": False}, "norm_bias is False"),
    "rotation": ({**KIMI, "mla_use_nope": False}, "rotates nothing"),
    "groups of experts": ({**KIMI, "num_expert_group": 2}, "no groups"),
    "weights of experts": ({**KIMI, "moe_renormalize": False}, "it normalizes"),
    "layers without experts": ({**KIMI, "moe_layer_freq": 2}, "moe_layer_freq"),
    "another nonlinearity": ({**DENSE, "mlp_hidden_act": "silu"}, "computes relu2"),
    "another epsilon": (
        {"architectures": ["FalconMambaForCausalLM"], "model_type": "falcon_mamba", "vocab_size": 64}, "mixer_rms_eps"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WARNED)
def test_what_llama_cpp_computes_otherwise_is_said(case: str) -> None:
    config, message = WARNED[case]
    assert any(message in text for code, text in model_of(config).warnings if code == "engine-differs")


@pytest.mark.parametrize("limit", [None, [0.0, float("inf")], [0, {"__float__": "Infinity"}], [0, "Infinity"]])
def test_endless_time_steps_are_no_limit(limit: object) -> None:
    assert not model_of({**DENSE, "time_step_limit": limit}).warnings


SPELLED: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "transformers' names in memory": (MIXTURE, "backbone.", "model."),
    "without its head": (MIXTURE, "backbone.", ""),
    "a bias of the router": (MIXTURE, "e_score_correction_bias", "e_score_correction.bias"),
    "an MLP under the name of experts": (KIMI, "layers.0.mlp.", "layers.0.block_sparse_moe."),
    "experts under the name of an MLP": (KIMI, "block_sparse_moe.gate.", "mlp.gate."),
    "the gate of a linear layer": (KIMI, "self_attn.f_a_proj.", "self_attn.forget_gate.f_a_proj."),
}


@pytest.mark.parametrize("case", SPELLED)
def test_other_names_of_the_same_tensors(case: str) -> None:
    config, old, new = SPELLED[case]
    tensors = tensors_of(config)
    found = model_of(config, renamed(tensors, old, new))
    assert [t.name for t in found.tensors] == [t.name for t in model_of(config, tensors).tensors]
    assert not found.dropped


def test_experts_in_one_stack() -> None:
    tensors = {name: info for name, info in tensors_of(MIXTURE).items() if ".experts." not in name}
    for layer in (1, 4):
        for name in (f"backbone.layers.{layer}.mixer.experts.{part}_proj" for part in ("up", "down")):
            tensors[name] = TensorInfo(name, "BF16", (4, 256, 256), 2 * 4 * 256 * 256)
    found = {t.name: t.shape for t in model_of(MIXTURE, tensors).tensors}
    assert found == {t.name: t.shape for t in model_of(MIXTURE).tensors}


def test_the_first_jambas_call_an_mlp_their_only_expert() -> None:
    tensors = renamed(tensors_of(JAMBA), ".feed_forward.", ".moe.")
    for layer in (0, 2):
        tensors = renamed(tensors, f"layers.{layer}.moe.", f"layers.{layer}.moe.experts.0.")
    assert {t.name for t in model_of(JAMBA, tensors).tensors} == {t.name for t in model_of(JAMBA).tensors}
    extra = "model.layers.2.moe.experts.1.up_proj.weight"
    with pytest.raises(InputError, match="has number 1"):
        model_of(JAMBA, {**tensors, extra: TensorInfo(extra, "BF16", (48, 32), 2 * 48 * 32)})


GROWING: dict[str, tuple[Mapping[str, Any], int, int]] = {
    "Nemotron by letters": (DENSE, 1, 4),
    "Nemotron by a list": (LISTED, 1, 4),
    "Nemotron 3": (MIXTURE, 1, 4),
    "Granite 4 H": (GRANITE, 1, 2),
    "Granite 4": ({**GRANITE, **ALL_ATTENTION}, 3, 0),
    "Falcon-H1": (FALCON, 2, 0),
    "Jamba": (JAMBA, 1, 3),
    "Kimi Linear": ({**without(KIMI, "layer_types"), "linear_attn_config": KIMI_LISTS}, 1, 3),
}


@pytest.mark.parametrize("case", GROWING)
def test_only_layers_of_attention_keep_more_with_every_token(case: str) -> None:
    config, growing, steady = GROWING[case]
    model = model_of(config)
    assert (len(model.shape.cache.layers), model.shape.cache.steady) == (growing, steady)
    infos = {t.name: TensorInfo(t.name, "F32", t.shape, 4) for t in model.tensors}
    found = describe_gguf(infos, model.metadata)
    assert (len(found.shape.cache.layers), found.shape.kv_heads) == (growing, model.shape.kv_heads)


# --- Falcon-H1: numbers multiplied into weights ----------------------------------------------------------------------


def values_of(config: Mapping[str, Any]) -> tuple[dict[str, F32], dict[str, F32]]:
    """The values of the source, and those of the target."""
    rng = np.random.default_rng(3)
    infos = tensors_of(config)
    arrays = {name: rng.standard_normal(info.shape, dtype=np.float32) for name, info in infos.items()}
    typed = {name: ("F32", values) for name, values in arrays.items()}
    return arrays, {t.name: evaluate(t, typed) for t in model_of(config, infos).tensors}


def test_multipliers_are_taken_one_after_the_other_in_float32() -> None:
    source, target = values_of(FALCON)
    f32, block = np.float32, "model.layers.1."
    keys = source[f"{block}self_attn.k_proj.weight"] * f32(0.3) * f32(1.1)
    assert np.array_equal(target["blk.1.attn_k.weight"], keys)
    assert not np.array_equal(keys, source[f"{block}self_attn.k_proj.weight"] * f32(0.3 * 1.1))
    mixer = source[f"{block}mamba.in_proj.weight"] * f32(1.2)
    for start, end, by in ((0, 512, 0.5), (512, 1024, 0.6), (1024, 1056, 0.7), (1056, 1088, 0.8), (1088, 1096, 0.9)):
        mixer[start:end] *= f32(by)
    assert np.array_equal(target["blk.1.ssm_in.weight"], mixer)
    assert np.array_equal(target["blk.1.ffn_up.weight"], source[f"{block}feed_forward.up_proj.weight"])


def test_what_rwkv_6_adds_is_halved_as_often_as_what_it_is_added_to() -> None:
    source, target = values_of(RWKV6)
    for block, halved in enumerate((1.0, 1.0, 0.5, 0.5, 0.25)):
        for name, other in (("attention.output", "time_mix_output"), ("feed_forward.value", "channel_mix_value")):
            expected = source[f"rwkv.blocks.{block}.{name}.weight"] * np.float32(halved)
            assert np.array_equal(target[f"blk.{block}.{other}.weight"], expected)
    source, target = values_of({**RWKV6, "rescale_every": 0})
    assert np.array_equal(target["blk.4.time_mix_output.weight"], source["rwkv.blocks.4.attention.output.weight"])


def test_the_first_layer_of_rwkv_7_has_no_values_of_an_earlier_one() -> None:
    source, target = values_of(RWKV7)
    assert np.array_equal(target["blk.0.time_mix_v1.weight"], source["model.layers.0.attn.a_lora.lora.0.weight"])
    assert np.array_equal(target["blk.1.time_mix_v1.weight"], source["model.layers.1.attn.v_lora.lora.0.weight"])
    unread = "model.layers.0.attn.v_lora.lora.0.weight"
    found = model_of(RWKV7, {**tensors_of(RWKV7), unread: TensorInfo(unread, "BF16", (32, 256), 2 * 32 * 256)})
    assert set(found.dropped) == {unread}


def test_the_widths_of_rwkv_are_computed_where_nothing_says_them() -> None:
    named = find_family(RWKV7).family.hparams(without(RWKV7, *(key for key in RWKV7 if "low_rank" in key)))
    found = [named.count(f"{what}_low_rank_dim") for what in ("decay", "a", "v", "gate")]
    assert found == [32, 32, 32, 64]  # of 256: the nearest multiples of 32 to 28.8, 28.8, 20.8 and 50.6
    assert find_family(RWKV6).family.hparams({**RWKV6, "intermediate_size": None}).count("intermediate_size") == 896


def test_a_tied_head_has_its_own_scale() -> None:
    source, target = values_of({**FALCON, "tie_word_embeddings": True})
    embeddings = source["model.embed_tokens.weight"]
    assert "lm_head.weight" not in source
    assert np.array_equal(target["token_embd.weight"], embeddings * np.float32(3.0))
    assert np.array_equal(target["output.weight"], embeddings * np.float32(0.5))
    same = {**FALCON, "tie_word_embeddings": True, "lm_head_multiplier": 3.0}
    assert "output.weight" not in values_of(same)[1]
