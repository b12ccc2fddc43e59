"""CodeShell: StarCoder's blocks with rotated positions."""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.bigcode import BIGCODE
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, OWN_CODE, Family
from quantkit.metadata import KeyValue


def positions(hparams: Hparams) -> Iterable[KeyValue]:
    """Numbers of the model's code."""
    yield KeyValue("rope.freq_base", "f32", 10000.0)
    yield KeyValue("rope.scaling.type", "string", "linear")
    yield KeyValue("rope.scaling.factor", "f32", 1.0)


CODESHELL = Family(
    name="codeshell",
    gguf="codeshell",
    hf=("CodeShellForCausalLM",),
    defaults={
        "kclgpt": {
            "vocab_size": 70144, "hidden_size": 4096, "num_hidden_layers": 42, "num_attention_heads": 32,
            "num_key_value_heads": 8, "max_position_embeddings": 8192, "layer_norm_epsilon": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    aliases={**BIGCODE.aliases, "num_query_groups": "num_key_value_heads"},
    source_block=BIGCODE.source_block,
    outside=tuple(row for row in BIGCODE.outside if row.role is not Role.POSITION),
    block=BIGCODE.block,
    keys=(
        *keys.without(keys.SIZES, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", "4*hidden_size"),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
        positions,
    ),
    drop=(FREQUENCIES,),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (CODESHELL,)
