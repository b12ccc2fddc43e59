"""In which order columns are visited, and in which they are stored."""

from __future__ import annotations

import numpy as np

from quantkit.methods.base import Columns, Indices
from quantkit.methods.settings import Order
from quantkit.tensors import F32


def columns(order: Order, diagonal: F32, span: int, together: int = 1) -> Columns:
    """The order for a Hessian with this diagonal (cols,); equal entries keep their order.

    Runs of `together` columns, a divisor of the span, stay as they are and count with their largest entry.

    Columns with large inputs come first: their errors can be made up for by all others. WITHIN keeps spans together
    and starts with the one that has the largest entry (GPTQModel's act_group_aware sorts the same way).
    """
    natural = np.arange(diagonal.size)
    if together > 1:
        runs = columns(order, diagonal.reshape(-1, together).max(axis=1), span // together)
        return Columns(_unfolded(runs.stored, together), _unfolded(runs.visited, together))
    if order is Order.STORAGE:
        return Columns(natural, natural)
    descending = np.argsort(-diagonal, kind="stable")
    if order is Order.PERMUTED:
        return Columns(descending, natural)
    if order is Order.ACTIVATION or span == 0:
        return Columns(natural, descending)
    by_span = diagonal.reshape(-1, span)
    inside = np.argsort(-by_span, axis=1, kind="stable")
    first = np.argsort(-by_span.max(axis=1), kind="stable")
    return Columns(natural, (inside + span * np.arange(len(by_span))[:, None])[first].reshape(-1))


def _unfolded(runs: Indices, together: int) -> Indices:
    return (runs[:, None] * together + np.arange(together)).reshape(-1)
