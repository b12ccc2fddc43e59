"""How the scales and offsets of a block hang together, for what changes them after codes are chosen.

A block stores a float16 unit and small integers, one per group: scale = d * sc, offset = -dmin * m. Types without such
integers store the scale itself, which is then a unit with a count of one.
"""

from __future__ import annotations

from quantkit.records import record


@record
class Ladder:
    """The values factor * unit * count of every group: names of the fields of a grid, and the limits of a count.

    The field `unit` is float16 (n,), the field `count` (n, groups) numbers a whole step apart; "" where there is none.
    `factor` is a power of two, or its negative.
    """

    unit: str
    count: str = ""
    low: float = 0
    high: float = 0
    factor: float = 1


@record
class Units:
    """The ladder of a type's scales, and that of its offsets if it has any."""

    scale: Ladder
    offset: Ladder | None = None
