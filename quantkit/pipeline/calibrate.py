"""The calibrate stage: text through the model once, what its linears saw into a file that every method can use."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.calibration.experts import require_reached
from quantkit.calibration.inputs import open_calibration_model, scratch_for
from quantkit.calibration.text.spec import longest_context
from quantkit.errors import InputError
from quantkit.events import (
    BlockProgress,
    Event,
    Resumed,
    Sink,
    StageFinished,
    StageStarted,
    TensorProgress,
    Warned,
    ignore,
    never,
)
from quantkit.extras import RUN_MODELS, installed_version, require_installed
from quantkit.filling.hashing import SourceHasher, require_published
from quantkit.formats.gguf.imatrix import encode_imatrix_gguf, read_imatrix
from quantkit.formats.gguf.imatrix_legacy import encode_imatrix_legacy
from quantkit.pipeline.calibrate_plan import CalibratePlan, CalibrateRequest, Kind, plan_calibration
from quantkit.pipeline.outputs import already_built, readable, refuse_existing
from quantkit.pipeline.pack import publish
from quantkit.records import record
from quantkit.report.calibration_record import CalibrationRecord, read_record, record_path
from quantkit.report.records import FileRecord
from quantkit.storage import Job, PartFile, open_job, remove_job, user_key
from quantkit.units import counted
from quantkit.untrusted import shown
from quantkit.version import __version__

if TYPE_CHECKING:
    from quantkit.calibration.coverage import Coverage
    from quantkit.calibration.saved import BlockFiles
    from quantkit.calibration.statistics.file import StatisticsFile
    from quantkit.calibration.statistics.sums import Statistics

NAMED_VERSIONS = ("numpy", "torch", "transformers", "tokenizers")


@record
class Calibrated:
    """A file of calibration and its record. `built` is False where it was there already."""

    path: Path
    record: CalibrationRecord
    built: bool

    def summary(self) -> str:
        """What a person wants to know: how much text, and what it reached."""
        coverage = self.record.facts["coverage"]
        state = "" if self.built else f" {self.path.name} already built (sha256 {self.record.file.sha256})\n"
        line = (
            f"{state} {counted(coverage['samples'], 'sample')} · {counted(coverage['tokens'], 'token')}"
            f" · {coverage['unique_percent']:.0f} % of the samples unique"
        )
        if coverage["experts"]:
            line += f" · {coverage['expert_percent']:.1f} % of {counted(coverage['experts'], 'expert')} reached"
        return line

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "file": {**self.record.file.as_json(), "path": str(self.path)},
            "manifest": str(record_path(self.path)),
            "identity": self.record.identity,
            "built": self.built,
            "kind": self.record.facts["kind"],
            "data": self.record.facts["data"],
            "coverage": self.record.facts["coverage"],
            "warnings": self.record.facts["warnings"],
        }


def calibrate(request: CalibrateRequest, *, emit: Sink = ignore, stop: Callable[[], bool] = never) -> Calibrated:
    """Run the data of a request through its model and write what the linears saw.

    A file that is there already and is what would be written is left alone; one that differs raises ExistsError
    unless `request.force`. A run that ends early leaves a job folder beside the target with the blocks it finished;
    the same request resumes from there, to the same bytes. Raises GateError, before the file gets its name, when
    fewer experts were reached than `request.require_coverage` percent.
    """
    request.spec.check()
    require_installed("calibrate", RUN_MODELS)
    start = time.monotonic()
    warned: list[Warned] = []

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            warned.append(event)
        emit(event)

    emit(StageStarted("plan"))
    plan = plan_calibration(request, hear)
    try:
        emit(StageFinished("plan", time.monotonic() - start, plan.line()))
        existing = _existing(plan, emit)
        if existing is not None:
            _require_coverage(existing.record.facts["coverage"], request.require_coverage)
            return existing
        if not plan.folder.exists():  # else an earlier run may have published: its journal knows
            refuse_existing([request.out], request.force)
        with open_job(plan.folder, digest=plan.job_digest, files=[]) as job:
            return _run(plan, job, hear, warned, stop)
    finally:
        plan.checkpoint.close()


def _run(plan: CalibratePlan, job: Job, emit: Sink, warned: list[Warned], stop: Callable[[], bool]) -> Calibrated:
    from quantkit.calibration.coverage import check_coverage
    from quantkit.calibration.saved import moments_of, opened

    start = time.monotonic()
    files, source_files = _save_blocks(plan, job, emit, stop)
    with opened(files) as found:
        moments = moments_of(found)
        coverage = check_coverage(moments, context=longest_context(plan.checkpoint), hessian=plan.hessian)
        for code, message in coverage.warnings:
            if code not in {event.code for event in warned}:
                emit(Warned(code, message))
        seconds = time.monotonic() - start
        emit(StageFinished("calibrate", seconds, f"{counted(files.count, 'block')}"))
        _require_coverage(coverage_facts(coverage), plan.request.require_coverage)
        draft = CalibrationRecord(
            plan_digest=plan.digest,
            source=plan.origin.facts(),
            source_files=source_files,
            artifact=(),
            facts=_facts(plan, coverage, seconds),
        )
        record = _write(plan, draft, found, moments, emit)
    job.discard()
    return Calibrated(plan.request.out, record, built=True)


def _save_blocks(
    plan: CalibratePlan, job: Job, emit: Sink, stop: Callable[[], bool]
) -> tuple[BlockFiles, tuple[FileRecord, ...]]:
    """Make sure that every block has its file; the hashes of the source, which is read meanwhile."""
    from quantkit.calibration.saved import block_files, save_statistics

    checkpoint, spec = plan.checkpoint, plan.request.spec
    model = open_calibration_model(checkpoint, spec, scratch_for(spec, plan.folder))
    files = block_files(model, plan.samples, plan.folder / f"blocks-{plan.job_digest}")
    tensors = checkpoint.tensors()
    emit(StageStarted("calibrate", sum(info.nbytes for info in tensors.values())))
    kept = {name for names in files.finished().values() for name in names}
    if kept:
        emit(Resumed(len(kept), sum(tensors[name].nbytes for name in kept)))
    with SourceHasher(checkpoint.files()) as hasher:

        def progress(event: Event) -> None:
            if isinstance(event, TensorProgress):
                hasher.advance(event.done_bytes)
                event = replace(event, stage="calibrate", index=event.index + 1)
            elif isinstance(event, BlockProgress):
                event = replace(event, stage="calibrate")
            emit(event)

        try:
            save_statistics(model, plan.samples, files, progress, hessian=plan.hessian, stop=stop)
        except InputError:
            if not files.finished():
                job.discard()  # nothing worth resuming
            raise
        hashes = hasher.result()
        require_published(checkpoint.files(), hashes)
    checkpoint.unchanged()
    return files, plan.origin.records(hashes)


def _write(
    plan: CalibratePlan, draft: CalibrationRecord, files: Sequence[StatisticsFile], moments: Statistics, emit: Sink
) -> CalibrationRecord:
    """The file itself, checked by its own reader before it gets its name, and its record."""
    from quantkit.calibration.imatrix import to_imatrix
    from quantkit.calibration.saved import check_statistics, write_pieces
    from quantkit.calibration.statistics.file import Encoded, encode_files

    out = plan.request.out
    if plan.model is None:
        encoded = encode_files(files)
    else:
        imatrix = to_imatrix(moments, plan.model, out.name)
        encode = encode_imatrix_gguf if plan.kind is Kind.IMATRIX else encode_imatrix_legacy
        data = encode(imatrix)
        encoded = Encoded(len(data), iter([data]))
    parts = [PartFile(out.name, encoded.nbytes)]
    with open_job(plan.file_folder, digest=plan.job_digest, files=parts) as job:
        write_pieces(encoded, job)

        def settle(draft: CalibrationRecord) -> CalibrationRecord:
            if plan.model is None:
                check_statistics(job.paths[0])
            else:
                read_imatrix(job.paths[0])
            return draft

        return publish(draft, job, [out], force=plan.request.force, emit=emit, settle=settle)


def _existing(plan: CalibratePlan, emit: Sink) -> Calibrated | None:
    """The file that is already there, if it is exactly what this plan would write from the present source.

    Only the record says so, and statistics cannot be made anew in part: a record that is not of this user's making is
    not believed.
    """
    out = plan.request.out
    found = already_built(readable(read_record, record_path(out)), [out], plan.digest, lambda: plan.origin.files)
    if found is None:
        return None
    if not found.made_with(user_key()):
        what = f"{shown(out)} does not hold what the text gives, or nobody can tell"
        emit(Warned("not-believed", f"{what}: its record is not of this user's making"))
        return None
    for folder in (plan.file_folder, plan.folder):
        remove_job(folder)  # killed after its last step, before tidying
    return Calibrated(out, found, built=False)


def _require_coverage(coverage: Mapping[str, Any], percent: float | None) -> None:
    require_reached(coverage["rare"], coverage["experts"], percent, "--data")


def coverage_facts(coverage: Coverage) -> dict[str, Any]:
    """What the data reached, for records and for `--json`."""
    return {
        "samples": coverage.samples,
        "tokens": coverage.tokens,
        "repeated": coverage.repeated,
        "unique_percent": round(100 * (1 - coverage.repeated / coverage.samples), 2),
        "tokens_per_column": round(coverage.shortest, 3),
        "experts": sum(map(len, coverage.experts.values())),
        "expert_percent": coverage.expert_percent,
        "rare": list(coverage.rare),
        "expert_tokens": {module: list(tokens) for module, tokens in coverage.experts.items()},
    }


def _facts(plan: CalibratePlan, coverage: Coverage, seconds: float) -> dict[str, Any]:
    return {
        "kind": plan.kind.name.lower(),
        "hessian": plan.hessian,
        "data": asdict(plan.samples.record),
        "coverage": coverage_facts(coverage),
        "warnings": [{"code": code, "message": message} for code, message in coverage.warnings],
        "tool": {"name": "quantkit", "version": __version__},
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in NAMED_VERSIONS}},
        "platform": f"{platform.system()} {platform.machine()}",
        "timings": {"calibrate_seconds": round(seconds, 3)},
    }
