"""An artifact under construction, and how its tensors are written and journalled."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field

import numpy as np

from quantkit.errors import InterruptedRunError, NonFiniteError
from quantkit.events import Sink, ignore, never
from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.machine import core_count
from quantkit.plan.base import Plan, PlannedTensor, Unit
from quantkit.plan.reading import SLAB_WEIGHTS, require_finite
from quantkit.qtypes.floats import all_finite
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.storage import Job, Record
from quantkit.tensors import F32, FLOAT_DTYPES, U8, TensorRef
from quantkit.units import counted

Facts = dict[str, float | int | str]


class Beside:
    """What goes through the layers of a source beside the filling of files, and is told how far that is: nothing.

    `active`: files are filled layer by layer, whatever order they have, so that the two can read the source together.
    """

    active = False

    def begin(self) -> None:
        """Before anything is read to be filled in; the source is watched."""

    def enter(self, layer: int | None) -> None:
        """Before what of a layer is planned, None: outside of all, is filled."""

    def leave(self, layer: int | None) -> None:
        """After all of it is written."""

    def expect(self, layer: int | None) -> None:
        """Before this thread reads a layer to run it, None: the first, with what lies before it."""

    def reading(self, layer: int | None) -> AbstractContextManager[None]:
        """While a thread reads what is planned of a layer."""
        return nullcontext()

    def finish(self) -> None:
        """When all is filled."""


ALONE = Beside()


class Turns:
    """Units filled layer by layer: tells whoever goes beside when a layer begins and when all of it is done."""

    def __init__(self, beside: Beside, units: Iterable[Unit], last: Callable[[int | None], None] | None = None) -> None:
        self._beside, self._last = beside, last
        self._left = Counter(unit.tensor.layer for unit in units)
        self._begun: set[int | None] = set()

    def begin(self, unit: Unit) -> None:
        """Before a unit is read."""
        layer = unit.tensor.layer
        if layer not in self._begun:
            self._begun.add(layer)
            self._beside.enter(layer)

    def done(self, unit: Unit) -> None:
        """After a unit is written; after the last of its layer `last` is called first."""
        layer = unit.tensor.layer
        self._left[layer] -= 1
        if self._left[layer] == 0:
            if self._last is not None:
                self._last(layer)
            self._beside.leave(layer)


def by_layer(units: Iterable[Unit]) -> list[Unit]:
    """Units in the order of their layers, what lies outside of them first."""
    return sorted(units, key=lambda unit: -1 if unit.tensor.layer is None else unit.tensor.layer)


@record
class Work:
    """An artifact under construction: what is read, what is planned, where it goes, and who is told.

    `advance` is told the source bytes done so far, `beside` the layers.
    """

    checkpoint: Checkpoint
    plan: Plan
    job: Job
    threads: int = field(default_factory=core_count)
    emit: Sink = ignore
    stop: Callable[[], bool] = never
    advance: Callable[[int], None] = lambda done_bytes: None
    beside: Beside = ALONE

    def missing(self, units: Iterable[Unit]) -> bool:
        """Whether any tensor of these is still to be written."""
        return any(t.name not in self.job.records for unit in units for t in unit.outputs)

    def put(self, tensor: PlannedTensor, data: PackedTensor, facts: Facts | None = None) -> None:
        """Write a whole tensor and journal it."""
        assert data.entry == tensor.entry, (data.entry, tensor.entry)
        self.job.write(tensor.file, tensor.offset, data.data)
        digest = hashlib.sha256(data.data.data).hexdigest()
        self.record(tensor, digest, facts)

    def record(self, tensor: PlannedTensor, digest: str, facts: Facts | None = None) -> None:
        """Journal a tensor that is written as a whole, with the SHA-256 of its bytes."""
        self.job.finish(Record(tensor.name, tensor.file, tensor.offset, tensor.nbytes, digest, facts or {}))

    def copy(self, unit: Unit) -> None:
        """Write a tensor of the source in slabs and journal it: as it is, or rounded to the type that is planned.

        Raises NonFiniteError, also for a value that this type cannot hold.
        """
        [tensor], ref = unit.outputs, self.checkpoint.ref(unit.source.tensor)
        digest = hashlib.sha256()
        step = max(SLAB_WEIGHTS // max(ref.info.cols, 1), 1)
        written = 0
        for start in range(0, ref.info.rows, step):
            stop = min(start + step, ref.info.rows)
            with self.beside.reading(unit.tensor.layer):
                data = _copied(unit, tensor.entry, ref, slice(start, stop))
            self.job.write(tensor.file, tensor.offset + written, data)
            digest.update(data.data)
            written += data.nbytes
        assert written == tensor.nbytes, (tensor, written)
        self.record(tensor, digest.hexdigest())

    def interrupted(self) -> InterruptedRunError:
        """Save what is finished; the error that says so."""
        self.job.flush()
        return interrupted(len(self.job.records), len(self.plan.tensors))

    def finish(self) -> None:
        """Headers and small files, after all tensors: every run writes them anew."""
        for number, file in enumerate(self.plan.files):
            self.job.write(number, 0, file.header)
        self.job.flush()


def interrupted(done: int, count: int) -> InterruptedRunError:
    """The error of a run that was asked to stop."""
    hint = "run the same command again to resume"
    return InterruptedRunError(f"interrupted: {done} of {counted(count, 'tensor', 'is', 'are')} saved", hint=hint)


def _copied(unit: Unit, entry: Entry, ref: TensorRef, rows: slice) -> U8:
    """Some rows of a tensor as the bytes that are planned. Raises NonFiniteError."""
    if entry.dtype == ref.info.dtype:
        data = np.ascontiguousarray(ref.read_packed(rows.start, rows.stop)).reshape(-1)
        if entry.dtype in FLOAT_DTYPES and not all_finite(data, entry.dtype):
            require_finite(unit.tensor, ref.read(rows.start, rows.stop), rows.start)
        return data
    values = ref.read(rows.start, rows.stop)
    if entry.dtype in FLOAT_DTYPES:
        require_finite(unit.tensor, values, rows.start)
    return _rounded_to(entry, values, rows.start)


def _rounded_to(entry: Entry, values: F32, first_row: int) -> U8:
    """Rows of a tensor as the bytes of its type. Raises NonFiniteError naming row and column of what overflows."""
    try:
        return packed(Entry(entry.name, entry.dtype, values.shape), values).data
    except NonFiniteError as error:
        row, col = divmod(error.index or 0, values.shape[-1])
        what = f"{entry.name}[{row + first_row}, {col}] is {values[row, col]:g}, which {entry.dtype} cannot hold"
        hint = "config.json names the type that plain tensors are stored in: set it to bfloat16 or float32 there"
        raise NonFiniteError(what, tensor=entry.name, index=error.index, hint=hint) from None
