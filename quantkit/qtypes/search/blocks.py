"""From a matrix to bytes or to a grid, a slab of rows at a time.

A searched type is described by `choose`, which finds scales and codes for the blocks of a few rows, and `pack`.
Slabs keep the scratch memory of a call near 4 MB whatever the size of the matrix; rows are independent, so where
they are cut never changes a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import NonFiniteError
from quantkit.qtypes.base import Codes, Grid
from quantkit.tensors import F32, U8

F16 = NDArray[np.float16]
# choose(rows (r, cols), importance (cols,) or None) -> codes (n, block) and grid of all blocks of the rows.
Choose = Callable[[F32, F32 | None], tuple[Codes, Grid]]

SLAB = 1 << 18  # weights


def half(values: F32) -> F16:
    """float32 rounded to float16; what is too large becomes infinite, for `encode` and `fit` to report."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float16)


def read_half(raw: U8, at: int) -> F16:
    """The float16 at byte `at` of every block of raw (n, nbytes), little-endian."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2").reshape(-1).astype(np.float16, copy=False)


def write_half(raw: U8, at: int, values: NDArray[np.generic]) -> None:
    """Store float16 (n,) at byte `at` of every block of raw (n, nbytes)."""
    raw[:, at : at + 2] = np.ascontiguousarray(values, "<f2").view(np.uint8).reshape(-1, 2)


def encode(w: F32, importance: F32 | None, choose: Choose, pack: Callable[[Codes, Grid], U8]) -> U8:
    """Bytes (rows, row_bytes) of float32 w (rows, cols): the codes that `choose` finds, packed.

    Raises NonFiniteError, with the flat index of the block, where a stored scale would be infinite or NaN.
    """
    packed = []
    for codes, grid in _slabs(w, importance, choose):
        packed.append(pack(codes, grid))
        block = codes.shape[1]
    raw = packed[0] if len(packed) == 1 else np.concatenate(packed)
    return raw.reshape(len(w), w.shape[1] // block * raw.shape[1])


def fit(w: F32, importance: F32 | None, choose: Choose) -> Grid:
    """The grids that `choose` finds for all blocks of w (rows, cols), in row-major order. Raises like `encode`."""
    grids = [grid for _, grid in _slabs(w, importance, choose)]
    first = grids[0]
    return replace(
        first,
        scale=np.concatenate([grid.scale for grid in grids]),
        offset=None if first.offset is None else np.concatenate([g.offset for g in grids if g.offset is not None]),
        fields={key: np.concatenate([grid.fields[key] for grid in grids]) for key in first.fields},
    )


def _slabs(w: F32, importance: F32 | None, choose: Choose) -> Iterator[tuple[Codes, Grid]]:
    rows, cols = w.shape
    if importance is not None:
        assert importance.shape == (cols,), (importance.shape, cols)
        importance = np.require(importance, np.float32, ["C", "A"]).view()
        importance.flags.writeable = False
    step = max(1, SLAB // max(cols, 1))
    for start in range(0, max(rows, 1), step):
        codes, grid = choose(w[start : start + step], importance)
        _check_finite(grid, codes.shape[1], start * cols)
        yield codes, grid


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
