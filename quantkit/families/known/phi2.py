"""Phi 1, 1.5 and 2: one layer norm feeds attention and MLP side by side, biases everywhere, the head's included."""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.families import assumptions, folds, keys
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import (
    ALWAYS,
    ATTENTION,
    EMBEDDING,
    FREQUENCIES,
    HEAD,
    NORMS,
    Family,
    T,
    TokenizerRules,
    biased,
    with_biases,
)
from quantkit.metadata import KeyValue


def feed_forward(hparams: Hparams) -> Iterable[KeyValue]:
    """Four times the hidden size, whatever `intermediate_size` says: the matrices decide."""
    return (KeyValue("feed_forward_length", "u32", 4 * hparams.count("hidden_size")),)


def heads(hparams: Hparams) -> Iterable[KeyValue]:
    """As many keys as queries."""
    return (KeyValue("attention.head_count_kv", "u32", hparams.count("num_attention_heads")),)


def plain_attention(hparams: Hparams) -> str | None:
    """Queries and keys are not normalized."""
    return "qk_layernorm is true, it does not normalize" if hparams.flag("qk_layernorm") else None


PHI2 = Family(
    name="phi2",
    gguf="phi2",
    hf=("PhiForCausalLM",),
    defaults={
        "phi": {
            "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
        },
    },
    outside=(
        EMBEDDING,
        *with_biases((T("model.final_layernorm.weight", "output_norm.weight", Role.NORM, "hidden_size"), HEAD)),
    ),
    block=(
        *with_biases(NORMS[:1]),
        *biased(ATTENTION[:3], output=ALWAYS),
        *with_biases((
            T("self_attn.dense.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
            T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
            T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
        )),
    ),
    keys=(
        *keys.without(keys.SIZES, "feed_forward_length", "attention.head_count_kv"),
        feed_forward,
        heads,
        keys.LAYER_EPSILON,
        keys.Key("rope.dimension_count", "u32", "rope_dim"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.activation("hidden_act", "gelu_new", "gelu_pytorch_tanh"), plain_attention),
    folds=(
        Fold("input_layernorm", (*folds.QKV, "mlp.fc1"), norm=True),
        Fold("self_attn.v_proj", ("self_attn.dense",), heads=True),
    ),
    tokens=TokenizerRules(no_bos=True),
    computes=frozenset({"layer_norm_eps", "partial_rotary_factor", "qk_layernorm"}),
)  # fmt: skip

FAMILIES = (PHI2,)
