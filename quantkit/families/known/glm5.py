"""GLM-4.7-Flash and GLM-5: DeepSeek's latent attention with a block that predicts one token more.

GLM-5 attends to what an indexer chooses; layers without one of their own take the choice of an earlier layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.deepseek import DEEPSEEK2, numbers
from quantkit.families.known.deepseek32 import INDEXER, INDEXER_KEYS, OF_INDEXER
from quantkit.families.known.glm4_moe import FURTHER, NEXT, SEEN, TOKENS
from quantkit.families.layers import TRUNK, Layers, kind, listed, not_
from quantkit.families.rows import FREQUENCIES, at, optional

GLM4_FLASH = replace(
    DEEPSEEK2,
    name="glm4_moe_lite",
    hf=("Glm4MoeLiteForCausalLM",),
    defaults={
        "glm4_moe_lite": {
            "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "num_hidden_layers": 47,
            "num_attention_heads": 20, "num_key_value_heads": 20, "max_position_embeddings": 202752,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "kv_lora_rank": 512,
            "q_lora_rank": 768, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
            "num_local_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 1536, "n_shared_experts": 1,
            "routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
        },
    },
    block=(*DEEPSEEK2.block, *NEXT),
    keys=(*DEEPSEEK2.keys, keys.Key("nextn_predict_layers", "u32", FURTHER, nonzero=True)),
    drop=(FREQUENCIES,),
    skips_further=None,
    derive=(lambda hparams: {"mlp_layer_types": dense_first(hparams)}, numbers),
    seen=(SEEN,),
    tokens=TOKENS,
)  # fmt: skip


def dense_first(hparams: Hparams) -> object:
    """The kinds of MLPs: transformers takes the first layer for dense where nothing is said."""
    said = hparams.values.get("mlp_layer_types")
    return said if said is not None else ["dense"] + ["sparse"] * (hparams.count(TRUNK) - 1)


WHOLE, SHARED = "full", "shared"
INDEXED: Layers = kind(WHOLE)


def indexer_types(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers choose for themselves: a list, letters, or every so many after the first ones."""
    said, letters = hparams.values.get("indexer_types"), hparams.values.get("index_topk_pattern")
    count = hparams.count(TRUNK)
    if said is None and isinstance(letters, str):
        said = [{"F": WHOLE, "S": SHARED}.get(letter, letter) for letter in letters]
    if said is None and letters is not None:
        said = letters
    if said is None:
        every = max(int(hparams.number("index_topk_freq") or 1), 1)
        offset = hparams.number("index_skip_topk_offset")
        first = 2 if offset is None else int(offset)
        said = [WHOLE if max(layer - first + 1, 0) % every == 0 else SHARED for layer in range(count)]
    derived = listed("indexer_types", {WHOLE: WHOLE, SHARED: SHARED})(
        replace(hparams, values={**hparams.values, "indexer_types": said})
    )
    if not INDEXED(Hparams({**hparams.values, **derived}), 0):
        message = "config.json: indexer_types, the first layer shares a choice that no layer has made"
        raise InputError(message, key="indexer_types", path="config.json", hint=CONFIG_HINT)
    return derived


GLM_DSA = replace(
    GLM4_FLASH,
    name="glm_moe_dsa",
    gguf="glm-dsa",
    hf=("GlmMoeDsaForCausalLM",),
    defaults={
        "glm_moe_dsa": {
            "vocab_size": 154880, "hidden_size": 6144, "intermediate_size": 12288, "num_hidden_layers": 78,
            "num_attention_heads": 64, "num_key_value_heads": 64, "max_position_embeddings": 202752,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "kv_lora_rank": 512,
            "q_lora_rank": 2048, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
            "num_local_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "n_shared_experts": 1,
            "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
            "first_k_dense_replace": 3, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 32,
        },
    },
    block=(*GLM4_FLASH.block, *at(INDEXED, INDEXER), *optional(at(not_(INDEXED), INDEXER))),
    keys=(
        *DEEPSEEK2.keys,
        keys.Key("nextn_predict_layers", "u32", FURTHER),
        *INDEXER_KEYS,
        keys.computed(
            "attention.indexer.types",
            "bool",
            lambda hparams: tuple(INDEXED(hparams, layer) for layer in range(hparams.count(TRUNK))),
        ),
    ),
    derive=(numbers, indexer_types),
    assumes=(assumptions.silu,),
    computes=OF_INDEXER | {"indexer_types", "index_topk_pattern", "index_topk_freq", "index_skip_topk_offset"},
)  # fmt: skip

FAMILIES = (GLM4_FLASH, GLM_DSA)
