"""The convert stage: plan, quantize, verify, pack. One read of the source for any number of recipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from quantkit.errors import InputError
from quantkit.events import Sink, StageFinished, StageStarted, ignore
from quantkit.pipeline.checks import Verification
from quantkit.pipeline.engine import require_engine
from quantkit.pipeline.hashing import SourceHasher, require_published
from quantkit.pipeline.pack import (
    Artifact,
    already_built,
    draft_manifest,
    existing_artifact,
    publish,
    refuse_existing,
    save_work,
)
from quantkit.pipeline.prepare import Prepared, Request, output_paths, output_stem, prepare
from quantkit.pipeline.quantize import Target, never, quantize
from quantkit.pipeline.verify import VerifyOptions, verify_parts
from quantkit.plan import Plan
from quantkit.report.manifest import FileRecord, Manifest
from quantkit.report.sizes import plan_line
from quantkit.report.text import size
from quantkit.storage import Job, PartFile, open_job, remove_job

NOTHING = Verification(())
CONVERT_SAMPLE_ROWS = 64  # rows of each tensor that convert compares; `quantkit verify --against` compares all


@dataclass(frozen=True)
class Output:
    """Where the artifacts go and how the run behaves."""

    out: Path = Path()
    force: bool = False
    threads: int | None = None
    engine: str | None = None
    verify: bool = True


@dataclass(frozen=True)
class _Pending:
    """An artifact still to be built."""

    plan: Plan
    targets: tuple[Path, ...]
    job: Job


def convert(
    request: Request, output: Output = Output(), *, emit: Sink = ignore, stop: Callable[[], bool] = never
) -> tuple[Artifact, ...]:
    """Build every artifact of a request, in the order of its recipes.

    An artifact that is there already and is what would be written is left alone; one that differs raises ExistsError
    unless `output.force`. An interrupted or failed run leaves a job folder beside the target from which the same
    request resumes; a run that rejects its input leaves nothing.
    """
    require_engine(output.engine)
    start = time.monotonic()
    emit(StageStarted("plan"))
    prepared = prepare(request, output_stem(output.out), emit)
    emit(StageFinished("plan", time.monotonic() - start, "\n           ".join(map(plan_line, prepared.plans))))
    try:
        return _build(prepared, output, emit, stop)
    finally:
        prepared.checkpoint.close()


def _build(prepared: Prepared, output: Output, emit: Sink, stop: Callable[[], bool]) -> tuple[Artifact, ...]:
    artifacts: dict[str, Artifact] = {}
    with ExitStack() as stack:
        pending = []
        for plan, targets in zip(prepared.plans, output_paths(prepared.plans, output.out), strict=True):
            if already_built(targets, plan.digest, lambda: prepared.source_files):
                artifacts[plan.digest] = existing_artifact(targets)
                remove_job(job_folder(prepared, plan, targets))  # killed after its last step, before tidying
                continue
            folder = job_folder(prepared, plan, targets)
            if not folder.exists():  # else an earlier run may have published: the job knows what is its own
                refuse_existing(targets, output.force)
            job = stack.enter_context(open_plan_job(prepared, plan, folder))
            pending.append(_Pending(plan, targets, job))
        if pending:
            try:
                artifacts |= _run(prepared, pending, output, emit, stop)
            except InputError:
                for item in pending:
                    item.job.discard()  # a damaged source has nothing worth resuming
                raise
    return tuple(artifacts[plan.digest] for plan in prepared.plans)


def job_folder(prepared: Prepared, plan: Plan, targets: Sequence[Path]) -> Path:
    """The hidden folder beside the target where a plan's files are built."""
    return targets[0].parent / f".quantkit-{prepared.job_digest(plan)[:12]}"


def open_plan_job(prepared: Prepared, plan: Plan, folder: Path) -> Job:
    """Begin or continue a plan's job in `folder`."""
    parts = [PartFile(f.name, f.nbytes) for f in plan.files]
    return open_job(folder, digest=prepared.job_digest(plan), files=parts)


def _run(
    prepared: Prepared, pending: Sequence[_Pending], output: Output, emit: Sink, stop: Callable[[], bool]
) -> dict[str, Artifact]:
    targets = [Target(item.plan, item.job) for item in pending]
    source_files, seconds = quantize_all(prepared, targets, output.threads, emit, stop)
    facts = {
        "source": prepared.source_facts(),
        "source_files": source_files,
        "checks": [],
        "timings": {"quantize_seconds": round(seconds, 3)},
    }
    built = {}
    for item in pending:
        draft = draft_manifest(item.plan, facts)
        with ThreadPoolExecutor(1) as pool:  # looks at the files while publish reads them back and hashes them
            looking = pool.submit(_look, prepared, item, output)
            settle = partial(_settle, looking, item.targets[0], emit)
            built[item.plan.digest] = publish(
                draft, item.job, item.targets, force=output.force, emit=emit, settle=settle
            )
    return built


def quantize_all(
    prepared: Prepared, targets: Sequence[Target], threads: int | None, emit: Sink, stop: Callable[[], bool]
) -> tuple[tuple[FileRecord, ...], float]:
    """Fill all targets in one read of the source. Returns the hashes of the source files and the seconds it took."""
    start = time.monotonic()
    emit(StageStarted("quantize", prepared.plans[0].source_bytes))
    with SourceHasher(prepared.checkpoint.files()) as hasher:
        quantize(prepared.checkpoint, targets, threads=threads, emit=emit, stop=stop, advance=hasher.advance)
        hashes = hasher.result()
        require_published(prepared.checkpoint.files(), hashes)
        source_files = prepared.records(hashes)
    prepared.checkpoint.unchanged()
    seconds = time.monotonic() - start
    rate = prepared.plans[0].source_bytes / seconds
    emit(StageFinished("quantize", seconds, f"{len(targets[0].plan.tensors)} tensors · {size(rate)}/s of the source"))
    return source_files, seconds


def quantize_to_work(
    request: Request, work: Path, *, threads: int | None = None, emit: Sink = ignore, stop: Callable[[], bool] = never
) -> tuple[Path, ...]:
    """The quantize stage alone: one resumable folder per recipe under `work`, ready for `pack`."""
    prepared = prepare(request, None, emit)
    folders = tuple(work / recipe.title for recipe in prepared.recipes)
    with ExitStack() as stack:
        stack.callback(prepared.checkpoint.close)
        jobs = [
            stack.enter_context(open_plan_job(prepared, plan, folder))
            for plan, folder in zip(prepared.plans, folders, strict=True)
        ]
        targets = [Target(plan, job) for plan, job in zip(prepared.plans, jobs, strict=True)]
        source_files, seconds = quantize_all(prepared, targets, threads, emit, stop)
        timings = {"quantize_seconds": round(seconds, 3)}
        facts = {"source": prepared.source_facts(), "source_files": source_files, "checks": [], "timings": timings}
        for plan, folder in zip(prepared.plans, folders, strict=True):
            parts = [PartFile(f.name, f.nbytes) for f in plan.files]
            save_work(folder, prepared.job_digest(plan), parts, draft_manifest(plan, facts))
    return folders


def _look(prepared: Prepared, item: _Pending, output: Output) -> Verification:
    """Look at the finished part files as `quantkit verify` does."""
    options = VerifyOptions(output.engine, None, CONVERT_SAMPLE_ROWS, output.threads)
    return verify_parts(item.job.paths, prepared.checkpoint, prepared.model, options) if output.verify else NOTHING


def _settle(looking: Future[Verification], target: Path, emit: Sink, draft: Manifest) -> Manifest:
    """Wait for the verdict, which must be good before a file gets its name, and enter it in the manifest."""
    start = time.monotonic()
    seen = looking.result()
    if seen.checks:
        emit(StageFinished("verify", time.monotonic() - start, seen.summary()))
    seen.require(target)
    return replace(draft, facts={**draft.facts, "checks": seen.as_json()})
