"""JAIS: GPT-2 with a gate in its MLP, ALiBi instead of positions, and scaled embeddings and outputs.

Source: conversion/jais.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import keys
from quantkit.families.fixed import require_only
from quantkit.families.hparams import Hparams
from quantkit.families.known.gpt_neox import GPT2, conv1d, norm
from quantkit.families.roles import Role
from quantkit.families.rows import OWN_CODE, Drop, T

STEEPEST = 8.0  # what slopes are made from: those of JAIS are made from the number of heads alone
KNOWN = {"activation_function": "swiglu", "position_embedding_type": "alibi"}


def scales(hparams: Hparams) -> Mapping[str, Any]:
    """What embeddings and outputs are multiplied by, in either spelling.

    Raises UnsupportedError for what the graph has no place for, InputError for a missing scale.
    """
    require_only(hparams, KNOWN)
    embeddings = hparams.number("mup_embeddings_scale")
    alpha = hparams.number("mup_output_alpha")
    return {
        "embeddings_factor": hparams.required("embeddings_scale") if embeddings is None else embeddings,
        "output_factor": (
            hparams.required("width_scale") if alpha is None else alpha * hparams.required("mup_width_scale")
        ),
    }


JAIS = replace(
    GPT2,
    name="jais",
    gguf="jais",
    hf=("JAISLMHeadModel",),
    defaults={
        "jais": {
            "vocab_size": 84992, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 18,
            "num_attention_heads": 12, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False,
        },
    },
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size",
          value="*embeddings_factor"),
        norm("transformer.ln_f", "output_norm"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", value="*output_factor"),
    ),
    block=(*GPT2.block, *conv1d("mlp.c_fc2", "ffn_gate", Role.FFN_GATE, "intermediate_size", "hidden_size")),
    keys=(*GPT2.keys, keys.computed("attention.max_alibi_bias", "f32", lambda hparams: STEEPEST)),
    drop=(*GPT2.drop, Drop("transformer.relative_pe.slopes", "slopes are computed at run time")),
    aliases={**GPT2.aliases, "n_inner": "intermediate_size"},
    derive=(scales,),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (JAIS,)
