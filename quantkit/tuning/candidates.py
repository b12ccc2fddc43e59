"""Which types a tensor may be given: those that feedback serves and whose blocks divide its rows, and the recipe's."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.families.roles import Role
from quantkit.plan.base import Plan, Unit
from quantkit.plan.feedback import is_embedding
from quantkit.qtypes import base

# By rising size. In steps of about a bit: what lies between two of them, tensors of other types can make up.
SUPERBLOCKS = ("q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0")
SMALL_BLOCKS = ("q4_0", "iq4_nl", "q5_0", "q5_1", "q8_0")  # for rows that no super-block divides
LEAST_HEAD_BITS = 5.5  # of Q5_K and Q5_0: less in the head is where allocators have failed


def candidates(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """The types of every tensor that is quantized and whose cost can be measured, by name, its own among them.

    A tensor whose type an option has fixed has that one alone.
    """
    return {unit.name: _types(unit) for unit in plan.units if measurable(unit)}


def measurable(unit: Unit) -> bool:
    """Whether it is quantized, and made of rows of linears of the blocks, or is the head or the embedding."""
    tensor = unit.tensor
    if unit.copy or base.get(unit.word).widen is not None or tensor.add:
        return False
    if tensor.role is Role.OUTPUT:
        return len(tensor.parts) == 1
    return tensor.layer is not None if tensor.role is not Role.TOKEN_EMBD else is_embedding(tensor)


def _types(unit: Unit) -> tuple[str, ...]:
    if not unit.free:
        return (unit.word,)
    cols = unit.tensor.cols
    known = SUPERBLOCKS if cols % base.get(SUPERBLOCKS[0]).block == 0 else SMALL_BLOCKS
    fitting = {name for name in known if cols % base.get(name).block == 0} | {unit.word}
    return tuple(sorted(fitting, key=lambda name: (base.get(name).bits_per_weight, name)))


def is_head(unit: Unit, plan: Plan) -> bool:
    """Whether it is what gives logits: the output, or the embedding of a model that has none of its own."""
    own = any(other.tensor.role is Role.OUTPUT for other in plan.units)
    return unit.tensor.role is (Role.OUTPUT if own else Role.TOKEN_EMBD)


def nbytes_of(unit: Unit, qtype: str) -> int:
    """The bytes of a tensor as a type stores it, padding excluded."""
    rows = unit.tensor.rows
    return rows * base.get(qtype).row_bytes(unit.tensor.cols)
