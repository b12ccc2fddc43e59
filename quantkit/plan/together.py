"""Units that belong together: those of a block, and layers that share a scale."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from quantkit.families.roles import fused_group
from quantkit.plan.base import Plan, Unit


def blocks(plan: Plan) -> dict[int | None, tuple[Unit, ...]]:
    """The units that a walk fills, of every block, None for what lies outside, in the order of the blocks."""

    def key(unit: Unit) -> int:
        return -1 if unit.tensor.layer is None else unit.tensor.layer

    ordered = sorted((unit for unit in plan.units if unit.layout or plan.rest == "copies"), key=key)
    return {None if number < 0 else number: tuple(group) for number, group in groupby(ordered, key)}


def siblings(rounded: Iterable[Unit]) -> list[tuple[Unit, ...]]:
    """Layers that share a scale, together: those that engines fuse, where the scheme has a scale for a whole tensor.

    Others stand alone. The order is that of each group's first layer.
    """
    groups: dict[tuple[object, ...], list[Unit]] = {}
    for unit in rounded:
        tensor = unit.tensor
        group = fused_group(tensor.role, tensor.name)
        fused = unit.layout is not None and unit.layout.traits.sharing and group is not None
        shared = (tensor.layer, tensor.expert, group) if fused else (unit.name,)
        groups.setdefault(shared, []).append(unit)
    return [tuple(group) for group in groups.values()]
