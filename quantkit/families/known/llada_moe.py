"""LLaDA-MoE: a mixture that attends in both directions and fills in masked tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.olmo3 import OLMOE
from quantkit.families.rows import ATTENTION, NORMS, OWN_CODE, QK_NORMS, TokenizerRules, experts, without_biases
from quantkit.metadata import KeyValue

MASK = 156895


def unshifted(hparams: Hparams) -> Iterable[KeyValue]:
    """Logits are those of the token itself, not of the next."""
    return (KeyValue("diffusion.shift_logits", "bool", False),)


LLADA_MOE = replace(
    OLMOE,
    name="llada_moe",
    gguf="llada-moe",
    hf=("LLaDAMoEModelLM", "LLaDAMoEModel"),
    defaults={
        "llada_moe": {
            "vocab_size": 157184, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 16, "num_key_value_heads": None, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "tie_word_embeddings": False, "num_local_experts": 64,
            "num_experts_per_tok": 8, "expert_intermediate_size": 1024,
        },
    },
    block=(
        *NORMS,
        *without_biases(ATTENTION),
        *QK_NORMS,
        *experts("expert_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    keys=(
        *(key for key in keys.COMMON if key is not keys.causality),
        keys.Key("expert_feed_forward_length", "u32", "expert_intermediate_size"),
        keys.both_ways,
        unshifted,
    ),
    assumes=(),
    tokens=TokenizerRules(ids={"mask": MASK}),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (LLADA_MOE,)
