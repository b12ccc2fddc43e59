"""openPangu Embedded: a Llama with biased attention whose rotation pairs are halves of a head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.llama import LLAMA
from quantkit.families.rows import ATTENTION, MLP, NORMS, OWN_CODE, Drop, biased
from quantkit.metadata import KeyValue


def lengths(hparams: Hparams) -> Iterable[KeyValue]:
    """The dimensions of a head, which config.json leaves out."""
    head = hparams.count("head")
    for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        yield KeyValue(name, "u32", head)


PANGU = replace(
    LLAMA,
    name="pangu_embedded",
    gguf="pangu-embedded",
    hf=("PanguEmbeddedForCausalLM",),
    defaults={
        "PanguEmbedded": {
            "vocab_size": 153376, "hidden_size": 4096, "intermediate_size": 12800, "num_hidden_layers": 34,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": None, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5, "rope_theta": 16e6, "tie_word_embeddings": False, "bias": True,
        },
    },
    block=(*NORMS, *biased(ATTENTION, output="bias", others="bias"), *MLP),
    keys=(*(key for key in keys.COMMON if key not in keys.HEAD_LENGTHS), keys.VOCAB_SIZE, lengths),
    drop=(*LLAMA.drop, Drop("lm_head.weight", "the same values as the embeddings", when="tie_word_embeddings")),
    extra=None,
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (PANGU,)
