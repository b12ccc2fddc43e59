"""Mellum 2: a Qwen 3 mixture of which most layers attend to a window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.qwen import QWEN3_MOE
from quantkit.metadata import KeyValue


def window(hparams: Hparams) -> Iterable[KeyValue]:
    """The window and the layers that attend to it, unless config.json switches it off."""
    if hparams.values.get("use_sliding_window") not in (True, None):
        return
    yield from keys.number(keys.Key("attention.sliding_window", "u32", "sliding_window"), hparams)
    yield from keys.windows(hparams)


MELLUM = replace(
    QWEN3_MOE,
    name="mellum",
    gguf="mellum",
    hf=("MellumForCausalLM",),
    defaults={
        "mellum": {
            "vocab_size": 98304, "hidden_size": 2304, "intermediate_size": 7168, "num_hidden_layers": 28,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "rope_local_base_freq": 10000.0,
            "tie_word_embeddings": False, "sliding_window": 1024, "num_local_experts": 64, "num_experts_per_tok": 8,
            "moe_intermediate_size": 896, "norm_topk_prob": True,
        },
    },
    keys=(*keys.COMMON, keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"), window),
)  # fmt: skip

FAMILIES = (MELLUM,)
