"""Columns whose codes are chosen together: what the compiled loops need besides what single columns do."""

from __future__ import annotations

import numpy as np

from quantkit.methods.base import Indices
from quantkit.methods.columns.grids import Lookup
from quantkit.methods.columns.refit import Segment
from quantkit.qtypes.base import Codes
from quantkit.qtypes.search import entries
from quantkit.qtypes.search.vectors import RUN, Vectors
from quantkit.tensors import F32


def round_vectors(
    weight: F32, targets: F32, factor: tuple[F32, F32], on: tuple[Lookup, Indices], vectors: Vectors
) -> tuple[Codes, F32, F32]:
    """Codes, errors (rows, n) and loss (rows,) of columns rounded vector by vector: see vector_feedback.sweep_vectors.

    weight and targets (rows, n) and the factor, M (n, n) and D (n,), are in visited order; `on` is the grid and the
    group of each column.
    """
    mixing, pivots = factor
    grid, groups = on
    codes, errors, loss = np.empty(weight.shape, np.int16), np.empty_like(weight), np.empty(len(weight), np.float32)
    forms, runs = _forms(mixing, pivots, vectors.dims), _forms(mixing, pivots, RUN)
    weights = np.ascontiguousarray(np.diagonal(runs, axis1=1, axis2=2)).reshape(-1)
    table = (np.ascontiguousarray(grid.scale), np.ascontiguousarray(groups[::RUN]))
    entries.sweep_vectors(weight, targets, mixing, forms, weights, table, _tables(vectors), codes, errors, loss)
    return codes, errors, loss


def descend_vectors(segment: Segment, on: tuple[Lookup, Indices], vectors: Vectors, codes: Codes) -> tuple[F32, F32]:
    """Better vectors for the columns of a segment, whose levels and `codes` are changed; what they decode to (rows, n)
    and what each row gained (rows,)."""
    grid, groups = on
    decoded, gain = np.empty(codes.shape, np.float32), np.empty(len(codes), np.float32)
    blocks = np.stack([segment.hessian[k : k + vectors.dims, k : k + vectors.dims] for k in _firsts(codes, vectors)])
    inverses = np.linalg.inv(blocks.astype(np.float64)).astype(np.float32)
    table = (np.ascontiguousarray(grid.scale), np.ascontiguousarray(groups[::RUN]))
    entries.descend_vectors(
        segment.levels, segment.slope, segment.hessian, inverses, table, _tables(vectors), decoded, codes, gain
    )
    return decoded, gain


def _firsts(codes: Codes, vectors: Vectors) -> range:
    return range(0, codes.shape[1], vectors.dims)


def _forms(mixing: F32, pivots: F32, dims: int) -> F32:
    """A = M D M^T of every `dims` columns, float32 (n // dims, dims, dims)."""
    count = len(pivots) // dims
    own = mixing.reshape(count, dims, count, dims)[np.arange(count), :, np.arange(count)]
    roots = np.triu(own) * np.sqrt(pivots).reshape(count, 1, dims)
    forms: F32 = (roots[:, :, None, :] * roots[:, None, :, :]).sum(axis=3)
    return np.ascontiguousarray(forms)


def _tables(vectors: Vectors) -> tuple[F32, Codes, bool, int]:
    return (*vectors.tables, len(vectors.magnitudes))
