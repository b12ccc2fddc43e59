"""Nanbeige 4.2: a Llama whose layers are run more than once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.rows import OWN_CODE
from quantkit.metadata import KeyValue


def loops(hparams: Hparams) -> Iterable[KeyValue]:
    """How often all layers are run, and whether the last norm is left out between two runs."""
    said = hparams.number("num_loops")
    yield KeyValue("num_loops", "u32", max(int(said or 1), 1))
    yield KeyValue("skip_loop_final_norm", "bool", hparams.flag("skip_loop_final_norm"))


NANBEIGE = replace(
    LLAMA,
    name="nanbeige",
    gguf="nanbeige",
    hf=("NanbeigeForCausalLM",),
    defaults={
        "nanbeige": {
            "vocab_size": 166144, "hidden_size": 2560, "intermediate_size": 10496, "num_hidden_layers": 32,
            "num_attention_heads": 20, "num_key_value_heads": None, "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-5, "rope_theta": 70000000.0, "tie_word_embeddings": False,
        },
    },
    keys=(*keys.LLAMA, loops),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (NANBEIGE,)
