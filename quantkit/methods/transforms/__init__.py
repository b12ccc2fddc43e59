"""Edits that leave a block's function as it is and make its weights, or its activations, easier to round.

A scale per channel moves from one matrix into another: the producer's output channels are divided by it, the
consumers' input columns multiplied. Any method can follow. families/folds.py knows where, folding.py how, and each
other module here, a transform (`awq`, `smoothquant`), by how much; base.py has the seam.
"""

from __future__ import annotations

from quantkit import discovery

TOOLS = frozenset({"base", "folding"})


def transform_names() -> tuple[str, ...]:
    """Names of all transforms, in alphabetical order: the file names of this folder."""
    return discovery.modules(__name__, TOOLS)


def only_into_norms(name: str) -> bool:
    """Whether a transform moves scales only into norms (`Transform.norms`)."""
    return bool(discovery.declared(__name__, name, "TRANSFORM").get("norms", False))
