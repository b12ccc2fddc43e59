"""What a scheme is: how one linear layer is rounded when codes and scales are tensors of their own.

A `QuantType` (base.py) interleaves codes and scales in blocks of bytes. The checkpoints that servers load keep them
apart, and every container packs them in its own way; what they agree on is a matrix of codes and its grid. A scheme
fits that grid (`fit`) and rounds to it as the loader's own quantizer would (`encode`); formats/ packs the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import NonFiniteError, UnsupportedError
from quantkit.qtypes.base import Codes, Grid
from quantkit.tensors import F32

ScaleDtype = Literal["F16", "BF16", "F32"]

ZERO = "zero"  # field of a grid: integer zero points (rows, groups), where the scheme has them

# Distance from 1 to the next number: the scale of a group whose own scale is zero, as compressed-tensors has it.
EPSILON: dict[ScaleDtype, float] = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23}
SMALLEST_SCALE = 2.0**-126  # below, dividing by a scale depends on how the processor treats subnormal numbers


@dataclass(frozen=True)
class Quantized:
    """A rounded linear layer of weight (rows = out, cols = in).

    `codes` is int16 (rows, cols). `grid` has one block per row, n = rows, whose groups lie side by side, so that
    grid.scale is (rows, groups). `order` is None, or int32 (cols,): column j of `codes` is then column order[j] of
    the weight (activation order that is kept on disk).
    """

    codes: Codes
    grid: Grid
    order: NDArray[np.int32] | None = None

    def values(self) -> F32:
        """The weight as float32 (rows, cols), as loaders decode it: (code - zero) * scale, rounded once."""
        decoded = decode(self.codes, self.grid)
        if self.order is None:
            return decoded
        weight = np.empty_like(decoded)
        weight[:, self.order] = decoded
        return weight


class Scheme(Protocol):
    """How weights become codes. `bits` is the size of a code.

    fit(w, importance) -> Grid with one block per row of w. encode(w, importance) -> the codes that the reference
    quantizer of the scheme chooses, with their grid. w is float32 (rows, cols) and never changed, importance float32
    (cols,) or None. Both raise NonFiniteError for a weight that is not finite or a scale that overflows its type, and
    UnsupportedError for a shape that the scheme does not divide.
    """

    @property
    def bits(self) -> int: ...

    def fit(self, w: F32, importance: F32 | None = None) -> Grid: ...

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized: ...


def decode(codes: Codes, grid: Grid) -> F32:
    """Codes (rows, cols) on a grid with one block per row to float32 (rows, cols).

    Equal to `grid.values` bit for bit where scales have at most 11 significant bits (float16, bfloat16). With float32
    scales and zero points that one rounds twice; loaders subtract first, and so does this.
    """
    zero = grid.fields.get(ZERO)
    if zero is None:
        return grid.values(codes)
    rows, cols = codes.shape
    groups = grid.scale.shape[1]
    steps = codes.reshape(rows, groups, cols // groups) - zero[:, :, None]
    values: F32 = steps.astype(np.float32) * grid.scale[:, :, None]
    return values.reshape(rows, cols)


def nearest(w: F32, grid: Grid) -> Codes:
    """The code whose value is nearest to each weight, int16 (n, block) for w float32 (n, block).

    Integers: ties to the even code. Codebooks: ties to the greater level; of codes with equal values the first.
    """
    n, block = w.shape
    groups = grid.scale.shape[1]
    x: F32 = w.reshape(n, groups, block // groups)
    if grid.offset is not None:
        x = x - grid.offset[:, :, None]
    scale = grid.scale[:, :, None]  # of a file it may be zero: every code is then as near as any other
    x = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0).reshape(n, block)
    if grid.levels is None:
        return np.clip(np.rint(x), grid.qmin, grid.qmax).astype(np.int16)
    levels, codes = np.unique(grid.levels[grid.qmin : grid.qmax + 1], return_index=True)
    middles = (levels[:-1] + levels[1:]) / np.float32(2)
    return (codes + grid.qmin).astype(np.int16)[np.searchsorted(middles, x, side="right")]


def group_count(cols: int, group: int) -> int:
    """How many groups a row of `cols` weights has; a group of -1 is the whole row. Raises UnsupportedError."""
    if group == -1:
        return 1
    if group < 1 or cols % group:
        sizes = [size for size in (256, 128, 64, 32, 16) if cols % size == 0]
        near = f"a group size of {sizes[0]}" if sizes else "one group per row (group size -1)"
        raise UnsupportedError(
            f"rows of {cols:,} weights do not divide into groups of {group}", hint=f"use {near}", key="group_size"
        )
    return cols // group


def stored_scales(scale: F32, dtype: ScaleDtype, weights_per_scale: int) -> F32:
    """`scale` (any shape) as its stored type will hold it, never zero, float32 of the same shape.

    A scale that rounds to zero becomes EPSILON: readers never notice, but methods divide by it. Raises
    NonFiniteError, with the flat index of the first weight of the group, for one that the type cannot hold.
    """
    from quantkit.qtypes.floats import first_nonfinite, to_bf16, to_f16, to_float32  # numba: only once weights are read

    rounded = np.array(scale, np.float32, order="C")
    try:
        if dtype == "F32":
            _require_finite(rounded, first_nonfinite(rounded))
        else:
            patterns = to_f16(rounded) if dtype == "F16" else to_bf16(rounded)
            to_float32(patterns.reshape(-1).view(np.uint8), dtype, rounded)
    except NonFiniteError as error:
        index = error.index or 0
        raise NonFiniteError(
            f"the group at weight {index * weights_per_scale} needs a scale of {scale.flat[index]:g}, which "
            f"{dtype} cannot hold",
            index=index * weights_per_scale,
            hint="keep this tensor unquantized, or store its scales as F32",
        ) from None
    rounded[np.abs(rounded) < SMALLEST_SCALE] = EPSILON[dtype]
    return rounded


def require_finite(w: F32) -> None:
    """Raise NonFiniteError, with the flat index, for the first weight that is NaN or infinite."""
    from quantkit.qtypes.floats import first_nonfinite  # numba: only once weights are read

    _require_finite(w, first_nonfinite(w))


def _require_finite(w: F32, index: int) -> None:
    if index >= 0:
        what = f"weight {w.flat[index]:g} at index {index} is not finite"
        raise NonFiniteError(what, index=index, hint="the checkpoint is damaged: fetch it again")
