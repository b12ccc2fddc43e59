"""How far a model reads: the context that it is made for, and where its positions end."""

from __future__ import annotations

from quantkit.families.encoders import CONTEXT
from quantkit.families.hparams import Hparams
from quantkit.families.rows import Family

TABLE = "position_embd.weight"  # a vector for each position
OF_ITS_CONTEXT = frozenset({"mpt"})  # transformers 5.24 makes the slopes of as many positions


def context_of(hparams: Hparams) -> int:
    """The longest text in tokens, without the positions that padding takes; 0 where no number says it."""
    found = hparams.values.get(CONTEXT) or hparams.number("max_position_embeddings")
    return max(int(found or 0), 0)


def last_position_of(family: Family, hparams: Hparams) -> int:
    """How many tokens can be run at most; 0 where positions are rotations, or slopes, which go on for ever."""
    ends = family.name in OF_ITS_CONTEXT or any(row.target == TABLE for row in family.outside)
    return context_of(hparams) if ends else 0
