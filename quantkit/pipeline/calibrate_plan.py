"""What a calibration will run, write and need: known before a weight is read or torch imported."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.calibration.inputs import scratch_for
from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.text.shipped import data_path
from quantkit.calibration.text.spec import prepare_samples, walked_width
from quantkit.errors import QuantkitError, UsageError
from quantkit.events import Sink, Warned, ignore
from quantkit.extras import installed_version
from quantkit.families.describe import find_family
from quantkit.families.linears import roles_of
from quantkit.families.model import Model
from quantkit.families.names import text_block_of
from quantkit.families.roles import FUSED
from quantkit.families.rows import Family
from quantkit.machine import memory_limit_bytes
from quantkit.pipeline.outputs import job_folder, refuse_inputs, require_place
from quantkit.plan.describe import describe_source
from quantkit.records import record
from quantkit.report.calibration_record import record_path
from quantkit.report.text import size
from quantkit.source import Checkpoint, open_source, turned_back
from quantkit.source.adapter_base import require_base
from quantkit.source.identity import Origin
from quantkit.storage import free_bytes
from quantkit.tensors import TensorInfo
from quantkit.units import counted
from quantkit.version import __version__

BASE_BYTES = 1 << 30  # torch and transformers, 0.5 GB, and the inner activations of the chunks in flight, 0.5 GB
SUMS_AT_ONCE = 2.5  # a block's sums, those of the span at hand, and those of one site being added
BAND_ROWS = 256  # of the stored triangle, see calibration.statistics.Gram

SHORT_OF_MEMORY, SHORT_OF_DISK = "QK-CAL-009", "QK-CAL-010"


class Kind(Enum):
    """What is written, by the suffix of its name."""

    STATISTICS = ".safetensors"
    IMATRIX = ".gguf"
    LEGACY_IMATRIX = ".dat"


@record
class CalibrateRequest:
    """The options of `quantkit calibrate`. `hessian` None means: where the file can hold it."""

    source: str
    spec: CalibrationSpec
    out: Path
    hessian: bool | None = None
    require_coverage: float | None = None
    force: bool = False
    pre: str | None = None
    adapters: tuple[str, ...] = ()
    allow_other_base: bool = False


@record
class CalibratePlan:
    """An open source, the samples to run, and what follows from both."""

    request: CalibrateRequest
    kind: Kind
    checkpoint: Checkpoint
    samples: Samples
    model: Model | None

    @property
    def hessian(self) -> bool:
        wanted = self.request.hessian
        return self.kind is Kind.STATISTICS if wanted is None else wanted

    @cached_property
    def digest(self) -> str:
        """Stands for everything but the source that decides the bytes."""
        facts = {
            "record": self.samples.record.deciding,
            "kind": self.kind.value,
            "hessian": self.hessian,
            "device": self.request.spec.device.partition(":")[0],
            "versions": {
                "quantkit": __version__,
                **{name: installed_version(name) for name in ("torch", "transformers")},
            },
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def origin(self) -> Origin:
        """What records say of the source."""
        return Origin(self.checkpoint)

    @property
    def job_digest(self) -> str:
        """Identity of the work at hand: the plan, the name of the output, and the source as it looks now."""
        return self.origin.job_digest(self.digest, self.request.out.name)

    @property
    def folder(self) -> Path:
        """Where the work is kept until it is finished."""
        return job_folder(self.request.out, self.job_digest)

    @property
    def file_folder(self) -> Path:
        """Where the file itself is built: beside, since a job remembers its file by its place beside it."""
        return self.folder.with_name(f"{self.folder.name}-file")

    @property
    def activation_bytes(self) -> int:
        return 4 * self.samples.tokens.size * walked_width(self.checkpoint)

    @property
    def activations_on_disk(self) -> bool:
        return self.activation_bytes > scratch_for(self.request.spec, self.folder).memory_bytes

    @property
    def family(self) -> Family:
        return find_family(self.checkpoint.config)[0]

    @property
    def memory_bytes(self) -> int:
        """About the most memory that the run will take on a CPU."""
        tensors = self.checkpoint.tensors()
        weights = largest_block_weights(tensors)
        sums = max(statistics_bytes(self.family, tensors, hessian=self.hessian).values(), default=0)
        held = 0 if self.activations_on_disk else self.activation_bytes
        return BASE_BYTES + 4 * weights + round(SUMS_AT_ONCE * sums) + held

    @property
    def disk_bytes(self) -> int:
        """About the most disk space that the run will take: the sums of every block, and the file made of them."""
        sums = sum(statistics_bytes(self.family, self.checkpoint.tensors(), hessian=self.hessian).values())
        return sums * (2 if self.kind is Kind.STATISTICS else 1) + self.activation_bytes * self.activations_on_disk

    def line(self) -> str:
        """What a person wants to know before it runs."""
        record = self.samples.record
        count, seqlen = self.samples.tokens.shape
        place = "on the disk" if self.activations_on_disk else "in memory"
        return (
            f"{self.checkpoint.name} · {count:,} x {seqlen:,} = {counted(record.tokens, 'token')} of {record.name}"
            f" · {'with' if self.hessian else 'without'} Hessians\n           peak memory about"
            f" {size(self.memory_bytes)} · disk about {size(self.disk_bytes)}"
            f" · activations {size(self.activation_bytes)} {place}"
        )

    def as_json(self) -> dict[str, Any]:
        """The object that `--dry-run --json` prints."""
        count, seqlen = self.samples.tokens.shape
        return {
            "would_write": str(self.request.out),
            "kind": self.kind.name.lower(),
            "samples": count,
            "seqlen": seqlen,
            "tokens": self.samples.record.tokens,
            "hessian": self.hessian,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "activations": {"bytes": self.activation_bytes, "place": "disk" if self.activations_on_disk else "memory"},
        }


def plan_calibration(request: CalibrateRequest, emit: Sink = ignore, *, headers: bool = False) -> CalibratePlan:
    """Plan a calibration: open the source, read the data and turn it into samples. The caller closes the checkpoint.
    With `headers` weights of a repository of the Hub stay there: for a plan that nothing is made of.

    Raises what is wrong with the options first, then with the source, then with the data.
    """
    kind = kind_of(request)
    request.spec.check()
    require_place([request.out], record_path(request.out))
    opened = open_source(
        request.source, offline=request.spec.offline, emit=emit, adapters=request.adapters, headers=headers
    )
    require_base(opened, emit, allow_other=request.allow_other_base)
    checkpoint = turned_back(opened, emit)
    try:
        sources = [Path(file.path) for file in checkpoint.files()]
        refuse_inputs([request.out, record_path(request.out)], [*sources, *map(data_path, request.spec.data)])
        samples = prepare_samples(checkpoint, request.spec, emit)
        model = None if kind is Kind.STATISTICS else describe_source(checkpoint, request.pre)
    except QuantkitError:
        checkpoint.close()
        raise
    plan = CalibratePlan(request, kind, checkpoint, samples, model)
    for code, message in shortages(plan, memory_limit_bytes(), free_bytes(request.out.parent)):
        emit(Warned(code, message))
    return plan


def shortages(plan: CalibratePlan, memory_bytes: int, disk_bytes: int) -> Iterator[tuple[str, str]]:
    """Warnings where so much memory or disk may not do: what a run needs is only estimated."""
    if plan.memory_bytes > memory_bytes:
        yield SHORT_OF_MEMORY, f"about {size(plan.memory_bytes)} of memory are needed, there are {size(memory_bytes)}"
    if plan.disk_bytes > disk_bytes:
        yield SHORT_OF_DISK, f"about {size(plan.disk_bytes)} of disk are needed, {size(disk_bytes)} are free"


def kind_of(request: CalibrateRequest) -> Kind:
    """What the name of the output asks for. Raises UsageError for another suffix, and for options against it."""
    suffix = request.out.suffix
    if suffix not in {kind.value for kind in Kind}:
        hint = "x.safetensors for statistics, x.gguf for an imatrix, x.dat for a legacy imatrix"
        raise UsageError(f'-o {request.out.name}: the suffix "{suffix}" says nothing', key="out", hint=hint)
    kind = Kind(suffix)
    if request.hessian and kind is not Kind.STATISTICS:
        raise UsageError(f"an imatrix ({suffix}) holds no Hessians", key="hessian", hint="write x.safetensors")
    percent = request.require_coverage
    if percent is not None and not 0 <= percent <= 100:
        raise UsageError(f"--require-coverage {percent:g}", key="require_coverage", hint="a percentage, 0 to 100")
    return kind


def largest_block_weights(tensors: Mapping[str, TensorInfo]) -> int:
    """Weights of the block that has the most."""
    found: dict[str, int] = defaultdict(int)
    for name, info in tensors.items():
        layer, inside = text_block_of(name)
        if layer is not None:
            found[name.removesuffix(inside)] += info.elements
    return max(found.values(), default=0)


def statistics_bytes(family: Family, tensors: Mapping[str, TensorInfo], *, hessian: bool) -> dict[str, int]:
    """About how many bytes the sums of each block, by its name, take: one site for each input that matrices share."""
    sites: dict[str, dict[tuple[str, object], tuple[int, int]]] = defaultdict(dict)
    for name, role in roles_of(family, tensors).items():
        info = tensors[name]
        layer, inside = text_block_of(name)
        if layer is None or len(info.shape) < 2:
            continue
        module, _, last = inside.removesuffix(".weight").rpartition(".")
        matrices = info.shape[0] if len(info.shape) == 3 else 1
        sites[name.removesuffix(inside)][module, last if role is None else FUSED.get(role, last)] = matrices, info.cols
    return {
        block: sum(matrices * _site_bytes(cols, hessian) for matrices, cols in found.values())
        for block, found in sites.items()
    }


def _site_bytes(cols: int, hessian: bool) -> int:
    return 20 * cols + (2 * cols * (cols + BAND_ROWS) if hessian else 0)
