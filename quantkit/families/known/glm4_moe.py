"""GLM-4.5 to 4.7: a mixture after dense layers, and a block that predicts one token more; Solar Open without either."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.layers import AFTER_TRUNK, before, flagged, from_, further
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    OUTSIDE,
    QK_NORMS,
    Family,
    T,
    TokenizerRules,
    at,
    biased,
    experts,
    optional,
    shared_expert,
)

DENSE, FURTHER, HIDDEN = "first_k_dense_replace", "num_nextn_predict_layers", "hidden_size"
NEXT = at(AFTER_TRUNK, (  # what the blocks that predict further tokens have besides
    T("eh_proj.weight", "nextn.eh_proj.weight", Role.OTHER, "hidden_size 2*hidden_size"),
    T("enorm.weight", "nextn.enorm.weight", Role.NORM, HIDDEN),
    T("hnorm.weight", "nextn.hnorm.weight", Role.NORM, HIDDEN),
    T("shared_head.norm.weight", "nextn.shared_head_norm.weight", Role.NORM, HIDDEN),
    *optional((
        T("shared_head.head.weight", "nextn.shared_head_head.weight", Role.OTHER, "vocab_size hidden_size"),
        T("embed_tokens.weight", "nextn.embed_tokens.weight", Role.OTHER, "vocab_size hidden_size"),
    )),
))  # fmt: skip
MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    T("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),
    *shared_expert("n_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
)
SEEN = further("model.layers.{}.eh_proj.weight", FURTHER)
END = "<|endoftext|>"
TOKENS = TokenizerRules(named={"bos": "[gMASK]", "eot": "<|user|>", "unk": END, "eom": "<|observation|>"})

GLM4_MOE = Family(
    name="glm4_moe",
    gguf="glm4moe",
    hf=("Glm4MoeForCausalLM",),
    defaults={
        "glm4_moe": {
            "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
            "num_attention_heads": 96, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False,
            "use_qk_norm": False, "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1408,
            "n_shared_experts": 1, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1, "norm_topk_prob": True, "num_nextn_predict_layers": 1,
        },
    },
    outside=OUTSIDE,
    block=(
        T("input_layernorm.weight", "attn_norm.weight", Role.NORM, HIDDEN),
        T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, HIDDEN),
        *biased(ATTENTION, output=None, others="attention_bias"),
        *at(flagged("use_qk_norm"), QK_NORMS),
        *at(before(DENSE), MLP),
        *at(from_(DENSE), MIXTURE),
        *NEXT,
    ),
    graph=lambda hparams: {"use_qk_norm": "blk.0.attn_q_norm.weight" in hparams.values["file.tensors"]},
    keys=(
        *keys.COMMON,
        keys.rotated_part(0.5),
        keys.Key("expert_group_count", "u32", "n_group"),
        keys.Key("expert_group_used_count", "u32", "topk_group"),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_count", "u32", "n_shared_experts"),
        keys.Key("leading_dense_block_count", "u32", DENSE),
        keys.computed("expert_gating_func", "u32", lambda hparams: keys.GATING["sigmoid"]),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
        keys.Key("nextn_predict_layers", "u32", FURTHER),
    ),
    drop=(FREQUENCIES,),
    aliases={"n_routed_experts": "num_local_experts"},
    seen=(SEEN,),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    folds=folds.INNER,
    tokens=TOKENS,
)  # fmt: skip

SOLAR_OPEN = replace(
    GLM4_MOE,
    name="solar_open",
    folds=folds.INNER[1:],  # no layer is dense
    hf=("SolarOpenForCausalLM",),
    defaults={
        "solar_open": {
            "vocab_size": 196608, "hidden_size": 4096, "intermediate_size": None, "num_hidden_layers": 48,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 1e6, "partial_rotary_factor": 1.0, "tie_word_embeddings": False,
            "attention_bias": False, "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1280,
            "n_shared_experts": 1, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
        },
    },
    block=(*GLM4_MOE.block[:2], *biased(ATTENTION, output=None, others="attention_bias"), *MIXTURE),
    keys=(
        *keys.without(GLM4_MOE.keys, "leading_dense_block_count", "nextn_predict_layers"),
        keys.Key("leading_dense_block_count", "u32", DENSE, default=0),
    ),
    seen=(),
    tokens=TokenizerRules(named={"bos": "<|startoftext|>", "eos": END, "eot": END, "unk": "<unk>"}),
)  # fmt: skip

FAMILIES = (GLM4_MOE, SOLAR_OPEN)
