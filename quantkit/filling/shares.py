"""Which rows of the linears in memory a unit of the plan is made of: of one, of several experts, of a part of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quantkit.families.model import Part, Rows
from quantkit.families.parts import columns_of
from quantkit.plan.base import Unit
from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.calibration.statistics.sums import Linear
    from quantkit.calibration.walk.block import Block


@record
class Share:
    """Rows [start, stop) of the linear called `linear`."""

    linear: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def whole(block: Block, linear: str) -> Share:
    """All rows of a linear."""
    return Share(linear, 0, block.linears[linear].rows)


def key_of(block: Block, share: Share) -> str:
    """What a rounding is called: the linear itself, or rows of it."""
    return share.linear if share == whole(block, share.linear) else f"{share.linear}[{share.start}:{share.stop}]"


def shares_of(unit: Unit, linears: Mapping[str, Linear]) -> tuple[Share, ...]:
    """The rows of linears that a unit's rows are, in their order; none where a row is no linear's."""
    found: list[Share] = []
    for part in unit.tensor.parts:
        shares = _whole(part, linears) if part.source is None else _of_rows(part.source, linears)
        if not shares or sum(share.rows for share in shares) != part.rows:
            return ()
        found += shares
    return tuple(found)


def _whole(part: Part, linears: Mapping[str, Linear]) -> list[Share]:
    """The linear that is just this part, of columns."""
    columns = columns_of(part) or part
    return [Share(name, 0, linear.rows) for name, linear in linears.items() if linear.source == columns]


def _of_rows(wanted: Rows, linears: Mapping[str, Linear]) -> list[Share]:
    """The linears that hold source rows, by their first row."""
    found = []
    for name, linear in linears.items():
        source = linear.source
        start, stop = max(wanted.start, source.start), min(wanted.stop, source.stop)
        if source.tensor == wanted.tensor and source.columns is None and start < stop:
            found.append((start, Share(name, start - source.start, stop - source.start)))
    return [share for _, share in sorted(found, key=lambda one: one[0])]
