"""All that a method sees of a type or a scheme: how weights are cut into spans, and the grid of each."""

from __future__ import annotations

from collections.abc import Callable

from quantkit.qtypes.base import Codes, Grid, QuantType
from quantkit.qtypes.search.units import Units
from quantkit.qtypes.search.vectors import RUN, Vectors
from quantkit.records import record
from quantkit.tensors import F32


@record
class Target:
    """What a weight is rounded to.

    `fit(w, importance)` gives the grid of w float32 (rows, cols), importance float32 (cols,) or None; cols is a
    multiple of `span`, the number of columns whose grid is fitted together (a super-block, a group). A span of 0 means
    that a grid depends on the whole matrix, and only that is ever fitted.
    `by_row` says how a grid counts: one entry per row and its groups side by side (schemes), or one per span
    (quantization types). `columnwise` is False where codes of neighbouring columns are chosen together; `vectors` then
    says of which, None where only the type's own encoder can.
    `search(w, prices)` is what methods that choose codes themselves use instead of `fit` where there is one: more
    candidates, each column at its price (cols,).
    `weighs` says that `fit` searches scales by itself, weighted by importance; where it does not, methods try
    smaller ranges themselves. `rescale(grid, factor)` multiplies the scales of a grid of the whole row, (n, g) as
    they are stored, by a factor of that shape, and rounds to what is stored; None where scales depend on one another.
    `units` says how they do, None where they do not or nothing may change them.
    `encode(w, importance)` gives what the type's reference encoder makes, codes int16 (rows, cols) and their grid: the
    rounding that a method has to beat. None where rounding to nearest on the plain fit is the reference.
    """

    fit: Callable[[F32, F32 | None], Grid]
    span: int
    by_row: bool = False
    columnwise: bool = True
    weighs: bool = True
    rescale: Callable[[Grid, F32], Grid] | None = None
    units: Units | None = None
    encode: Callable[[F32, F32 | None], tuple[Codes, Grid]] | None = None
    vectors: Vectors | None = None
    search: Callable[[F32, F32], Grid] | None = None

    @property
    def feeds(self) -> bool:
        """Whether a column's error can be fed into those that follow."""
        return self.columnwise or self.vectors is not None

    @property
    def runs(self) -> tuple[int, int]:
        """How many neighbouring columns share a grid, and how many have to be visited one after the other: targets
        with the same share the order of the columns and the factor."""
        return self.span, RUN if self.vectors is not None else 1


def type_target(qtype: QuantType) -> Target:
    """A quantization type as a target."""

    def encode(w: F32, importance: F32 | None) -> tuple[Codes, Grid]:
        codes, grid = qtype.unpack(qtype.encode(w, importance).reshape(-1, qtype.nbytes))
        return codes.reshape(w.shape), grid

    return Target(
        qtype.fit, qtype.block, search=qtype.search, columnwise=qtype.columnwise, weighs=qtype.uses_importance,
        units=qtype.units, encode=encode, vectors=qtype.vectors,
    )  # fmt: skip
