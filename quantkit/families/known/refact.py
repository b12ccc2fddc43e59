"""Refact: keys and values of one head, a gated MLP in one matrix, positions by slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.placements import first_half, second_half
from quantkit.families.roles import Role
from quantkit.families.rows import OWN_CODE, Family, T

MULTIPLE = 256


def inner(hparams: Hparams) -> Mapping[str, Any]:
    """The width of the MLP: two thirds of four times the hidden size, rounded up."""
    return {"intermediate_size": MULTIPLE * -(-int(2 * 4 * hparams.count("hidden_size") / 3) // MULTIPLE)}


REFACT = Family(
    name="refact",
    gguf="refact",
    hf=("GPTRefactForCausalLM",),
    defaults={
        "gpt_refact": {
            "vocab_size": 49216, "hidden_size": 2048, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 1, "max_position_embeddings": 4096, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": False,
        },
    },
    aliases={
        "n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers",
        "n_positions": "max_position_embeddings",
    },
    derive=(inner,),
    source_block="transformer.h.{}.",
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.ln_f.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    block=(
        T("ln_1.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("ln_2.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("attn.q.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size"),
        T("attn.kv.weight", "attn_k.weight", Role.ATTN_K, "2*kv_rows hidden_size", first_half),
        T("attn.kv.weight", "attn_v.weight", Role.ATTN_V, "2*kv_rows hidden_size", second_half),
        T("attn.c_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("mlp.gate_up_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "2*intermediate_size hidden_size", first_half),
        T("mlp.gate_up_proj.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size", second_half),
        T("mlp.c_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ),
    keys=(*keys.SIZES, keys.Key("attention.layer_norm_rms_epsilon", "f32", "layer_norm_epsilon")),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (REFACT,)
