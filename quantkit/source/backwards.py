"""Rows of a target put back where they came from: the parts of a family's tensors, read from the other side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.families.model import ModelTensor, Part, Rows
from quantkit.families.parts import LEAST_SCALE, Every, Made, Mapped
from quantkit.families.steps import KINDS, Step, move
from quantkit.formats.containers.packed import Entry, packed
from quantkit.records import record
from quantkit.tensors import F32, U8, WHOLE_DTYPES, TensorInfo, TensorRef

ULPS = 4  # how far around a value its origin is looked for


@record
class Piece:
    """Some rows of a source tensor: the part of a target that they became, which begins at its row `first`."""

    target: ModelTensor
    part: Part
    first: int

    @property
    def rows(self) -> range:
        """The rows of the source that it has, of a part that moves whole matrices all of their region."""
        part = _of_source(self.part)
        if isinstance(part, Every):
            return range(part.start, part.stop, part.step)
        assert isinstance(part, Rows | Made), part
        region = part.region if isinstance(part, Made) else part
        return range(region.start, region.stop)


def pieces_of(tensors: Iterator[ModelTensor] | tuple[ModelTensor, ...]) -> dict[str, tuple[Piece, ...]]:
    """The pieces of every source tensor that some targets are made of."""
    found: dict[str, tuple[Piece, ...]] = {}
    for target in tensors:
        first = 0
        for part in target.parts:
            for name in {rows.tensor for rows in part.sources}:
                found[name] = (*found.get(name, ()), Piece(target, part, first))
            first += part.rows
    return found


@dataclass
class _Kept:
    """The last matrix that was put together, which the next slab of rows is likely to want, and of matrices of three
    values, by their first rows, the share that is not zero."""

    lock: Any = field(default_factory=Lock)
    region: tuple[int, int] | None = None
    values: tuple[F32, Any] | None = None
    shares: dict[int, float] = field(default_factory=dict)


@record
class RestoredTensor:
    """A source tensor whose rows come from targets: `open_target` opens one by its name. Reading is safe from several
    threads. The bytes of rows are of `info.dtype`."""

    info: TensorInfo
    pieces: tuple[Piece, ...]
    open_target: Callable[[str], TensorRef]
    kept: _Kept = field(default_factory=_Kept, compare=False)

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop), float32 (stop - start, cols)."""
        out = np.zeros((stop - start, self.info.cols), np.float32)
        made = [piece for piece in self.pieces if _is_made(piece.part)]
        for piece in self.pieces:
            if not _is_made(piece.part):
                self._put(piece, out, start)
        regions = sorted({(piece.rows.start, piece.rows.stop) for piece in made})
        for low, high in regions:
            first, last = max(start, low), min(stop, high)
            if first < last:
                of_region = [piece for piece in made if (piece.rows.start, piece.rows.stop) == (low, high)]
                values, mask = (x[first - low : last - low] for x in self._region((low, high), of_region))
                out[first - start : last - start][mask] = values[mask]  # other rows of it may be kept whole
        return out

    def read_packed(self, start: int, stop: int) -> U8:
        """Rows [start, stop) as a checkpoint of `info.dtype` stores them."""
        values: NDArray[Any] = self.read(start, stop)
        if self.info.dtype in WHOLE_DTYPES:
            values = values.astype(WHOLE_DTYPES[self.info.dtype])
        return packed(Entry(self.info.name, self.info.dtype, values.shape), values).data.reshape(stop - start, -1)

    def _put(self, piece: Piece, out: F32, start: int) -> None:
        """Rows of a part that keeps rows whole."""
        rows = piece.rows
        low = max(-(-(start - rows.start) // rows.step), 0)
        high = min(-(-(start + len(out) - rows.start) // rows.step), len(rows))
        if low < high:
            places = slice(rows[low] - start, rows[high - 1] - start + 1, rows.step)
            out[places] = self._undone(piece, low, high)

    def _undone(self, piece: Piece, low: int, high: int) -> F32:
        """Rows [low, high) of a part before row order, without what was added, its values as they were."""
        values = _rows_before_order(
            self.open_target(piece.target.name), piece.target, piece.first + low, piece.first + high
        )
        if piece.target.add:
            values = values - np.float32(piece.target.add)
        part = piece.part
        while isinstance(part, Mapped):
            undone = _unscaled(values, self._share(piece)) if part.what == "ternary" else _unmapped(part, values)
            values, part = undone, part.part
        return values

    def _share(self, piece: Piece) -> float:
        """The share of a matrix of three values that is not zero; 1 of one of zeros."""
        with self.kept.lock:
            known = self.kept.shares.get(piece.first)
        if known is not None:
            return known
        sizes = np.abs(self.open_target(piece.target.name).read(piece.first, piece.first + piece.part.rows))
        share = float(np.mean(sizes > sizes.max() / 2)) or 1.0
        with self.kept.lock:
            self.kept.shares[piece.first] = share
        return share

    def _region(self, region: tuple[int, int], pieces: list[Piece]) -> tuple[F32, Any]:
        """A matrix from all parts that were moved out of it, and which of its elements they are."""
        with self.kept.lock:
            if self.kept.region == region and self.kept.values is not None:
                return self.kept.values
        rows = region[1] - region[0]
        out, covered = np.zeros((rows, self.info.cols), np.float32), np.zeros((rows, self.info.cols), bool)
        for piece in pieces:
            values = self._undone(piece, 0, piece.part.rows)
            part = _of_source(piece.part)
            assert isinstance(part, Made), part
            moved, mask = (x.reshape(out.shape) for x in moved_back(values.reshape(part.after), part.shape, part.steps))
            out[mask] = moved[mask]
            covered |= mask
        with self.kept.lock:
            self.kept.region, self.kept.values = region, (out, covered)
        return out, covered


def is_undone(part: Part) -> bool:
    """Whether what a part does to rows of the source can be taken back; constants come from no source."""
    while isinstance(part, Mapped):
        if part.what not in ("-exp", "*", "ternary", "<"):
            return False
        part = part.part
    return isinstance(part, Rows | Every | Made) or not part.sources


def _of_source(part: Part) -> Part:
    """A part before its values are changed."""
    while isinstance(part, Mapped):
        part = part.part
    return part


def _is_made(part: Part) -> bool:
    return isinstance(_of_source(part), Made)


def _rows_before_order(ref: TensorRef, target: ModelTensor, start: int, stop: int) -> F32:
    """Rows of a target in the order before its row order."""
    unit = len(target.row_order.order) if target.row_order else 1
    low, high = start // unit * unit, -(-stop // unit) * unit
    values = ref.read(low, high).reshape(high - low, target.cols)
    if target.row_order:
        place = np.argsort(target.row_order.order)  # row order[i] went to row i
        values = values.reshape(-1, unit, values.shape[1])[:, place].reshape(values.shape)
    return values[start - low : stop - low]


def _unmapped(part: Mapped, values: F32) -> F32:
    """The values that a part has changed: of neighbours, the one that it changes to exactly what is there."""
    if part.what == "<":
        return values
    if part.what == "-exp":
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = np.log(-values.astype(np.float64)).astype(np.float32)
        return _origin(guess, values, lambda x: -np.exp(x.astype(np.float64)).astype(np.float32))
    assert part.what == "*", part.what
    number = np.float32(part.number)
    guess = (values.astype(np.float64) / np.float64(number)).astype(np.float32)
    return _origin(guess, values, lambda x: x * number)


def _unscaled(values: F32, share: float) -> F32:
    """Minus, zero or plus the mean of all magnitudes, as a matrix whose magnitudes have that mean: what rounding to
    three values takes for its own result (BitNet rounds whenever it computes)."""

    def forward(x: F32) -> F32:
        means = np.maximum(np.abs(x, dtype=np.float64) * share, LEAST_SCALE).astype(np.float32)
        rounded: F32 = np.sign(x) / (np.float32(1) / means)
        return rounded

    return _origin((values / np.float64(share)).astype(np.float32), values, forward)


def _origin(guess: F32, values: F32, forward: Callable[[F32], F32]) -> F32:
    """`guess` as a bfloat16, of which most models are made, where that becomes `values`; else as it is, or the nearest
    float32 around it that does."""
    short = (((guess.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)) << np.uint32(16)).view(np.float32)
    found = np.where(forward(short) == values, short, guess)
    missing = forward(found) != values
    up = down = guess
    for _ in range(ULPS):
        if not missing.any():
            break
        up, down = np.nextafter(up, np.float32(np.inf)), np.nextafter(down, np.float32(-np.inf))
        for other in (up, down):
            hit = missing & (forward(other) == values)
            found = np.where(hit, other, found)
            missing &= ~hit
    return found


def moved_back(values: Any, shape: tuple[int, ...], steps: tuple[Step, ...]) -> tuple[Any, Any]:
    """An array of `shape` whose elements after the steps are `values`, and which of its elements they are."""
    shapes = [shape]
    for step in steps:
        shapes.append(move(np.broadcast_to(np.int8(0), shapes[-1]), (step,)).shape)
    mask = np.ones(values.shape, bool)
    for (name, numbers), before in zip(reversed(steps), reversed(shapes[:-1]), strict=True):
        values, mask = (_back(x, name, numbers, before) for x in (values, mask))
    return values, mask


def _back(x: Any, name: str, numbers: tuple[int, ...], before: tuple[int, ...]) -> Any:
    """An array before one step."""
    if name in ("rows", "every"):
        whole = np.zeros(before, x.dtype)
        axis = max(len(before) - 2, 0)
        chosen = slice(*numbers) if name == "rows" else slice(numbers[0], None, numbers[1])
        whole[(*(slice(None),) * axis, chosen)] = x
        return whole
    if name in ("regroup", "columns"):
        return KINDS[name].apply(x, numbers[1], numbers[0])
    return KINDS["turn"].apply(x) if name == "turn" else x.reshape(before)


def uncovered(pieces: Mapping[str, tuple[Piece, ...]], infos: Mapping[str, TensorInfo]) -> list[str]:
    """Source tensors of which some elements have no place in any target. A target may repeat rows of another."""
    found = []
    for name, info in infos.items():
        elements = sum(_elements(piece) for piece in pieces.get(name, ()))
        if elements < info.elements:
            found.append(name)
    return found


def _elements(piece: Piece) -> int:
    return piece.part.rows * piece.target.cols
