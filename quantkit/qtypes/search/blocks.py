"""From a matrix to bytes or to a grid, a slab of rows at a time.

A searched type is described by an `Encoder`, which turns a few rows into bytes and the grid on which they lie. Slabs
keep the scratch memory of a call below 4 MB whatever the size of the matrix; rows are independent, so where they are
cut never changes a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import NonFiniteError
from quantkit.qtypes.base import Grid
from quantkit.records import record
from quantkit.tensors import F32, U8

F16 = NDArray[np.float16]
F16_EXPONENT = 0x7C00

# Weights in a slab. Smaller slabs cost time in Python, larger ones page faults: scratch memory of 2 MB and more goes
# back to the system after every slab. Which is faster differs by type; docs/benchmarks.md has the measurements.
SLAB = 1 << 19
LARGE_SLAB = 1 << 20


@record
class Encoder:
    """A searched type: `block` weights become `nbytes` bytes.

    quantize(rows (r, cols), importance (cols,) or None, raw (n, nbytes)) fills raw for all blocks of the rows, and
    returns the grid that the bytes describe. It gets about `slab` weights at a time.
    """

    block: int
    nbytes: int
    quantize: Callable[[F32, F32 | None, U8], Grid]
    slab: int = SLAB


def half(values: F32) -> F16:
    """float32 rounded to float16; what is too large becomes infinite, for `encode` and `fit` to report."""
    from quantkit.qtypes.floats import to_f16

    try:
        return to_f16(values).view(np.float16)
    except NonFiniteError:
        with np.errstate(over="ignore"):
            return values.astype(np.float16)


def widened(values: F16) -> F32:
    """float16 as float32, (n,)."""
    from quantkit.qtypes.floats import to_float32

    out = np.empty(values.shape, np.float32)
    to_float32(values.view(np.uint8), "F16", out)
    return out


def read_half(raw: U8, at: int) -> F16:
    """The float16 at the even byte `at` of every block of raw (n, nbytes), nbytes even, little-endian."""
    return np.ascontiguousarray(raw).view("<f2")[:, at // 2].astype(np.float16)


def write_half(raw: U8, at: int, values: NDArray[np.generic]) -> None:
    """Store float16 (n,) at the even byte `at` of every block of contiguous raw (n, nbytes), nbytes even."""
    raw.view("<u2")[:, at // 2] = values.astype("<f2", copy=False).view("<u2")


def encode(w: F32, importance: F32 | None, encoder: Encoder) -> U8:
    """Bytes (rows, row_bytes) of float32 w (rows, cols).

    Raises NonFiniteError, with the flat index of the block, where a stored scale would be infinite or NaN.
    """
    raw = _memory(w, encoder)
    with np.errstate(all="ignore"):
        for _ in _slabs(w, importance, encoder, raw):
            pass
    return raw.reshape(len(w), w.shape[1] // encoder.block * encoder.nbytes)


def fit(w: F32, importance: F32 | None, encoder: Encoder) -> Grid:
    """The grids of all blocks of w (rows, cols), in row-major order. Raises like `encode`."""
    with np.errstate(all="ignore"):
        grids = list(_slabs(w, importance, encoder, _memory(w, encoder)))
    first = grids[0]
    return replace(
        first,
        scale=np.concatenate([grid.scale for grid in grids]),
        offset=None if first.offset is None else np.concatenate([g.offset for g in grids if g.offset is not None]),
        fields={key: np.concatenate([grid.fields[key] for grid in grids]) for key in first.fields},
    )


def _memory(w: F32, encoder: Encoder) -> U8:
    return np.empty((w.size // encoder.block, encoder.nbytes), np.uint8)


def _slabs(w: F32, importance: F32 | None, encoder: Encoder, raw: U8) -> Iterator[Grid]:
    """Fill raw (n, nbytes) slab by slab, and give the grid of each.

    Infinities and NaN are part of the arithmetic, as in C: the caller silences warnings about them.
    """
    rows, cols = w.shape
    if importance is not None:
        assert importance.shape == (cols,), (importance.shape, cols)
        importance = np.require(importance, np.float32, ["C", "A"])
    step, per_row = max(1, encoder.slab // max(cols, 1)), cols // encoder.block
    for start in range(0, max(rows, 1), step):
        stop = start + step
        grid = encoder.quantize(w[start:stop], importance, raw[start * per_row : stop * per_row])
        yield finite(grid, encoder.block, start * cols)


def finite(grid: Grid, block: int, start: int = 0) -> Grid:
    """A grid of blocks of a flat array, from `start` on. Raises NonFiniteError where a scale is infinite or NaN."""
    for key, values in grid.fields.items():
        # All bits of the exponent set: infinite or NaN. numpy's isfinite is slow for float16.
        if values.dtype != np.float16 or ((values.view(np.uint16) & F16_EXPONENT) < F16_EXPONENT).all():
            continue
        index = start + int(np.argmin(np.isfinite(values))) * block
        raise NonFiniteError(
            f'the block of {block} weights at index {index} needs a scale ("{key}") that float16 cannot hold: '
            "its largest value is 65504",
            index=index,
            hint="keep this tensor in bf16 or f32",
        )
    return grid
