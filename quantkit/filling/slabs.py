"""The quantize stage: slabs of source rows to packed bytes at their planned offsets, on all cores, resumable."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from quantkit.errors import InterruptedRunError, NonFiniteError
from quantkit.events import Resumed, Sink, TensorProgress, ignore, never
from quantkit.families.model import Rows
from quantkit.machine import core_count
from quantkit.plan.gguf import Plan, PlannedTensor
from quantkit.plan.reading import Slab, cut, matrix_shape, order_rows, read_slab
from quantkit.qtypes import base
from quantkit.qtypes.floats import first_nonfinite
from quantkit.source import Checkpoint
from quantkit.storage import Job, Record
from quantkit.tensors import F32, U8

QUEUED_SLABS = 2  # slabs waiting per worker: enough to hide the writer, few enough to keep memory flat


@dataclass(frozen=True)
class Target:
    """One artifact under construction."""

    plan: Plan
    job: Job


# Target number to packed rows in file order, or to what keeps that target from being made.
_Encoded = dict[int, U8 | NonFiniteError]


@dataclass(frozen=True)
class _Work:
    """A slab and the targets that still want it."""

    index: int
    slab: Slab
    last: bool
    targets: tuple[int, ...]


def quantize(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    *,
    threads: int | None = None,
    emit: Sink = ignore,
    stop: Callable[[], bool] = never,
    advance: Callable[[int], None] = lambda done_bytes: None,
) -> Mapping[int, NonFiniteError]:
    """Fill every target's files: each source row is read once and encoded for all targets that lack it.

    Results are written in plan order whatever the thread count, so the bytes and the journal do not depend on it.
    `stop` is asked between tensors; when it says yes the finished tensors are made durable and InterruptedRunError
    is raised. `advance` is told the source bytes done so far. Raises NonFiniteError, naming tensor and index, for a
    weight that is not finite in the source; returns one for each number of a target whose type cannot hold a weight:
    the others are filled all the same.
    """
    first = targets[0].plan
    assert all([t.name for t in target.plan.tensors] == [t.name for t in first.tensors] for target in targets)
    writer = _Writer(targets, emit, advance)
    workers = threads or core_count()
    waiting: deque[tuple[_Work, Future[_Encoded]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="quantize") as pool:
        try:
            for work in _pending(targets, stop, writer.failed):
                waiting.append((work, pool.submit(_encode, checkpoint, targets, work)))
                if len(waiting) > workers * (1 + QUEUED_SLABS):
                    writer.write(*_completed(waiting))
            while waiting:
                writer.write(*_completed(waiting))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for target in targets:
        target.job.flush()
    if len(writer.failed) < len(targets) and len(writer.finished) < len(first.tensors):
        done = f"{len(writer.finished)} of {len(first.tensors)} tensors are saved"
        raise InterruptedRunError(f"interrupted: {done}", hint="run the same command again to resume")
    for index, target in enumerate(targets):
        if index not in writer.failed:
            for number, file in enumerate(target.plan.files):
                target.job.write(number, 0, file.header)
            target.job.flush()
    return writer.failed


def _completed(waiting: deque[tuple[_Work, Future[_Encoded]]]) -> tuple[_Work, _Encoded]:
    work, future = waiting.popleft()
    return work, future.result()


def _pending(
    targets: Sequence[Target], stop: Callable[[], bool], failed: Mapping[int, NonFiniteError]
) -> Iterator[_Work]:
    """All slabs still to do, in plan order; none for targets that have failed meanwhile."""
    for index, planned in enumerate(targets[0].plan.tensors):
        if stop() or len(failed) == len(targets):
            return
        missing = tuple(
            i for i, target in enumerate(targets) if i not in failed and planned.name not in target.job.records
        )
        if not missing:
            yield _Work(index, Slab(0, 0, 0), True, ())
            continue
        slabs = list(cut(planned.tensor))
        for slab in slabs:
            yield _Work(index, slab, slab is slabs[-1], missing)


def _encode(checkpoint: Checkpoint, targets: Sequence[Target], work: _Work) -> _Encoded:
    """Read one slab and encode it for each target that wants it."""
    encoded: _Encoded = {}
    values: F32 | None = None
    by_type: dict[tuple[str, bool], U8 | NonFiniteError] = {}
    for number in work.targets:
        planned = targets[number].plan.tensors[work.index]
        if _is_copied(planned):
            encoded[number] = _copy(checkpoint, planned, work.slab)
            continue
        if values is None:
            values = _read_finite(checkpoint, planned, work.slab)
        importance = _importance(targets[number].plan, planned, work.slab)
        key = (planned.qtype, importance is not None)
        if importance is not None or key not in by_type:
            try:
                by_type[key] = _encode_rows(planned, values, importance, work.slab)
            except NonFiniteError as error:
                by_type[key] = error
        encoded[number] = by_type[key]
    return encoded


def encode_slab(checkpoint: Checkpoint, planned: PlannedTensor, plan: Plan, slab: Slab) -> U8:
    """One slab of the source as a plan stores it: packed rows in file order. Raises NonFiniteError."""
    if _is_copied(planned):
        return _copy(checkpoint, planned, slab)
    values = _read_finite(checkpoint, planned, slab)
    return _encode_rows(planned, values, _importance(plan, planned, slab), slab)


def _is_copied(planned: PlannedTensor) -> bool:
    return planned.copy and base.get(planned.qtype).block > 1  # floats are read as numbers, to be checked


def _read_finite(checkpoint: Checkpoint, planned: PlannedTensor, slab: Slab) -> F32:
    values = read_slab(checkpoint, planned.tensor, slab.start, slab.stop)
    bad = first_nonfinite(values)
    if bad >= 0:
        why = f"is {values.flat[bad]} in the checkpoint"
        raise _non_finite(
            planned, slab, bad, why, "the checkpoint is damaged or its training diverged; get a clean copy"
        )
    return values


def _encode_rows(planned: PlannedTensor, values: F32, importance: F32 | None, slab: Slab) -> U8:
    qtype = base.get(planned.qtype)
    rows = values.reshape(1, -1) if qtype.block == 1 else values
    try:
        raw = qtype.encode(rows, importance)
    except NonFiniteError as error:
        if error.index is None:
            raise
        raise _non_finite(planned, slab, error.index, error.message, error.hint) from error
    return order_rows(planned.tensor, raw.reshape(len(values), -1))


def _non_finite(planned: PlannedTensor, slab: Slab, index: int, why: str, hint: str | None) -> NonFiniteError:
    """The error for the weight number `index` of a slab, named by the row and column it has in the source."""
    row, col = divmod(index, matrix_shape(planned.tensor)[1])
    row += slab.start
    where, first = planned.name, 0
    for part in planned.tensor.parts:
        if isinstance(part, Rows):
            if first <= row < first + part.stop - part.start:
                where, row = part.tensor, row - first + part.start
                break
            first += part.stop - part.start
        else:
            first += len(part.data) // part.cols
    place = f"{where}[{row}, {col}]" if len(planned.tensor.shape) > 1 else f"{where}[{row}]"
    return NonFiniteError(f"{place}: {why}", hint=hint, tensor=where, index=index)


def _importance(plan: Plan, planned: PlannedTensor, slab: Slab) -> F32 | None:
    weights = plan.importance.get(planned.name)
    return None if weights is None else np.asarray(weights, dtype=np.float32)[slab.matrix]


def _copy(checkpoint: Checkpoint, planned: PlannedTensor, slab: Slab) -> U8:
    [part] = planned.tensor.parts
    assert isinstance(part, Rows), planned.name
    return checkpoint.ref(part.tensor).read_packed(part.start + slab.start, part.start + slab.stop)


class _Writer:
    """Puts encoded slabs in place in plan order, hashes them, and journals finished tensors."""

    def __init__(self, targets: Sequence[Target], emit: Sink, advance: Callable[[int], None]) -> None:
        self._targets = targets
        self._emit = emit
        self._advance = advance
        self._written = [0] * len(targets)
        self._hashes = [hashlib.sha256() for _ in targets]
        self._done_bytes = 0
        self.finished: set[str] = set()
        self.failed: dict[int, NonFiniteError] = {}
        self._announce_resume()

    def write(self, work: _Work, encoded: _Encoded) -> None:
        for number, raw in encoded.items():
            if number in self.failed:
                continue
            if isinstance(raw, NonFiniteError):
                self.failed[number] = raw
                continue
            planned = self._targets[number].plan.tensors[work.index]
            data = np.ascontiguousarray(raw).reshape(-1)
            self._targets[number].job.write(planned.file, planned.offset + self._written[number], data)
            self._hashes[number].update(data.data)
            self._written[number] += data.nbytes
        if work.last:
            self._finish(work)
        self._report(work)

    def _finish(self, work: _Work) -> None:
        for number in work.targets:
            if number in self.failed:
                continue
            target = self._targets[number]
            planned = target.plan.tensors[work.index]
            assert self._written[number] == planned.nbytes, (planned.name, self._written[number], planned.nbytes)
            digest = self._hashes[number].hexdigest()
            target.job.finish(Record(planned.name, planned.file, planned.offset, planned.nbytes, digest, {}))
            self._written[number] = 0
            self._hashes[number] = hashlib.sha256()
        self.finished.add(self._targets[0].plan.tensors[work.index].name)

    def _report(self, work: _Work) -> None:
        plan = self._targets[0].plan
        planned = plan.tensors[work.index]
        rows = matrix_shape(planned.tensor)[0]
        share = work.slab.stop - work.slab.start if work.targets else rows
        self._done_bytes += planned.source_bytes * share // max(rows, 1)
        self._advance(self._done_bytes)
        self._emit(
            TensorProgress(
                "quantize",
                planned.name,
                "+".join(sorted({t.plan.tensors[work.index].qtype for t in self._targets})),
                work.index + 1,
                len(plan.tensors),
                self._done_bytes,
                plan.source_bytes,
            )
        )

    def _announce_resume(self) -> None:
        kept = [planned for t in self._targets for planned in t.plan.tensors if planned.name in t.job.records]
        if kept:
            self._emit(Resumed(len(kept), sum(p.source_bytes for p in kept)))
