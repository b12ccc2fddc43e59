"""Slabs: runs of rows small enough to hold in memory, cut where a tensor's layout allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from quantkit.errors import NonFiniteError
from quantkit.families.model import ModelTensor
from quantkit.qtypes.floats import first_nonfinite
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import F32, U8, TensorRef

TABLE_WEIGHTS = 1 << 24  # of a matrix over the vocabulary, where all its rows are rounded alike: 64 MiB of float32
SLAB_WEIGHTS = 1 << 20  # 4 MB of float32: stays in a core's share of the cache, keeps memory flat


@record(slots=True)
class Slab:
    """Rows [start, stop) of a tensor of the artifact. `matrix` is the expert the rows belong to, 0 without experts."""

    start: int
    stop: int
    matrix: int


def cut(tensor: ModelTensor, weights: int = SLAB_WEIGHTS) -> Iterator[Slab]:
    """Cut a tensor into slabs of about `weights` weights.

    A slab never crosses an expert (importance weights differ per expert) nor splits a unit of the row order. What has
    more axes than a stack of experts is the kernel of a convolution.
    """
    rows, cols = tensor.rows, tensor.cols
    rows_per_matrix = tensor.shape[-2] if len(tensor.shape) == 3 else rows
    unit = tensor.unit
    step = max(weights // cols // unit, 1) * unit
    for first in range(0, rows, max(rows_per_matrix, 1)):
        for start in range(first, first + rows_per_matrix, step):
            yield Slab(start, min(start + step, first + rows_per_matrix), first // rows_per_matrix)


def read_slab(checkpoint: Checkpoint, tensor: ModelTensor, start: int, stop: int) -> F32:
    """Rows [start, stop) of the artifact's tensor before row order, float32 (stop - start, cols), as a fresh array.

    Raises InputError when the source is shorter than its header said.
    """
    cols = tensor.cols
    pieces: list[F32] = []
    first = 0
    for part in tensor.parts:
        low, high = max(start, first), min(stop, first + part.rows)
        if low < high:
            pieces.append(part.read(checkpoint.ref, low - first, high - first))
        first += part.rows
    slab = pieces[0] if len(pieces) == 1 else np.concatenate([p.reshape(-1, cols) for p in pieces])
    slab = slab.reshape(stop - start, cols)
    return slab + np.float32(tensor.add) if tensor.add else slab


def read_stored(checkpoint: Checkpoint, tensor: ModelTensor, dtype: str, slab: Slab) -> U8 | None:
    """The rows of a slab before row order as the source stores them, uint8 (rows, row bytes).

    None where they are not stored as floats of `dtype` throughout, or something is added to them.
    """
    wanted: list[tuple[TensorRef, int, int]] = []
    first = 0
    for part in tensor.parts:
        low, high = max(slab.start, first), min(slab.stop, first + part.rows)
        if low < high:
            source = part.source
            if source is None or tensor.add:
                return None
            ref = checkpoint.ref(source.tensor)
            if ref.info.dtype != dtype or ref.info.stored_as is not None:
                return None
            wanted.append((ref, source.start + low - first, source.start + high - first))
        first += part.rows
    pieces = [ref.read_packed(start, stop) for ref, start, stop in wanted]
    stored = pieces[0] if len(pieces) == 1 else np.concatenate([piece.reshape(-1) for piece in pieces])
    return stored.reshape(slab.stop - slab.start, -1)


def order_rows(tensor: ModelTensor, raw: U8) -> U8:
    """Apply the tensor's row order to packed rows (rows, row_bytes): rows are independent byte strings."""
    if tensor.row_order is None:
        return raw
    order = np.array(tensor.row_order.order)
    units = raw.reshape(-1, len(order), raw.shape[1])
    return np.ascontiguousarray(units[:, order]).reshape(raw.shape)


def source_order(tensor: ModelTensor, values: F32) -> F32:
    """Rows (rows, cols) of the artifact in the order of the source: the inverse of `order_rows`."""
    if tensor.row_order is None:
        return values
    inverse = np.argsort(np.array(tensor.row_order.order))
    return values.reshape(-1, len(inverse), values.shape[1])[:, inverse].reshape(values.shape)


def require_finite(tensor: ModelTensor, values: F32, start: int = 0) -> None:
    """Raise NonFiniteError, naming source tensor, row and column, for rows of `tensor` from `start` on."""
    bad = first_nonfinite(np.where(np.isinf(values), np.float32(0), values) if tensor.limits else values)
    if bad >= 0:
        hint = "the checkpoint is damaged or its training diverged; get a clean copy"
        found = NonFiniteError(f"is {values.flat[bad]} in the checkpoint", hint=hint, index=bad)
        raise non_finite(tensor, start, found)


def non_finite(tensor: ModelTensor, start: int, error: NonFiniteError) -> NonFiniteError:
    """The error for a weight of some rows of `tensor`, named by the row and column that it has in the source.

    `start` is the first of these rows; `error.index` counts weights from there.
    """
    index = error.index or 0
    row, col = divmod(index, tensor.cols)
    row += start
    where, first = tensor.name, 0
    for part in tensor.parts:
        if part.source and first <= row < first + part.rows:
            where, row = part.source.tensor, row - first + part.source.start
            break
        first += part.rows
    place = f"{where}[{row}, {col}]" if len(tensor.shape) > 1 else f"{where}[{row}]"
    return NonFiniteError(f"{place}: {error.message}", hint=error.hint, tensor=where, index=index)


def read_rows(checkpoint: Checkpoint, tensor: ModelTensor) -> F32:
    """All rows of the artifact's tensor before row order, float32 (rows, cols). Raises NonFiniteError."""
    values = read_slab(checkpoint, tensor, 0, tensor.rows)
    require_finite(tensor, values)
    return values


def read_weight(checkpoint: Checkpoint, linear: ModelTensor) -> F32:
    """The weight of a layer, float32 (rows, cols). Raises NonFiniteError."""
    weight = read_slab(checkpoint, linear, 0, linear.rows)
    require_finite(linear, weight)
    return weight
