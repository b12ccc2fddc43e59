"""Steps that move elements of an array: take rows, fold, turn. `families.layouts` writes them, parts follow them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.records import record

Array = NDArray[Any]
Step = tuple[str, tuple[int, ...]]  # the name of a step and its numbers, as a plan identifies it


@record
class Kind:
    """A step: `apply` moves the elements of an array; `whole_rows` where the last axis stays what it is; `inside` where
    each matrix of a stack is treated by itself."""

    apply: Callable[..., Array]
    whole_rows: bool
    inside: bool


def _axis(x: Array) -> int:
    """The axis of rows: of a vector its only one."""
    return max(x.ndim - 2, 0)


def _rows(x: Array, start: int, stop: int) -> Array:
    rows = x.shape[_axis(x)]
    if not 0 <= start <= stop <= rows:
        raise IndexError(f"rows {start} to {stop} of {rows}")
    return _sliced(x, slice(start, stop))


def _every(x: Array, which: int, of: int) -> Array:
    return _sliced(x, slice(which, None, of))


def _sliced(x: Array, rows: slice) -> Array:
    return x[(slice(None),) * _axis(x) + (rows,)]


def _fold(x: Array, outer: int, inner: int) -> Array:
    axis = _axis(x)
    return x.reshape(*x.shape[:axis], outer, inner, *x.shape[axis + 1 :])


def _flat(x: Array) -> Array:
    """All axes but the last become one; of a folded vector, all."""
    return x.reshape(-1, x.shape[-1])


def _regroup(x: Array, outer: int, inner: int) -> Array:
    axis = _axis(x)
    parts = x.reshape(*x.shape[:axis], outer, inner, -1, *x.shape[axis + 1 :])
    return np.swapaxes(parts, axis, axis + 1).reshape(x.shape)


def _turn(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)


def _columns(x: Array, outer: int, inner: int) -> Array:
    return _turn(_regroup(_turn(x), outer, inner))


def _column(x: Array) -> Array:
    return x.reshape(-1, 1)


def _squeeze(x: Array) -> Array:
    return x.reshape([size for size in x.shape if size != 1] or [1])


def _lead(x: Array) -> Array:
    return x[None]


def _line(x: Array) -> Array:
    return x.reshape(-1)


def _split_last(x: Array, outer: int, inner: int) -> Array:
    return x.reshape(*x.shape[:-1], outer, inner)


def _squeeze_rows(x: Array) -> Array:
    """The same of the numbers of rows, whose last axis is not one of the tensor."""
    return x.reshape([*(size for size in x.shape[:-1] if size != 1), 1])


KINDS = {
    "rows": Kind(_rows, True, True),
    "every": Kind(_every, True, True),
    "fold": Kind(_fold, True, False),
    "flat": Kind(_flat, True, False),
    "regroup": Kind(_regroup, True, True),
    "squeeze": Kind(_squeeze, True, False),
    "rowwise_squeeze": Kind(_squeeze_rows, True, False),
    "column": Kind(_column, True, False),
    "lead": Kind(_lead, True, False),
    "turn": Kind(_turn, False, True),
    "columns": Kind(_columns, False, True),
    "split": Kind(_split_last, False, False),
    "line": Kind(_line, False, False),
}


def move(x: Array, steps: tuple[Step, ...]) -> Array:
    """The elements of an array after the steps."""
    for name, numbers in steps:
        x = KINDS[name].apply(x, *numbers)
    return x
