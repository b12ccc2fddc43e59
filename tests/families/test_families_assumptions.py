"""What llama.cpp takes for granted: published models meet it or are known not to; made-up ones are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from quantkit.families.assumptions import engine_warnings
from quantkit.families.describe import find_family
from quantkit.families.hparams import read_hparams

GEMMA2 = {"hidden_size": 2304, "num_attention_heads": 8, "head_dim": 256, "num_hidden_layers": 26}
GEMMA2_27B = {
    "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128, "num_hidden_layers": 46,
    "query_pre_attn_scalar": 144,
}  # fmt: skip
GEMMA3_27B = {
    "hidden_size": 5376, "num_attention_heads": 32, "head_dim": 128, "num_hidden_layers": 62,
    "query_pre_attn_scalar": 168, "sliding_window_pattern": 6,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
SIX = ["sliding_attention"] * 5 + ["full_attention"]
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 3.1": ("Llama", {"hidden_act": "silu", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
    "Mistral v0.3": ("Mistral", {"sliding_window": None, "max_position_embeddings": 32768}),
    "Qwen2.5 7B": ("Qwen2", {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28}),
    "Qwen2.5 with yarn": ("Qwen2", {"rope_scaling": YARN}),
    "Qwen3 30B A3B": ("Qwen3Moe", {"norm_topk_prob": True, "sliding_window": None}),
    "Gemma 2 2B": ("Gemma2", {**GEMMA2, "query_pre_attn_scalar": 256, "hidden_activation": "gelu_pytorch_tanh"}),
    "Gemma 2 27B": ("Gemma2", GEMMA2_27B),
    "Gemma 3 1B": ("Gemma3", {"num_hidden_layers": 26, "query_pre_attn_scalar": 256, "sliding_window_pattern": 6}),
    "Gemma 3 27B": ("Gemma3", GEMMA3_27B),
    "Gemma 3 270M": ("Gemma3", {"num_hidden_layers": 12, "layer_types": SIX * 2, "attn_logit_softcapping": None}),
    "Phi-4": ("Phi3", {"sliding_window": None, "max_position_embeddings": 16384}),
}  # fmt: skip
DIFFERENT: dict[str, tuple[str, dict[str, Any], str]] = {
    "Mistral v0.1": ("Mistral", {"sliding_window": 4096, "max_position_embeddings": 32768}, "sliding_window 4096"),
    "Phi-3 mini 4k": ("Phi3", {"sliding_window": 2047, "max_position_embeddings": 4096}, "sliding_window 2047"),
    "window switched on": ("Qwen3", {"use_sliding_window": True, "sliding_window": 9}, "sliding_window 9"),
    "unnormalized router": ("Qwen3Moe", {"norm_topk_prob": False}, "norm_topk_prob"),
    "router by default": ("Qwen3Moe", {}, "norm_topk_prob"),
    "activation": ("Llama", {"hidden_act": "gelu"}, 'hidden_act is "gelu", it computes silu'),
    "activation of Gemma": ("Gemma2", {**GEMMA2, "hidden_activation": "gelu"}, "computes gelu_pytorch_tanh"),
    "scale": ("Gemma2", {**GEMMA2, "query_pre_attn_scalar": 224}, "query_pre_attn_scalar is 224, it scales by 256"),
    "scale by default": ("Gemma3", {"head_dim": 128}, "query_pre_attn_scalar is 256, it scales by 128"),
    "layers": ("Gemma2", {**GEMMA2, "layer_types": ["full_attention"] * 26}, "layer_types"),
    "pattern": ("Gemma3", {"sliding_window_pattern": 4}, "sliding_window_pattern is 4, it takes 6"),
    "softcap": ("Gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50"),
    "yarn": ("Llama", {"rope_scaling": {**YARN, "attention_factor": 1.0}}, "yarn is 1, it takes 1.139"),
}  # fmt: skip


def warnings_of(name: str, config: dict[str, Any]) -> list[tuple[str, str]]:
    family, _ = find_family({"architectures": [f"{name}ForCausalLM"]})
    model_type = "mistral" if name == "Mistral" else next(iter(family.defaults))
    return list(engine_warnings(family.assumes, read_hparams(config, family.defaults[model_type])))


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_models_meet_the_assumptions(model: str) -> None:
    assert warnings_of(*PUBLISHED[model]) == []


@pytest.mark.parametrize("model", DIFFERENT)
def test_what_differs_is_named(model: str) -> None:
    name, config, words = DIFFERENT[model]
    [(code, message)] = warnings_of(name, config)
    assert code == "engine-differs"
    assert words in message


@pytest.mark.parametrize("value", [False, True, "4096", [], {}, float("nan"), 10**400])
def test_odd_numbers_are_not_refused(value: object) -> None:
    odd = {"query_pre_attn_scalar": value, "attn_logit_softcapping": value, "sliding_window": value}
    for name in ("Mistral", "Gemma3", "Qwen3", "Phi3"):
        warnings_of(name, {**odd, "use_sliding_window": True, "layer_types": value, "hidden_act": value})
