"""Filling the files of a checkpoint for servers: layers rounded, everything else copied. Resumable.

Without calibration every layer is independent: they are rounded on all cores, a layer per core in memory. With it,
`server_blocks` walks through the model. Either way finished tensors are journalled, and the next run keeps them.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from quantkit.errors import InterruptedRunError, NonFiniteError, NumericError
from quantkit.events import Resumed, Sink, TensorProgress, ignore, never
from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.machine import core_count
from quantkit.methods import encodes
from quantkit.methods.settings import DEFAULTS, Order, Settings, in_turn
from quantkit.plan.base import PlannedModule, ServerTensor
from quantkit.plan.checkpoint import ServerPlan, siblings
from quantkit.plan.reading import SLAB_WEIGHTS, read_weight, require_finite
from quantkit.qtypes.schemes.base import Quantized, joint
from quantkit.recipes.servers import MethodChoice
from quantkit.source import Checkpoint
from quantkit.storage import Job, Record
from quantkit.tensors import F32, FLOAT_DTYPES, U8

SMALLEST_F16_SCALE = 2.0**-20  # below, its subnormal numbers have less than four bits
Facts = dict[str, float | int | str]


@dataclass(frozen=True)
class ServerWork:
    """A checkpoint under construction: what is read, what is planned, where it goes, and who is told.

    `advance` is told the source bytes done so far.
    """

    checkpoint: Checkpoint
    plan: ServerPlan
    job: Job
    threads: int = field(default_factory=core_count)
    emit: Sink = ignore
    stop: Callable[[], bool] = never
    advance: Callable[[int], None] = lambda done_bytes: None

    def missing(self, tensors: Sequence[ServerTensor]) -> bool:
        """Whether any of these is still to be written."""
        return any(t.name not in self.job.records for t in tensors)

    def put(self, tensor: ServerTensor, data: PackedTensor, facts: Facts | None = None) -> None:
        """Write a whole tensor and journal it."""
        assert data.entry == tensor.entry, (data.entry, tensor.entry)
        self.job.write(tensor.file, tensor.offset, data.data)
        digest = hashlib.sha256(data.data.data).hexdigest()
        entry = tensor.entry
        self.job.finish(Record(entry.name, tensor.file, tensor.offset, entry.nbytes, digest, facts or {}))

    def copy(self, tensor: ServerTensor) -> None:
        """Write a tensor of the source in slabs and journal it: as it is, or rounded to the type that is planned.

        Raises NonFiniteError, also for a value that this type cannot hold.
        """
        ref = self.checkpoint.ref(tensor.name)
        digest = hashlib.sha256()
        step = max(SLAB_WEIGHTS // max(ref.info.cols, 1), 1)
        written = 0
        for start in range(0, ref.info.rows, step):
            stop = min(start + step, ref.info.rows)
            if tensor.entry.dtype in FLOAT_DTYPES:
                require_finite(tensor.name, ref.read(start, stop), start)
            if tensor.entry.dtype == ref.info.dtype:
                data = np.ascontiguousarray(ref.read_packed(start, stop)).reshape(-1)
            else:
                data = _rounded_to(tensor.entry, ref.read(start, stop), start)
            self.job.write(tensor.file, tensor.offset + written, data)
            digest.update(data.data)
            written += data.nbytes
        entry = tensor.entry
        assert written == entry.nbytes, (entry, written)
        self.job.finish(Record(entry.name, tensor.file, tensor.offset, entry.nbytes, digest.hexdigest(), {}))

    def interrupted(self) -> InterruptedRunError:
        """Save what is finished; the error that says so."""
        self.job.flush()
        done = f"{len(self.job.records)} of {len(self.plan.tensors)} tensors are saved"
        return InterruptedRunError(f"interrupted: {done}", hint="run the same command again to resume")


def _rounded_to(entry: Entry, values: F32, first_row: int) -> U8:
    """Rows of a tensor as the bytes of its type. Raises NonFiniteError naming row and column of what overflows."""
    try:
        return packed(Entry(entry.name, entry.dtype, values.shape), values).data
    except NonFiniteError as error:
        row, col = divmod(error.index or 0, values.shape[-1])
        what = f"{entry.name}[{row + first_row}, {col}] is {values[row, col]:g}, which {entry.dtype} cannot hold"
        hint = "config.json names the type that plain tensors are stored in: set it to bfloat16 or float32 there"
        raise NonFiniteError(what, tensor=entry.name, index=error.index, hint=hint) from None


def announce_resume(work: ServerWork) -> None:
    kept = [t for t in work.plan.tensors if t.name in work.job.records]
    if kept:
        work.emit(Resumed(len(kept), sum(t.entry.nbytes for t in kept)))


def round_plainly(work: ServerWork) -> None:
    """Round every layer that is not finished, in the order of the plan, as its loader's own quantizer would."""
    groups = [group for group in siblings(work.plan.modules) if work.missing(tensors_of(work.plan, group))]
    finished = len(work.plan.modules) - sum(map(len, groups))
    waiting: deque[tuple[tuple[PlannedModule, ...], Future[list[Quantized]]]] = deque()

    def write_next() -> None:
        nonlocal finished
        group, future = waiting.popleft()
        for planned, quantized in zip(group, future.result(), strict=True):
            finished += 1
            put_module(work, planned, quantized)
            _report(work, planned, finished)

    with ThreadPoolExecutor(work.threads, thread_name_prefix="round") as pool:
        try:
            for group in groups:
                if work.stop():
                    break
                waiting.append((group, pool.submit(rounded, work.checkpoint, group, work.plan.method)))
                if len(waiting) > work.threads:
                    write_next()
            while waiting:
                write_next()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if finished < len(work.plan.modules):
        raise work.interrupted()


def settings_of(method: MethodChoice) -> Settings:
    """What a recipe says of its method; the rest is the method's own."""
    given = {"damping": method.damping, "passes": method.passes, "order": method.order and Order(method.order)}
    return replace(DEFAULTS, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


def rounded(checkpoint: Checkpoint, group: Sequence[PlannedModule], method: MethodChoice) -> list[Quantized]:
    """Layers that share their scales, if any do, rounded without text: as their encoders do, or by another method."""
    weights = [read_weight(checkpoint, planned) for planned in group]
    for planned, weight in zip(group, weights, strict=True):
        require_scale(planned, weight)
    schemes = joint([planned.layout.scheme for planned in group], weights)
    if encodes(method.name):
        return [scheme.encode(weight) for scheme, weight in zip(schemes, weights, strict=True)]
    from quantkit.methods.base import Layer, get

    found = []
    for planned, scheme, weight in zip(group, schemes, weights, strict=True):
        layer, target = Layer(planned.name, weight), scheme.target(weight.shape[1])
        one = get(method.name).quantize(layer, target, settings_of(method), in_turn)
        found.append(Quantized(one.codes, one.grid, one.order))
    return found


def require_scale(planned: PlannedModule, weight: F32) -> None:
    """Raise NumericError for a layer whose largest weight needs a scale below what float16 holds in four bits or more.

    The layer would become zeros, or close to it, and the layers that read it would get the blame.
    """
    traits = planned.layout.traits
    if not traits.top or traits.scale_dtype != "F16":
        return
    largest = float(np.abs(weight).max())
    scale = largest / traits.top
    if 0 < scale < SMALLEST_F16_SCALE:
        what = f"its largest weight is {largest:.3g}, so that scales are {scale:.3g} at most, too small for float16"
        hint = f"keep the layer as it is: --keep {planned.module.in_block}=bf16"
        raise NumericError(f"{planned.name}: {what}", tensor=planned.name, hint=hint)


def tensors_of(plan: ServerPlan, group: Sequence[PlannedModule]) -> list[ServerTensor]:
    """The tensors that layers become."""
    return [plan.by_name[entry.name] for planned in group for entry in planned.entries]


def put_module(
    work: ServerWork,
    planned: PlannedModule,
    quantized: Quantized,
    input_peak: float | None = None,
    facts: Facts | None = None,
) -> None:
    """Write the tensors of a layer; `facts` go with the first one into the journal."""
    for number, tensor in enumerate(planned.layout.pack(planned.name, quantized, input_peak)):
        work.put(work.plan.by_name[tensor.entry.name], tensor, facts if number == 0 else None)


def copy_the_rest(work: ServerWork) -> None:
    """Copy what no layer and no block has written, one tensor at a time."""
    for tensor in work.plan.tensors:
        if tensor.copied and tensor.name not in work.job.records:
            if work.stop():
                raise work.interrupted()
            work.copy(tensor)


def finish_files(work: ServerWork) -> None:
    """Headers and small files, after all tensors: every run writes them anew."""
    for number, file in enumerate(work.plan.files):
        work.job.write(number, 0, file.header)
    work.job.flush()


def _report(work: ServerWork, planned: PlannedModule, finished: int) -> None:
    count = len(work.plan.modules)
    done = work.plan.source_bytes * finished // count
    work.advance(done)
    kind = planned.layout.traits.word
    work.emit(TensorProgress("quantize", planned.name, kind, finished, count, done, work.plan.source_bytes))
