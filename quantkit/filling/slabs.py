"""Slabs of source rows to packed bytes at their planned offsets, on all cores, resumable."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from quantkit.errors import NonFiniteError
from quantkit.events import Resumed, TensorProgress
from quantkit.filling.work import ALONE, Turns, Work, by_layer, interrupted
from quantkit.plan.base import Unit
from quantkit.plan.codes import read_codes
from quantkit.plan.reading import Slab, cut, non_finite, order_rows, read_slab, read_stored, require_finite
from quantkit.qtypes import base
from quantkit.qtypes.floats import all_finite
from quantkit.qtypes.search.kept_grids import Kept
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import F32, U8

QUEUED_SLABS = 2  # slabs waiting per worker: enough to hide the writer, few enough to keep memory flat


@record
class _Rows:
    """Packed rows in file order, and what is left of a grid where one is kept."""

    raw: U8
    kept: Kept | None = None


# Number of a work to its rows, or to what keeps them from being made.
_Encoded = dict[int, _Rows | NonFiniteError]


@record
class _Wanted:
    """A slab and the works that still want it."""

    index: int
    slab: Slab
    last: bool
    works: tuple[int, ...]


def fill_slabs(works: Sequence[Work]) -> Mapping[int, NonFiniteError]:
    """Fill every work's files: each source row is read once and encoded for all works that lack it.

    All have the same source, threads and listeners. Results are written in plan order whatever the thread count, so
    the bytes and the journal do not depend on it. `stop` is asked between tensors; when it says yes the finished
    tensors are made durable and InterruptedRunError is raised. Raises NonFiniteError, naming tensor and index, for a
    weight that is not finite in the source; returns one for each number of a work whose type cannot hold a weight: the
    others are filled all the same.
    """
    writer = _Writer(works)
    writer.announce_resume()
    return _fill(works, writer)


def fill_the_rest(work: Work) -> None:
    """Fill what is still missing of a work's files. Raises what `fill_slabs` raises or returns."""
    failed = _fill([work], _Writer([work]))
    if failed:
        raise failed[0]


def fill_the_rest_of(work: Work, layer: int) -> None:
    """Fill what is still missing of a layer, whose other units are written. Raises what `fill_slabs` does."""
    writer = _Writer([replace(work, beside=ALONE)])
    _write([work], writer, [n for n, u in enumerate(work.plan.units) if u.tensor.layer == layer and work.missing([u])])
    if writer.failed:
        raise writer.failed[0]


def _fill(works: Sequence[Work], writer: _Writer) -> Mapping[int, NonFiniteError]:
    first = works[0]
    names = [unit.name for unit in first.plan.units]
    assert all([unit.name for unit in work.plan.units] == names for work in works)
    numbers = list(range(len(names)))
    if first.beside.active:
        place = {unit.name: at for at, unit in enumerate(by_layer(first.plan.units))}
        numbers.sort(key=lambda number: place[names[number]])
    _write(works, writer, numbers)
    if len(writer.failed) < len(works) and len(writer.finished) < len(names):
        raise interrupted(len(writer.finished), len(names))
    for index, work in enumerate(works):
        if index not in writer.failed:
            work.finish()
    return writer.failed


def _write(works: Sequence[Work], writer: _Writer, numbers: Sequence[int]) -> None:
    """Write units by their numbers, in that order."""
    first = works[0]
    waiting: deque[tuple[_Wanted, Future[_Encoded]]] = deque()
    with ThreadPoolExecutor(first.threads, thread_name_prefix="quantize") as pool:
        try:
            for wanted in _pending(works, writer, numbers):
                waiting.append((wanted, pool.submit(_encode, works, wanted)))
                if len(waiting) > first.threads * (1 + QUEUED_SLABS):
                    writer.write(*_completed(waiting))
            while waiting:
                writer.write(*_completed(waiting))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for work in works:
        work.job.flush()


def _completed(waiting: deque[tuple[_Wanted, Future[_Encoded]]]) -> tuple[_Wanted, _Encoded]:
    wanted, future = waiting.popleft()
    return wanted, future.result()


def _pending(works: Sequence[Work], writer: _Writer, numbers: Sequence[int]) -> Iterator[_Wanted]:
    """All slabs still to do, in the order of `numbers`; none for works that have failed meanwhile."""
    failed = writer.failed
    for index in numbers:
        unit = works[0].plan.units[index]
        if works[0].stop() or len(failed) == len(works):
            return
        writer.turns.begin(unit)
        missing = tuple(i for i, work in enumerate(works) if i not in failed and work.missing([unit]))
        if not missing:
            yield _Wanted(index, Slab(0, 0, 0), True, ())
            continue
        slabs = list(cut(unit.tensor))
        for slab in slabs:
            yield _Wanted(index, slab, slab is slabs[-1], missing)


def _encode(works: Sequence[Work], wanted: _Wanted) -> _Encoded:
    """Read one slab and encode it for each work that wants it."""
    checkpoint = works[0].checkpoint
    encoded: _Encoded = {}
    values: F32 | None = None
    by_type: dict[tuple[str, bool, str], _Rows | NonFiniteError] = {}
    for number in wanted.works:
        unit = works[number].plan.units[wanted.index]
        with works[0].beside.reading(unit.tensor.layer):
            kept = _kept(checkpoint, unit, wanted.slab)
        if kept is not None:
            encoded[number] = _Rows(kept)
            continue
        if values is None:
            with works[0].beside.reading(unit.tensor.layer):
                values = _read_finite(checkpoint, unit, wanted.slab)
        importance = _importance(unit, wanted.slab)
        key = (unit.word, importance is not None, unit.grid)
        if importance is not None or key not in by_type:
            try:
                by_type[key] = _encode_rows(unit, values, importance, wanted.slab)
            except NonFiniteError as error:
                by_type[key] = error
        encoded[number] = by_type[key]
    return encoded


def encode_slab(checkpoint: Checkpoint, unit: Unit, slab: Slab) -> U8:
    """One slab of the source as a plan stores it: packed rows in file order. Raises NonFiniteError."""
    kept = _kept(checkpoint, unit, slab)
    if kept is not None:
        return kept
    return _encode_rows(unit, _read_finite(checkpoint, unit, slab), _importance(unit, slab), slab).raw


def _kept(checkpoint: Checkpoint, unit: Unit, slab: Slab) -> U8 | None:
    """Rows whose bytes stay what they are in the source, None for others: those to be rounded, and those of floats
    among which is one that is not finite, to be found and named."""
    if unit.codes:
        return order_rows(unit.tensor, read_codes(checkpoint, unit.codes, slab))
    qtype = base.get(unit.word)
    if qtype.block > 1:
        return _copy(checkpoint, unit, slab) if unit.copy else None
    raw = read_stored(checkpoint, unit.tensor, unit.word.upper(), slab)
    if raw is None or not all_finite(raw, unit.word.upper()):
        return None
    return order_rows(unit.tensor, raw)


def _read_finite(checkpoint: Checkpoint, unit: Unit, slab: Slab) -> F32:
    values = read_slab(checkpoint, unit.tensor, slab.start, slab.stop)
    require_finite(unit.tensor, values, slab.start)
    return values


def _encode_rows(unit: Unit, values: F32, importance: F32 | None, slab: Slab) -> _Rows:
    qtype = base.get(unit.word)
    rows = values.reshape(1, -1) if qtype.block == 1 else values
    left: Kept | None = None
    try:
        if unit.grid:
            from quantkit.qtypes.search.preserving import encode_preserving  # numba: few runs need it

            raw, left = encode_preserving(unit.word, rows, importance, unit.grid)
        else:
            raw = qtype.encode(rows, importance)
    except NonFiniteError as error:
        if error.index is None:
            raise
        raise non_finite(unit.tensor, slab.start, error) from error
    return _Rows(order_rows(unit.tensor, raw.reshape(len(values), -1)), left)


def _importance(unit: Unit, slab: Slab) -> F32 | None:
    return None if unit.importance is None else np.asarray(unit.importance, dtype=np.float32)[slab.matrix]


def _copy(checkpoint: Checkpoint, unit: Unit, slab: Slab) -> U8:
    part = unit.source
    return checkpoint.ref(part.tensor).read_packed(part.start + slab.start, part.start + slab.stop)


class _Writer:
    """Puts encoded slabs in place in plan order, hashes them, and journals finished tensors."""

    def __init__(self, works: Sequence[Work]) -> None:
        self._works = works
        self._written = [0] * len(works)
        self._hashes = [hashlib.sha256() for _ in works]
        self._left = [Kept() for _ in works]
        self._done_bytes = 0
        self.finished: set[str] = set()
        self.failed: dict[int, NonFiniteError] = {}
        self.turns = Turns(works[0].beside, works[0].plan.units)

    def write(self, wanted: _Wanted, encoded: _Encoded) -> None:
        for number, rows in encoded.items():
            if number in self.failed:
                continue
            if isinstance(rows, NonFiniteError):
                self.failed[number] = rows
                continue
            if rows.kept is not None:
                self._left[number] += rows.kept
            [planned] = self._works[number].plan.units[wanted.index].outputs
            data = np.ascontiguousarray(rows.raw).reshape(-1)
            self._works[number].job.write(planned.file, planned.offset + self._written[number], data)
            self._hashes[number].update(data.data)
            self._written[number] += data.nbytes
        if wanted.last:
            self._finish(wanted)
        self._report(wanted)

    def _finish(self, wanted: _Wanted) -> None:
        for number in wanted.works:
            if number in self.failed:
                continue
            [planned] = self._works[number].plan.units[wanted.index].outputs
            assert self._written[number] == planned.nbytes, (planned.name, self._written[number], planned.nbytes)
            facts = self._left[number].as_facts() if self._left[number].blocks else None
            self._works[number].record(planned, self._hashes[number].hexdigest(), facts)
            self._left[number] = Kept()
            self._written[number] = 0
            self._hashes[number] = hashlib.sha256()
        unit = self._works[0].plan.units[wanted.index]
        self.finished.add(unit.name)
        self.turns.done(unit)

    def _report(self, wanted: _Wanted) -> None:
        first = self._works[0]
        plan, unit = first.plan, first.plan.units[wanted.index]
        rows = unit.tensor.rows
        share = wanted.slab.stop - wanted.slab.start if wanted.works else rows
        self._done_bytes += unit.source_bytes * share // max(rows, 1)
        first.advance(self._done_bytes)
        words = "+".join(sorted({work.plan.units[wanted.index].word for work in self._works}))
        count = len(plan.units)
        first.emit(
            TensorProgress("quantize", unit.name, words, wanted.index + 1, count, self._done_bytes, plan.source_bytes)
        )

    def announce_resume(self) -> None:
        kept = [unit for work in self._works for unit in work.plan.units if not work.missing([unit])]
        if kept:
            self._works[0].emit(Resumed(len(kept), sum(unit.source_bytes for unit in kept)))
