"""Where the elements of a source tensor go in a target: a small algebra of steps, written left to right.

    fold("heads", "nope+v") >> rows("0", "nope") >> turn

Every step takes elements, moves them, or drops some; none makes any, and none looks at their values. A layout whose
steps leave each row whole becomes runs of source rows and is streamed; any other reads one matrix at a time, of a stack
the matrix that it needs. Applied to the numbers of the elements instead of their values, a layout says where each one
goes: that is how tests prove that none is lost or doubled.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError
from quantkit.families.hparams import Hparams
from quantkit.families.model import Part, Rows
from quantkit.families.parts import Every, Made, Summed
from quantkit.families.placements import Placement
from quantkit.families.steps import KINDS, Step, move
from quantkit.records import record
from quantkit.tensors import TensorInfo

ROWS_TOGETHER = 256  # of a matrix whose columns are moved


@record
class Layout:
    """Steps whose numbers are expressions of a checkpoint's numbers. It is the `place` of a row."""

    steps: tuple[tuple[str, tuple[str, ...]], ...] = ()
    stacked: str | None = None  # the number of matrices that make the target, of which the source is one

    def __rshift__(self, then: Layout) -> Layout:
        return Layout((*self.steps, *then.steps), then.stacked or self.stacked)

    def resolved(self, hparams: Hparams) -> tuple[Step, ...]:
        """The steps with their numbers. Raises InputError for one that is no count."""
        return tuple((name, tuple(_number(text, hparams) for text in numbers)) for name, numbers in self.steps)

    def __call__(self, info: TensorInfo, hparams: Hparams) -> Placement:
        steps = self.resolved(hparams)
        try:
            placement = _place(info, steps)
        except (ValueError, IndexError) as error:
            message = f'tensor "{info.name}" of shape {list(info.shape)} cannot be taken apart: {error}'
            hint = "config.json and the weights are not of the same model"
            raise InputError(message, tensor=info.name, hint=hint) from error
        if self.stacked is None:
            return placement
        return Placement((hparams.count(self.stacked), *placement.shape), placement.parts)


def _number(text: str, hparams: Hparams) -> int:
    return 0 if text == "0" else hparams.size(text)


def _place(info: TensorInfo, steps: tuple[Step, ...]) -> Placement:
    vector = len(info.shape) == 1
    if all(KINDS[name].whole_rows for name, _ in steps):
        numbers = np.arange(info.rows, dtype=np.int64)
        lying = move(numbers.reshape(info.shape if vector else (*info.shape[:-1], 1)), _on_rows(steps, info.cols))
        if not vector and lying.ndim > 1:  # else a matrix becomes a vector
            shape = (*lying.shape[:-1], info.cols) if lying.shape[-1] == 1 else (*lying.shape, info.cols)
            return Placement(shape, runs(info.name, lying.reshape(-1)))
        if vector and (lying.ndim == 1 or lying.shape[-1] == 1):
            return Placement(lying.shape, runs(info.name, lying.reshape(-1)))
    return _made(info, steps)


def _on_rows(steps: tuple[Step, ...], cols: int) -> tuple[Step, ...]:
    """The steps as they move numbers of rows; an axis of length 1 is dropped from the tensor, not from its rows."""
    return tuple(("rowwise_squeeze", ()) if name == "squeeze" and cols > 1 else (name, n) for name, n in steps)


def _made(info: TensorInfo, steps: tuple[Step, ...]) -> Placement:
    """Matrices that are moved as a whole, each by itself where the steps allow it."""
    folded = bool(steps) and steps[0][0] == "fold" and len(info.shape) == 2
    alone = all(KINDS[name].inside for name, _ in (steps[1:] if folded else steps))
    if alone and (folded or len(info.shape) == 3):
        count, height = steps[0][1] if folded else info.shape[:2]
        inner = steps[1:] if folded else steps
        if count * height != info.rows:
            raise ValueError(f"{count} times {height} are not {info.rows}")
        parts = tuple(_matrix(info, n * height, (height, info.cols), inner) for n in range(count))
        return Placement((count, *parts[0].after), parts)
    if len(info.shape) == 2 and all(name == "columns" for name, _ in steps):  # each row by itself
        heights = [(first, min(ROWS_TOGETHER, info.rows - first)) for first in range(0, info.rows, ROWS_TOGETHER)]
        return Placement(info.shape, tuple(_matrix(info, first, (n, info.cols), steps) for first, n in heights))
    part = _matrix(info, 0, info.shape, steps)
    return Placement(part.after, (part,))


def _matrix(info: TensorInfo, start: int, shape: tuple[int, ...], steps: tuple[Step, ...]) -> Made:
    return Made(Rows(info.name, start, start + _rows_of(shape)), shape, steps, _after(shape, steps))


@lru_cache(1024)  # all matrices of a stack, and most layers, have the same
def _after(shape: tuple[int, ...], steps: tuple[Step, ...]) -> tuple[int, ...]:
    """What becomes of a shape, found by moving an array without memory of its own."""
    return move(np.broadcast_to(np.int8(0), shape), steps).shape


def _rows_of(shape: tuple[int, ...]) -> int:
    return prod(shape[:-1]) if len(shape) > 1 else shape[0]


def runs(tensor: str, numbers: NDArray[np.int64]) -> tuple[Part, ...]:
    """Source rows, in this order, as runs of neighbours or of every so many."""
    if len(numbers) == 0:
        raise ValueError("nothing is left of it")
    differences = np.diff(numbers)
    changes = [*np.flatnonzero(np.diff(differences)).tolist(), len(differences) - 1]
    found: list[Part] = []
    first = change = 0
    while first < len(numbers):
        while change < len(changes) - 1 and changes[change] < first:
            change += 1
        start, last, step = int(numbers[first]), first, 1
        if first < len(differences) and (
            differences[first] == 1 or (differences[first] > 1 and changes[change] > first)
        ):
            last, step = changes[change] + 1, int(differences[first])
        stop = start + (last - first) * step + 1
        found.append(Rows(tensor, start, stop) if step == 1 else Every(tensor, start, stop, step))
        first = last + 1
    return tuple(found)


def rows(start: str, stop: str) -> Layout:
    """Rows [start, stop) of every matrix."""
    return _step("rows", start, stop)


def every(which: int, of: int) -> Layout:
    """Row number `which` of every `of` ones."""
    return _step("every", str(which), str(of))


def fold(outer: str, inner: str) -> Layout:
    """Rows (outer * inner) become a stack: `outer` matrices of `inner` rows."""
    return _step("fold", outer, inner)


def regroup(outer: str, inner: str) -> Layout:
    """Rows that lie as (outer, inner, rest) come to lie as (inner, outer, rest)."""
    return _step("regroup", outer, inner)


def columns(outer: str, inner: str) -> Layout:
    """Columns that lie as (outer, inner, rest) come to lie as (inner, outer, rest)."""
    return _step("columns", outer, inner)


def split(outer: str, inner: str) -> Layout:
    """The last axis becomes two: (outer * inner) -> (outer, inner)."""
    return _step("split", outer, inner)


def stack(count: str = "num_local_experts") -> Layout:
    """The source is one of `count` matrices that make the target."""
    return Layout(stacked=count)


@record
class Joined:
    """Layouts of one source, whose rows lie one below the other in the target."""

    layouts: tuple[Layout, ...]

    def __call__(self, info: TensorInfo, hparams: Hparams) -> Placement:
        placements = [layout(info, hparams) for layout in self.layouts]
        height = sum(placement.shape[0] for placement in placements)
        parts = tuple(part for placement in placements for part in placement.parts)
        return Placement((height, *placements[0].shape[1:]), parts)


def joined(*layouts: Layout) -> Joined:
    """What several layouts take of one source, one below the other: matrices of the same width, or vectors."""
    return Joined(layouts)


@record
class Added:
    """Layouts of one source, of one shape, whose values are added."""

    layouts: tuple[Layout, ...]

    def __call__(self, info: TensorInfo, hparams: Hparams) -> Placement:
        placements = [layout(info, hparams) for layout in self.layouts]
        parts = zip(*(placement.parts for placement in placements), strict=True)
        return Placement(placements[0].shape, tuple(Summed(each) for each in parts))


def summed(*layouts: Layout) -> Added:
    """The sum of what several layouts take of one source: tensors of the same shape."""
    return Added(layouts)


def _step(name: str, *numbers: str) -> Layout:
    return Layout(((name, numbers),))


turn = _step("turn")  # the last two axes change places
flat = _step("flat")  # a stack becomes one matrix, a folded vector one vector
squeeze = _step("squeeze")  # axes of length 1 are dropped
column = _step("column")  # a vector becomes a matrix of one column
lead = _step("lead")  # an axis of length 1 in front
line = _step("line")  # all axes become one
