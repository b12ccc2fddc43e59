"""Nomic's encoders: BERT with rotated positions and a gated MLP, or (v2) a mixture in every second layer.

Source: conversion/bert.py of llama.cpp, October 2026. Read are the config.json that Nomic publishes and the one that
transformers saves; the tensors have the same names in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import encoders, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.bert import KEYS, SIZES
from quantkit.families.layers import not_, of_period
from quantkit.families.layouts import fold, turn
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, Condition, Drop, Family, T, TokenizerRules, at
from quantkit.families.spellings import Rename
from quantkit.untrusted import shown

EVERY, EXPERTS = "moe_every_n_layers", "num_local_experts"
WIDE, WIDTH = "hidden_size hidden_size", "intermediate_size"
UP, DOWN = f"{WIDTH} hidden_size", f"hidden_size {WIDTH}"
ONE = f"{EXPERTS}*{WIDTH} hidden_size"
TRAINED = {8192: 2048, 2048: 512}  # n_positions that Nomic publishes -> tokens that the model was trained on
FIXED: Mapping[str, Any] = {  # what the graph takes for granted
    "prenorm": False, "causal": False, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
}  # fmt: skip
MIXTURE_LAYERS = of_period(EVERY, 1)
IS_MIXTURE = Condition("config.json has moe_every_n_layers", lambda config: bool(config.get(EVERY)))
IS_DENSE = Condition("config.json has no moe_every_n_layers", lambda config: not config.get(EVERY))


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """How long a text can be, and the epsilon of the norms.

    Raises UnsupportedError for a variant of the model that llama.cpp has no graph for, or for a context of which
    nobody knows what the model was trained on.
    """
    wrong = next((key for key, value in FIXED.items() if hparams.values.get(key, value) != value), None)
    if wrong is not None:
        message = f"{wrong} is {shown(str(hparams.values[wrong]))}, for which llama.cpp has no graph"
        raise UnsupportedError(message, key=wrong, hint="a variant of the architecture needs a row of its own")
    context = hparams.values.get("n_positions")
    if context is not None:
        trained = hparams.values.get("max_trained_positions", 2048)
        if trained != 2048 or context not in TRAINED:
            message = f"n_positions is {shown(str(context))}, and max_trained_positions {shown(str(trained))}"
            raise UnsupportedError(
                message, key="n_positions", hint="known are those of the models that Nomic published"
            )
        context = TRAINED[context]
    else:
        context = hparams.count("max_position_embeddings")
    return {encoders.CONTEXT: context, "max_position_embeddings": context}


def swiglu(hparams: Hparams) -> str | None:
    """Gated MLPs use SiLU."""
    said = hparams.values.get("activation_function") or hparams.values.get("hidden_act")
    return None if said in (None, "swiglu", "silu") else f"activation_function is {shown(str(said))}, it takes swiglu"


def gelu(hparams: Hparams) -> str | None:
    """MLPs and experts use GELU."""
    said = hparams.values.get("activation_function")
    return None if said in (None, "gelu") else f"activation_function is {shown(str(said))}, it takes gelu"


def plain_mixture(hparams: Hparams) -> str | None:
    """The weights of the chosen experts are taken as they come."""
    normalized = hparams.flag("moe_normalize_expert_weights")
    return "moe_normalize_expert_weights is true, it does not normalize" if normalized else None


NOMIC_BERT = Family(
    name="nomic_bert",
    gguf="nomic-bert",
    hf=("NomicBertModel", "NomicBertForMaskedLM"),
    defaults={
        "nomic_bert": {
            **{key: value for key, value in SIZES.items() if key != "tie_word_embeddings"}, "vocab_size": 30528,
            "max_position_embeddings": 2048, "rope_theta": 1000.0, "hidden_act": "silu", "head_dim": None,
        },
    },
    when=IS_DENSE,
    aliases={
        "n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_inner": WIDTH,
        "layer_norm_epsilon": "layer_norm_eps", "rotary_emb_base": "rope_theta",
    },
    outside=(
        T("embeddings.word_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("embeddings.token_type_embeddings.weight", "token_types.weight", Role.POSITION,
          "type_vocab_size hidden_size"),
        T("emb_ln.weight", "token_embd_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
    ),
    block=(
        T("attn.Wqkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
        T("attn.out_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, WIDE),
        T("norm1.weight", "attn_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
        T("mlp.fc11.weight", "ffn_up.weight", Role.FFN_UP, UP),
        T("mlp.fc12.weight", "ffn_gate.weight", Role.FFN_GATE, UP),
        T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, DOWN),
        T("norm2.weight", "layer_output_norm.weight", Role.NORM, "hidden_size", bias=ALWAYS),
    ),
    source_block="encoder.layers.{}.",
    spellings=(Rename(r"^(nomic_)?bert\.", ""),),
    derive=(numbers, encoders.labels),
    keys=(*KEYS, keys.FREQUENCY_BASE),
    drop=(
        Drop("pooler.*", encoders.NO_HEAD),
        Drop("cls.*", encoders.NO_HEAD),
        Drop("*.rotary_emb.inv_freq", "rotary frequencies are computed at run time"),
    ),
    assumes=(swiglu,),
    tokens=TokenizerRules(pieces=True, counted=True),
    unserved="transformers does not read the config.json that it is published with, and takes its queries, keys and "
    "values apart as it loads them",
    embeds=True,
)  # fmt: skip
NOMIC_BERT_MOE = replace(
    NOMIC_BERT,
    name="nomic_bert_moe",
    gguf="nomic-bert-moe",
    when=IS_MIXTURE,
    block=(
        *(
            replace(t, bias=ALWAYS)
            for t in NOMIC_BERT.block
            if t.role in {Role.ATTN_QKV, Role.ATTN_OUTPUT, Role.NORM}
        ),
        *at(not_(MIXTURE_LAYERS), (
            T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, UP, bias=ALWAYS),
            T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, DOWN, bias=ALWAYS),
        )),
        *at(MIXTURE_LAYERS, (
            T("mlp.router.layer.weight", "ffn_gate_inp.weight", Role.ROUTER, f"{EXPERTS} hidden_size"),
            T("mlp.experts.mlp.w1", "ffn_up_exps.weight", Role.FFN_UP, ONE, fold(EXPERTS, WIDTH)),
            T("mlp.experts.mlp.w2", "ffn_down_exps.weight", Role.FFN_DOWN, ONE, fold(EXPERTS, WIDTH) >> turn),
        )),
    ),
    keys=(
        *NOMIC_BERT.keys,
        keys.Key("expert_count", "u32", EXPERTS),
        keys.Key("moe_every_n_layers", "u32", EVERY),
        keys.Key("expert_used_count", "u32", "num_experts_per_tok"),
    ),
    aliases={**NOMIC_BERT.aliases, "moe_top_k": "num_experts_per_tok"},
    drop=(*NOMIC_BERT.drop, Drop("*.mlp.experts.bias", "llama.cpp adds no bias to what a mixture gives")),
    assumes=(gelu, plain_mixture),
    unserved=encoders.OWN_VARIANT,
)  # fmt: skip

FAMILIES = (NOMIC_BERT, NOMIC_BERT_MOE)
