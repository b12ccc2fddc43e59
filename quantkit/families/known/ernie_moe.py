"""ERNIE 4.5, mixtures: dense layers first, then a mixture in every so many."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.ernie import ERNIE4_5
from quantkit.families.layers import by_rule, kind
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ATTENTION,
    FREQUENCIES,
    MLP,
    NORMS,
    Drop,
    T,
    at,
    experts,
    shared_expert,
    without_biases,
)

MIXTURE, DENSE = "mixture", "dense"


def is_mixture(hparams: Hparams, layer: int) -> bool:
    """Whether a layer is a mixture: between the first and last one, each whose number divides."""
    last = hparams.number("moe_layer_end_index")
    end = hparams.count("num_hidden_layers") - 1 if last is None or last < 0 else last
    inside = (hparams.number("moe_layer_start_index") or 0) <= layer <= end
    return inside and (layer + 1) % hparams.count("moe_layer_interval") == 0


def shared_width(hparams: Hparams) -> int | None:
    """What the converter takes for the width of the experts that read every token."""
    if not hparams.number("moe_num_shared_experts"):
        return None
    return hparams.count("intermediate_size") // hparams.count("num_key_value_heads")


def same_width(hparams: Hparams) -> str | None:
    """That is also their real width."""
    taken, count = shared_width(hparams), int(hparams.number("moe_num_shared_experts") or 0)
    width = count * hparams.count("moe_intermediate_size")
    return None if taken in (None, width) else f"shared experts are {width} wide, it takes {taken} and does not load"


ERNIE4_5_MOE = replace(
    ERNIE4_5,
    name="ernie4_5_moe",
    gguf="ernie4_5-moe",
    hf=("Ernie4_5_MoeForCausalLM",),
    defaults={
        "ernie4_5_moe": {
            "vocab_size": 103424, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28,
            "num_attention_heads": 20, "num_key_value_heads": 4, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "num_local_experts": 64,
            "num_experts_per_tok": 6, "moe_intermediate_size": 1536, "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1, "moe_layer_interval": 1,
        },
    },
    aliases={"moe_num_experts": "num_local_experts", "moe_k": "num_experts_per_tok"},
    derive=(by_rule(MIXTURE, is_mixture, DENSE),),
    block=(
        *NORMS,
        *without_biases(ATTENTION),
        *at(kind(DENSE), without_biases(MLP)),
        *at(kind(MIXTURE), (
            *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
            T("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias", Role.BIAS, "1 num_local_experts"),
            *shared_expert("moe_num_shared_experts*moe_intermediate_size", "mlp.shared_experts"),
        )),
    ),
    keys=(
        *keys.COMMON,
        keys.Key("interleave_moe_layer_step", "u32", "moe_layer_interval"),
        keys.Key("leading_dense_block_count", "u32", "moe_layer_start_index"),
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_count", "u32", "moe_num_shared_experts"),
        keys.computed("expert_shared_feed_forward_length", "u32", shared_width),
    ),
    drop=(FREQUENCIES, Drop("model.mtp_*", "llama.cpp predicts no further tokens with this architecture")),
    assumes=(assumptions.silu, same_width),
    folds=folds.INNER,
)  # fmt: skip

FAMILIES = (ERNIE4_5_MOE,)
