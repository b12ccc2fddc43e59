"""What llama.cpp takes for granted: published models meet it or are known not to; made-up ones are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.assumptions import engine_warnings, rotation_warnings
from quantkit.families.describe import find_family
from quantkit.families.hparams import read_hparams
from quantkit.families.keys import architecture_metadata
from quantkit.families.known import known_families
from quantkit.families.rows import Family

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
    "Llama 4 Scout": ("Llama4", {"attention_chunk_size": 8192, "use_qk_norm": True, "num_local_experts": 16}),
    "Llama 4 Maverick": ("Llama4", {"use_qk_norm": False, "num_local_experts": 128, "interleave_moe_layer_step": 2,
                                    "no_rope_layers": [1, 1, 1, 0] * 12}),
    "Gemma 4 26B": ("Gemma4", {"use_bidirectional_attention": "vision", "hidden_activation": "gelu_pytorch_tanh"}),
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
    "Trinity": ("Afmoe", {"mup_enabled": True, "global_attn_every_n_layers": 4, "hidden_act": "silu"}),
    "K-EXAONE": ("ExaoneMoe", {"sliding_window": 128, "sliding_window_pattern": "LLLG"}),
    "North": ("Cohere2Moe", {"dense_layers": 1, "expert_selection_fn": "sigmoid", "norm_topk_prob": False}),
    "MPT 7B": ("MPT", {"hidden_size": 256, "num_attention_heads": 4, "softmax_scale": None}),
    "Chameleon": ("Chameleon", {"vocab_size": 65536, "vocabulary_map": {f"IMGIMG{n}": n for n in range(4, 8196)}}),
    "Phi-4": ("Phi3", {"sliding_window": None, "max_position_embeddings": 16384}),
}  # fmt: skip
DIFFERENT: dict[str, tuple[str, dict[str, Any], str]] = {
    "Mistral v0.1": ("Mistral", {"sliding_window": 4096, "max_position_embeddings": 32768}, "sliding_window 4096"),
    "Phi-3 mini 4k": ("Phi3", {"sliding_window": 2047, "max_position_embeddings": 4096}, "sliding_window 2047"),
    "window switched on": ("Qwen3", {"use_sliding_window": True, "sliding_window": 9}, "sliding_window 9"),
    "unnormalized router": ("Qwen3Moe", {"norm_topk_prob": False}, "norm_topk_prob"),
    "router by default": ("Qwen3Moe", {}, "norm_topk_prob"),
    "norms after": ("Chameleon", {"swin_norm": True}, "swin_norm is set"),
    "images elsewhere": ("Chameleon", {"vocabulary_map": {"IMGIMGAZ": 7}}, "none of the tokens 4 to 8,195"),
    "activation": ("Llama", {"hidden_act": "gelu"}, 'hidden_act is "gelu", it computes silu'),
    "activation of Gemma": ("Gemma2", {**GEMMA2, "hidden_activation": "gelu"}, "computes gelu_pytorch_tanh"),
    "scale": ("Gemma2", {**GEMMA2, "query_pre_attn_scalar": 224}, "query_pre_attn_scalar is 224, it scales by 256"),
    "scale by default": ("Gemma3", {"head_dim": 128}, "query_pre_attn_scalar is 256, it scales by 128"),
    "layers": ("Gemma2", {**GEMMA2, "layer_types": ["full_attention"] * 26}, "layer_types"),
    "pattern": ("Gemma3", {"sliding_window_pattern": 4}, "sliding_window_pattern is 4, it takes 6"),
    "softcap": ("Gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50"),
    "muP": ("Afmoe", {}, "mup_enabled is not set"),
    "period of windows": ("Afmoe", {"mup_enabled": True, "global_attn_every_n_layers": 2}, "layers is 2, it takes 4"),
    "letters": ("ExaoneMoe", {"sliding_window_pattern": "LLG"}, "sliding_window_pattern is LLG, it takes 4"),
    "softmax": ("Cohere2Moe", {"norm_topk_prob": False}, "it takes one over all"),
    "rotated": ("Cohere2Moe", {"dense_layers": 1, "prefix_dense_sliding_window_pattern": 2}, "rotates all dense"),
    "chunks": ("Llama4", {"attention_chunk_size": 4096}, "attention_chunk_size is 4096, it takes 8192"),
    "layers without rotation": ("Llama4", {"no_rope_layers": [1] * 48}, "no_rope_layers are not every fourth"),
    "their interval": ("Llama4", {"no_rope_layer_interval": 6}, "no_rope_layer_interval is not 4"),
    "layers in chunks": ("Llama4", {"layer_types": ["chunked_attention"] * 48}, "layer_types are not three of four"),
    "norms": ("Llama4", {"use_qk_norm": True, "num_local_experts": 128}, "use_qk_norm is True, it takes False"),
    "no tuning": ("Llama4", {"attn_temperature_tuning": False}, "attn_temperature_tuning is off"),
    "tuning": ("Llama4", {"floor_scale": 4096}, "floor_scale is 4096, it takes 8192"),
    "sharing": ("Gemma3n", {"first_shared": 10}, "num_kv_shared_layers is 25, it takes 15"),
    "sparsity": ("Gemma3n", {"activation_sparsity_pattern": [0.5] * 35}, "activation_sparsity_pattern is not 0.95"),
    "rank": ("Gemma3n", {"laurel_rank": 32}, "laurel_rank is 32, it takes 64"),
    "both ways": ("Gemma4", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention is all"),
    "rotation": ("HYV4", {}, "transformers 5.24 rotates halves of a head"),
    "norms and weights": ("PhiMoE", {}, "its norms take no mean away, and the weights of the two chosen experts"),
    "what the MLP reads": ("Chameleon", {"swin_norm": True}, "without the residual"),
    "softmax scale": ("MPT", {"softmax_scale": 0.5}, "softmax_scale is 0.5, it scales scores by 0.0883883"),
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


@pytest.mark.parametrize(("said", "told"), [(None, False), ("gelu", False), ("relu", True), ("silu", True)])
def test_what_the_head_of_a_reranker_computes_is_named(said: str | None, told: bool) -> None:
    family, _ = find_family({"architectures": ["ModernBertForSequenceClassification"]})
    config = {} if said is None else {"classifier_activation": said}
    found = list(engine_warnings(family.assumes, read_hparams(config, family.defaults["modernbert"])))
    words = f'llama.cpp will compute something else: classifier_activation is "{said}", it computes gelu'
    assert found == ([("engine-differs", words)] if told else [])


@pytest.mark.parametrize("value", [False, True, "4096", [], {}, float("nan"), 10**400])
def test_odd_numbers_are_not_refused(value: object) -> None:
    odd = {"query_pre_attn_scalar": value, "attn_logit_softcapping": value, "sliding_window": value}
    for name in ("Mistral", "Gemma3", "Qwen3", "Phi3"):
        warnings_of(name, {**odd, "use_sliding_window": True, "layer_types": value, "hidden_act": value})


def rotation_of(architecture: str, config: dict[str, Any]) -> list[str]:
    """What is said of the rotation of a checkpoint, whose other numbers are the defaults."""
    family, _ = find_family({"architectures": [architecture], **config})
    hparams = family.hparams(config)
    written = architecture_metadata(family.gguf, family.keys, hparams)
    factors = bool(family.extra and family.extra(hparams))
    return [text for _, text in rotation_warnings(hparams, written, factors=factors)] if family.rotates else []


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "config", "told"),
    [
        ("GPTNeoXForCausalLM", {"rotary_emb_base": 25000}, "rope_theta is 25000, it takes 10000"),
        ("GPTNeoXForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling is linear"),
        ("PhiForCausalLM", {"rope_theta": 1e6}, "rope_theta is 1e+06, it takes 10000"),
        ("StableLmForCausalLM", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope scaling is linear"),
        ("OrionForCausalLM", {"rope_theta": 5e4}, "rope_theta is 50000"),
        ("OlmoForCausalLM", {"rope_scaling": LLAMA3}, "rope scaling is llama3"),
    ],
)
def test_a_rotation_that_the_file_cannot_say_is_told(architecture: str, config: dict[str, Any], told: str) -> None:
    [text] = rotation_of(architecture, config)
    assert told in text


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("LlamaForCausalLM", {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("Qwen2ForCausalLM", {"rope_theta": 1e6, "rope_scaling": YARN}),
        ("GPTNeoXForCausalLM", {"rope_scaling": {"type": "linear", "factor": 1.0}}),
        ("GPT2LMHeadModel", {"rope_theta": 7.0}),
        ("BloomForCausalLM", {"rope_theta": 7.0}),
    ],
)
def test_a_rotation_that_the_file_says_is_not_told(architecture: str, config: dict[str, Any]) -> None:
    assert rotation_of(architecture, config) == []


ROTATING = [f for f in known_families() if f.rotates and f.when is None]
WITH_LISTS = {
    "mrope_section",
    "layer_types",
    "full_attn_idxs",
    "num_query_heads",
    "target_layer_ids",  # of drafts
    "hidden_act",  # of BitNet's class, which llama.cpp does not compute
}  # which defaults do not have, and without which nothing is described


@pytest.mark.parametrize("family", ROTATING, ids=lambda family: family.name)
def test_no_family_differs_by_its_own_defaults(family: Family) -> None:
    for model_type in family.defaults:
        try:
            hparams = family.hparams({"model_type": model_type})
            written = architecture_metadata(family.gguf, family.keys, hparams)
        except (InputError, UnsupportedError) as error:
            assert error.key in WITH_LISTS, error
            pytest.skip(f"needs {error.key}")
        assert rotation_warnings(hparams, written, factors=False) == ()


def test_blocks_of_ling_that_predict_further_tokens_are_refused() -> None:
    family, _ = find_family({"architectures": ["BailingMoeV2ForCausalLM"]})
    assert family.hparams({}).number("num_nextn_predict_layers") is None
    with pytest.raises(UnsupportedError, match="num_nextn_predict_layers"):
        family.hparams({"num_nextn_predict_layers": 1})
