"""What a scheme is: how one linear layer is rounded when codes and scales are tensors of their own.

A `QuantType` (base.py) interleaves codes and scales in blocks of bytes. The checkpoints that servers load keep them
apart, and every container packs them in its own way; what they agree on is a matrix of codes and its grid. A scheme
fits that grid (`fit`) and rounds to it as the loader's own quantizer would (`encode`); formats/ packs the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import NonFiniteError, UnsupportedError
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

ScaleDtype = Literal["F16", "BF16", "F32"]
Activations = Literal["none", "dynamic", "static"]

ZERO = "zero"  # field of a grid: integer zero points (rows, groups), where the scheme has them

# Distance from 1 to the next number: the scale of a group whose own scale is zero, as compressed-tensors has it.
EPSILON: dict[ScaleDtype, float] = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-23}
SMALLEST_SCALE = 2.0**-126  # below, dividing by a scale depends on how the processor treats subnormal numbers


@record
class Quantized:
    """A rounded linear layer of weight (rows = out, cols = in).

    `codes` is int16 (rows, cols). `grid` has one block per row, n = rows, whose groups lie side by side, so that
    grid.scale is (rows, groups); that of a quantization type has an entry per block of the type. `order` is None, or
    int32 (cols,): column j of `codes` is then column order[j] of the weight (activation order that is kept on disk).
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


@record(kw_only=True)
class Traits:
    """What tables, engines and checks ask of how a weight is stored.

    A scheme says what its codes are, and a layout adds where engines find them:

    type, bits     the word that recipes have for it ("int", "fp8"), and the size of a code
    word, words    it in one word for tables ("int4-g128"), and in some for people ("w4g128 symmetric")
    group          weights of a row that share a scale, -1: all of them
    granularity    what a scale of FP8 is for: "tensor", "channel", "block"
    symmetric      whether there are no zero points; `lowest_zero` is the smallest that can be stored
    scale_dtype    the type of scales
    top            the largest magnitude in units of its scale; 0 where a scale is not found so
    sharing        makes the scheme of several weights up to a magnitude, None where no weights share a scale
    weighed        whether its own encoder weighs columns by the mean squares of their inputs

    format         what configurations call the way it is stored ("gptq_v2", "pack-quantized")
    activations    whether inputs of the layer are rounded, and when their scales are found
    outputs, inputs  how many outputs and inputs stay together where engines cut the layer
    summary        the container and all this for people, where `words` do not say enough
    """

    type: str
    bits: float
    word: str
    words: str
    group: int = -1
    granularity: str = ""
    symmetric: bool = True
    lowest_zero: int = 0
    scale_dtype: ScaleDtype = "F32"
    top: float = 0
    sharing: Callable[[float], Scheme] | None = None
    weighed: bool = False
    format: str = ""
    activations: Activations = "none"
    outputs: int = 1
    inputs: int = 1
    summary: str = ""

    @property
    def in_blocks(self) -> bool:
        """Whether rows share scales with their neighbours, in blocks."""
        return self.granularity == "block"


def stacked(parts: Sequence[Quantized]) -> Quantized:
    """Matrices one below the other, in stored order each: several experts, or parts of a matrix."""
    first = parts[0]
    if len(parts) == 1:
        return first
    offsets = [part.grid.offset for part in parts if part.grid.offset is not None]
    grid = replace(
        first.grid,
        scale=np.concatenate([part.grid.scale for part in parts]),
        offset=np.concatenate(offsets) if offsets else None,
        fields={key: np.concatenate([part.grid.fields[key] for part in parts]) for key in first.grid.fields},
    )
    return Quantized(np.concatenate([part.codes for part in parts]), grid)


class Scheme(Protocol):
    """How weights become codes. `bits` is the size of a code.

    fit(w, importance) -> Grid with one block per row of w. encode(w, importance) -> the codes that the reference
    quantizer of the scheme chooses, with their grid. w is float32 (rows, cols) and never changed, importance float32
    (cols,) or None. Both raise NonFiniteError for a weight that is not finite or a scale that overflows its type, and
    UnsupportedError for a shape that the scheme does not divide. target(cols) is the scheme as methods see it, for
    weights with `cols` columns.
    """

    @property
    def bits(self) -> int: ...

    @property
    def traits(self) -> Traits: ...

    def fit(self, w: F32, importance: F32 | None = None) -> Grid: ...

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized: ...

    def target(self, cols: int) -> Target: ...


def whole_target(scheme: Scheme) -> Target:
    """The target of a scheme whose scales are shared by rows, or stored relative to one another: only a whole matrix
    is ever fitted."""
    return Target(scheme.fit, 0, by_row=True)


def joint(schemes: Sequence[Scheme], weights: Sequence[F32]) -> list[Scheme]:
    """The schemes of layers that engines run as one, fitted to all of their weights where they share a scale."""
    if schemes[0].traits.sharing is None:
        return list(schemes)
    largest = max(float(np.abs(weight).max()) for weight in weights)
    return [scheme if (of := scheme.traits.sharing) is None else of(largest) for scheme in schemes]


def decode(codes: Codes, grid: Grid) -> F32:
    """Codes (rows, cols) on a grid with one block per row, or several, to float32 (rows, cols).

    Equal to `grid.values` bit for bit where scales have at most 11 significant bits (float16, bfloat16). With float32
    scales and zero points that one rounds twice; loaders subtract first, and so does this.
    """
    zero = grid.fields.get(ZERO)
    if zero is None:
        return grid.values(codes.reshape(len(grid.scale), -1)).reshape(codes.shape)
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
    rounded = stored_values(scale, dtype, weights_per_scale, "scale")
    rounded[np.abs(rounded) < SMALLEST_SCALE] = EPSILON[dtype]
    return rounded


def stored_values(values: F32, dtype: ScaleDtype, weights_per_value: int, what: str = "bias") -> F32:
    """What groups have (any shape) as its stored type will hold it, float32 of the same shape.

    Raises NonFiniteError as `stored_scales` does; `what` is its word for a value.
    """
    from quantkit.qtypes.floats import first_nonfinite, to_bf16, to_f16, to_float32  # numba: only once weights are read

    rounded = np.array(values, np.float32, order="C")
    try:
        if dtype == "F32":
            _require_finite(rounded, first_nonfinite(rounded))
        else:
            patterns = to_f16(rounded) if dtype == "F16" else to_bf16(rounded)
            to_float32(patterns.reshape(-1).view(np.uint8), dtype, rounded)
    except NonFiniteError as error:
        index = error.index or 0
        raise NonFiniteError(
            f"the group at weight {index * weights_per_value} needs a {what} of {values.flat[index]:g}, which "
            f"{dtype} cannot hold",
            index=index * weights_per_value,
            hint="keep this tensor unquantized, or store its scales as F32",
        ) from None
    return rounded


def require_finite(w: F32) -> None:
    """Raise NonFiniteError, with the flat index, for the first weight that is NaN or infinite."""
    from quantkit.qtypes.floats import first_nonfinite  # numba: only once weights are read

    _require_finite(w, first_nonfinite(w))


def _require_finite(w: F32, index: int) -> None:
    if index >= 0:
        what = f"weight {w.flat[index]:g} at index {index} is not finite"
        raise NonFiniteError(what, index=index, hint="the checkpoint is damaged: fetch it again")
