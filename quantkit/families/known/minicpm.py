"""MiniCPM 1 and 2: a Llama whose embeddings, residuals and logits are scaled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.placements import longrope_factors
from quantkit.families.rows import OWN_CODE, TokenizerRules
from quantkit.metadata import KeyValue


def scales(hparams: Hparams) -> Iterable[KeyValue]:
    """What config.json says of depth and width, as llama.cpp multiplies and divides by it."""
    layers, hidden = hparams.count("num_hidden_layers"), hparams.count("hidden_size")
    yield KeyValue("embedding_scale", "f32", hparams.required("scale_emb"))
    yield KeyValue("residual_scale", "f32", hparams.required("scale_depth") / layers**0.5)
    yield KeyValue("logit_scale", "f32", hidden / hparams.count("dim_model_base"))


MINICPM = replace(
    LLAMA,
    name="minicpm",
    gguf="minicpm",
    hf=("MiniCPMForCausalLM",),
    defaults={
        "minicpm": {
            "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True, "scale_emb": 1,
            "dim_model_base": 1, "scale_depth": 1,
        },
    },
    keys=(*keys.COMMON, scales),
    extra=longrope_factors,
    tokens=TokenizerRules(),
    computes=frozenset({"scale_emb", "dim_model_base", "scale_depth"}),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (MINICPM,)
