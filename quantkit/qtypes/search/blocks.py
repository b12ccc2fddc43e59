"""From a matrix to bytes or to a grid, a slab of rows at a time.

A searched type is described by `quantize`, which turns a few rows into bytes and the grid on which they lie. Slabs
keep the scratch memory of a call near 4 MB whatever the size of the matrix; rows are independent, so where they are
cut never changes a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import NonFiniteError
from quantkit.qtypes.base import Grid
from quantkit.tensors import F32, U8

F16 = NDArray[np.float16]
# quantize(rows (r, cols), importance (cols,) or None) -> bytes (n, nbytes) and grid of all blocks of the rows.
Quantize = Callable[[F32, F32 | None], tuple[U8, Grid]]

SLAB = 1 << 20  # weights


def half(values: F32) -> F16:
    """float32 rounded to float16; what is too large becomes infinite, for `encode` and `fit` to report."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float16)


def read_half(raw: U8, at: int) -> F16:
    """The float16 at the even byte `at` of every block of raw (n, nbytes), nbytes even, little-endian."""
    return np.ascontiguousarray(raw).view("<f2")[:, at // 2].astype(np.float16)


def write_half(raw: U8, at: int, values: NDArray[np.generic]) -> None:
    """Store float16 (n,) at the even byte `at` of every block of contiguous raw (n, nbytes), nbytes even."""
    raw.view("<u2")[:, at // 2] = values.astype("<f2", copy=False).view("<u2")


def encode(w: F32, importance: F32 | None, block: int, quantize: Quantize) -> U8:
    """Bytes (rows, row_bytes) of float32 w (rows, cols).

    Raises NonFiniteError, with the flat index of the block, where a stored scale would be infinite or NaN.
    """
    parts = [raw for raw, _ in _slabs(w, importance, block, quantize)]
    raw = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return raw.reshape(len(w), w.shape[1] // block * raw.shape[1])


def fit(w: F32, importance: F32 | None, block: int, quantize: Quantize) -> Grid:
    """The grids of all blocks of w (rows, cols), in row-major order. Raises like `encode`."""
    grids = [grid for _, grid in _slabs(w, importance, block, quantize)]
    first = grids[0]
    return replace(
        first,
        scale=np.concatenate([grid.scale for grid in grids]),
        offset=None if first.offset is None else np.concatenate([g.offset for g in grids if g.offset is not None]),
        fields={key: np.concatenate([grid.fields[key] for grid in grids]) for key in first.fields},
    )


def _slabs(w: F32, importance: F32 | None, block: int, quantize: Quantize) -> Iterator[tuple[U8, Grid]]:
    """Bytes (n, nbytes) and grid of the blocks of each slab of rows."""
    rows, cols = w.shape
    if importance is not None:
        assert importance.shape == (cols,), (importance.shape, cols)
    step = max(1, SLAB // max(cols, 1))
    for start in range(0, max(rows, 1), step):
        raw, grid = quantize(w[start : start + step], importance)
        _check_finite(grid, block, start * cols)
        yield raw, grid


def _check_finite(grid: Grid, block: int, start: int) -> None:
    for key, values in grid.fields.items():
        if values.dtype != np.float16 or np.isfinite(values).all():
            continue
        index = start + int(np.argmin(np.isfinite(values))) * block
        raise NonFiniteError(
            f'the block of {block} weights at index {index} needs a scale ("{key}") that float16 cannot hold: '
            "its largest value is 65504",
            index=index,
            hint="keep this tensor in bf16 or f32",
        )
