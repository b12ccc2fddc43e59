"""An artifact under construction, and how its tensors are written and journalled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from quantkit.errors import InterruptedRunError, NonFiniteError
from quantkit.events import Sink, ignore, never
from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.machine import core_count
from quantkit.plan.base import Plan, PlannedTensor, Unit
from quantkit.plan.reading import SLAB_WEIGHTS, require_finite
from quantkit.source import Checkpoint
from quantkit.storage import Job, Record
from quantkit.tensors import F32, FLOAT_DTYPES, U8
from quantkit.units import counted

Facts = dict[str, float | int | str]


@dataclass(frozen=True)
class Work:
    """An artifact under construction: what is read, what is planned, where it goes, and who is told.

    `advance` is told the source bytes done so far.
    """

    checkpoint: Checkpoint
    plan: Plan
    job: Job
    threads: int = field(default_factory=core_count)
    emit: Sink = ignore
    stop: Callable[[], bool] = never
    advance: Callable[[int], None] = lambda done_bytes: None

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
            if tensor.dtype in FLOAT_DTYPES:
                require_finite(unit.tensor, ref.read(start, stop), start)
            if tensor.dtype == ref.info.dtype:
                data = np.ascontiguousarray(ref.read_packed(start, stop)).reshape(-1)
            else:
                data = _rounded_to(tensor.entry, ref.read(start, stop), start)
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


def _rounded_to(entry: Entry, values: F32, first_row: int) -> U8:
    """Rows of a tensor as the bytes of its type. Raises NonFiniteError naming row and column of what overflows."""
    try:
        return packed(Entry(entry.name, entry.dtype, values.shape), values).data
    except NonFiniteError as error:
        row, col = divmod(error.index or 0, values.shape[-1])
        what = f"{entry.name}[{row + first_row}, {col}] is {values[row, col]:g}, which {entry.dtype} cannot hold"
        hint = "config.json names the type that plain tensors are stored in: set it to bfloat16 or float32 there"
        raise NonFiniteError(what, tensor=entry.name, index=error.index, hint=hint) from None
