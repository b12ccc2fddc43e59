"""DeepSeek V2 and V3 (Kimi K2), Youtu: keys and values from one compressed row for all heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.layers import before, both, flagged, from_, not_
from quantkit.families.layouts import fold, rows, turn
from quantkit.families.roles import Role
from quantkit.families.rows import (
    FREQUENCIES,
    MLP,
    NORMS,
    OUTSIDE,
    Drop,
    Family,
    T,
    at,
    experts,
    shared_expert,
)

HEADS, NOPE, WIDTH = "num_attention_heads", "qk_nope_head_dim", "qk_nope_head_dim+v_head_dim"
KV_B, QUERIES = f"{HEADS}*({WIDTH}) kv_lora_rank", f"{HEADS}*(qk_nope_head_dim+qk_rope_head_dim)"

ALWAYS_CORRECTED = ("deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa")


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Dense layers first, as many as config.json says, in all layers of a model without experts; compression at all?"""
    dense, trunk = hparams.number("first_k_dense_replace"), hparams.count("num_hidden_layers")
    if dense is None:
        dense = _leading_dense(hparams)
    if dense is None:
        dense = 0 if hparams.number("num_local_experts") else trunk
    return {
        "dense_layers": int(dense),
        "corrected": _corrected(hparams),
        "shares": bool(hparams.number("n_shared_experts")),
        "compressed": hparams.number("q_lora_rank") is not None,
        "one": 1,
        "expert_width": hparams.values.get("moe_intermediate_size", hparams.values.get("intermediate_size")),
    }


def _leading_dense(hparams: Hparams) -> int | None:
    """The dense layers of a list with a word for each layer. Raises InputError for one among the mixtures."""
    words = hparams.values.get("mlp_layer_types")
    if not isinstance(words, list):
        return None
    dense = next((layer for layer, word in enumerate(words) if word != "dense"), len(words))
    if any(word != "sparse" for word in words[dense:]):
        message = 'config.json: mlp_layer_types, expected "dense" first and "sparse" for all others'
        raise InputError(message, key="mlp_layer_types", path="config.json", hint=CONFIG_HINT)
    return dense


def _corrected(hparams: Hparams) -> bool:
    """Whether experts are chosen with a bias: in the model's own code by a word, in transformers' classes always."""
    method = hparams.values.get("topk_method")
    return method == "noaux_tc" or (method is None and hparams.values.get("model_type") in ALWAYS_CORRECTED)


def compressed(hparams: Hparams, layer: int) -> bool:
    """Whether queries, too, come from a compressed row: not in the small models."""
    return hparams.flag("compressed")


def log_multiplier(hparams: Hparams) -> object:
    """yarn's temperature, where it is of all dimensions."""
    for settings in (hparams.values.get("rope_parameters"), hparams.values.get("rope_scaling")):
        if isinstance(settings, Mapping) and settings.get("mscale_all_dim") is not None:
            return 0.1 * Hparams(settings).required("mscale_all_dim")
    return None


ATTENTION = (
    *at(compressed, (
        T("self_attn.q_a_proj.weight", "attn_q_a.weight", Role.OTHER, "q_lora_rank hidden_size", bias="attention_bias"),
        T("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", Role.NORM, "q_lora_rank"),
        T("self_attn.q_b_proj.weight", "attn_q_b.weight", Role.OTHER, f"{QUERIES} q_lora_rank"),
    )),
    *at(not_(compressed), (T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, f"{QUERIES} hidden_size"),)),
    T("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight", Role.OTHER,
      "kv_lora_rank+qk_rope_head_dim hidden_size", bias="attention_bias"),
    T("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", Role.NORM, "kv_lora_rank"),
    T("self_attn.kv_b_proj.weight", "attn_k_b.weight", Role.OTHER, KV_B,
      fold(HEADS, WIDTH) >> rows("0", NOPE) >> turn),
    T("self_attn.kv_b_proj.weight", "attn_v_b.weight", Role.OTHER, KV_B,
      fold(HEADS, WIDTH) >> rows(NOPE, WIDTH)),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, f"hidden_size {HEADS}*v_head_dim",
      bias="attention_bias"),
)  # fmt: skip
CORRECTION = T("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts", optional=True,
               sure=flagged("corrected"))  # fmt: skip
MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    CORRECTION,
    *at(flagged("shares"), shared_expert("n_shared_experts*moe_intermediate_size", "mlp.shared_experts")),
)
KEYS = (
    *keys.without(keys.COMMON, "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *keys.ROUTED,
    keys.Key("attention.head_count_kv", "u32", "one"),
    keys.Key("leading_dense_block_count", "u32", "dense_layers"),
    keys.Key("vocab_size", "u32", "vocab_size"),
    keys.Key("attention.q_lora_rank", "u32", "q_lora_rank"),
    keys.Key("attention.kv_lora_rank", "u32", "kv_lora_rank"),
    keys.Key("attention.key_length", "u32", "kv_lora_rank+qk_rope_head_dim"),
    keys.Key("attention.value_length", "u32", "kv_lora_rank"),
    keys.Key("attention.key_length_mla", "u32", "qk_nope_head_dim+qk_rope_head_dim"),
    keys.Key("attention.value_length_mla", "u32", "v_head_dim"),
    keys.Key("expert_feed_forward_length", "u32", "expert_width"),
    keys.Key("expert_shared_count", "u32", "n_shared_experts", default=0),
    keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
    keys.Key("expert_weights_norm", "bool", "norm_topk_prob", nonzero=True),
    keys.Key("rope.dimension_count", "u32", "qk_rope_head_dim"),
    keys.computed("rope.scaling.yarn_log_multiplier", "f32", log_multiplier),
)
SHARED = {
    "tie_word_embeddings": False, "rope_theta": 10000.0, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip

YOUTU = {  # without experts
    **SHARED, "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 32,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}  # fmt: skip


def sigmoid_or_softmax(hparams: Hparams) -> str | None:
    """Without a key for it, scores are softmaxed."""
    if hparams.values.get("scoring_func") is not None:
        return None
    sigmoid = hparams.values.get("model_type") in ("deepseek_v3", "glm4_moe_lite")
    if hparams.count("num_hidden_layers") in (47, 48) and hparams.number("vocab_size") == 154880:
        return None  # by which llama.cpp knows GLM-4.7-Flash
    return "config.json has no scoring_func, and it takes softmax where a sigmoid is meant" if sigmoid else None


BACK = {
    "attention.value_length_mla": "v_head_dim", "attention.key_length_mla": "qk_head_dim",
    "rope.scaling.yarn_log_multiplier": "file.log_multiplier",
}  # fmt: skip


def version(hparams: Hparams) -> Mapping[str, Any]:
    """What a file says of its heads and of yarn's temperature, as config.json has it.

    V3 scores by a sigmoid and corrects what it chooses by.
    """
    whole, rotated = hparams.number("qk_head_dim"), hparams.number("qk_rope_head_dim")
    if whole is None or rotated is None:
        return {}
    found: dict[str, Any] = {
        "qk_nope_head_dim": int(whole - rotated), "num_key_value_heads": hparams.count("num_attention_heads"),
        "head_dim": int(rotated), "partial_rotary_factor": None,
    }  # fmt: skip
    if hparams.values.get("num_local_experts") is None:
        found |= {"architectures": ["YoutuForCausalLM"], "model_type": "youtu"}
    elif hparams.values.get("scoring_func") != "sigmoid":
        found |= {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "topk_method": "greedy"}
    tempered, scaling = hparams.number("file.log_multiplier"), hparams.values.get("rope_scaling")
    if tempered is not None and isinstance(scaling, Mapping):  # both, so that scores are scaled and rotations are not
        found["rope_scaling"] = {**scaling, "mscale": tempered / 0.1, "mscale_all_dim": tempered / 0.1}
    return found


DEEPSEEK2 = Family(
    name="deepseek2",
    gguf="deepseek2",
    hf=("DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM", "YoutuForCausalLM"),
    defaults={
        "deepseek_v3": {
            **SHARED, "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
            "num_attention_heads": 128, "num_key_value_heads": 128, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6, "num_local_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
            "n_shared_experts": 1, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4,
            "first_k_dense_replace": 3, "norm_topk_prob": True,
        },
        "deepseek_v2": {
            **SHARED, "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "num_local_experts": 64, "moe_intermediate_size": 1407, "n_shared_experts": 2,
            "routed_scaling_factor": 1.0, "first_k_dense_replace": 0, "norm_topk_prob": False,
        },
        "youtu": YOUTU,
        "youtu_vl": YOUTU,
    },
    outside=OUTSIDE,
    block=(
        *NORMS,
        *ATTENTION,
        *at(before("dense_layers"), MLP),
        *(replace(t, where=both(from_("dense_layers"), t.where)) for t in MIXTURE),
    ),
    keys=KEYS,
    back=BACK,
    graph=version,
    drop=(
        FREQUENCIES,
        Drop("*.rotary_emb.*", "rotary frequencies are computed at run time"),
        Drop("lm_head.weight", "the same values as the embeddings", when="tie_word_embeddings"),
    ),
    aliases={"n_routed_experts": "num_local_experts"},
    derive=(numbers,),
    folds=folds.INNER,
    skips_further="llama.cpp predicts no further tokens with this architecture",
    assumes=(assumptions.silu, sigmoid_or_softmax),
)  # fmt: skip

FAMILIES = (DEEPSEEK2,)
