"""The convert stage: plan, quantize, verify, pack. One read of the source for any number of recipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, InterruptedRunError, RecipeError
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
from quantkit.pipeline.pool import worker_pool
from quantkit.pipeline.prepare import Prepared, output_paths, output_stem, prepare
from quantkit.pipeline.quantize import Target, default_threads, never, quantize
from quantkit.pipeline.request import Request, require_checkable
from quantkit.pipeline.server import ServerWork
from quantkit.pipeline.server_fill import fill
from quantkit.pipeline.server_verify import verify_server_parts
from quantkit.pipeline.verify import VerifyOptions, verify_parts
from quantkit.plan import Plan
from quantkit.recipe import Recipe, load_recipe
from quantkit.report.manifest import Manifest
from quantkit.report.sizes import plan_line
from quantkit.report.text import size
from quantkit.servers.plan import AnyPlan, ServerPlan
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

    plan: AnyPlan
    targets: tuple[Path, ...]
    job: Job

    @property
    def discards(self) -> bool:
        """Whether a rejected input makes the work worthless: not after hours of calibration."""
        return not (isinstance(self.plan, ServerPlan) and self.plan.calibrated)


def convert(
    request: Request, output: Output = Output(), *, emit: Sink = ignore, stop: Callable[[], bool] = never
) -> tuple[Artifact, ...]:
    """Build every artifact of a request, in the order of its recipes.

    An artifact that is there already and is what would be written is left alone; one that differs raises ExistsError
    unless `output.force`. An interrupted or failed run leaves a job folder beside the target from which the same
    request resumes; a run that rejects its input leaves nothing.
    """
    require_engine(output.engine)
    require_checkable(output.engine, [load_recipe(name) for name in request.recipes], output.verify)
    start = time.monotonic()
    emit(StageStarted("plan"))
    prepared = prepare(request, output_stem(output.out), emit)
    emit(StageFinished("plan", time.monotonic() - start, "\n           ".join(map(plan_line, prepared.plans))))
    try:
        require_calibration(prepared)
        return _build(prepared, output, emit, stop)
    finally:
        prepared.checkpoint.close()


def _build(prepared: Prepared, output: Output, emit: Sink, stop: Callable[[], bool]) -> tuple[Artifact, ...]:
    artifacts: dict[str, Artifact] = {}
    with ExitStack() as stack:
        pending = []
        for plan, targets in zip(prepared.plans, output_paths(prepared, output.out), strict=True):
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
                    if item.discards:
                        item.job.discard()  # a damaged source has nothing worth resuming
                raise
    return tuple(artifacts[plan.digest] for plan in prepared.plans)


def job_folder(prepared: Prepared, plan: AnyPlan, targets: Sequence[Path]) -> Path:
    """The hidden folder beside the target where a plan's files are built."""
    return targets[0].parent / f".quantkit-{prepared.job_digest(plan)[:12]}"


def open_plan_job(prepared: Prepared, plan: AnyPlan, folder: Path) -> Job:
    """Begin or continue a plan's job in `folder`."""
    parts = [PartFile(f.name, f.nbytes) for f in plan.files]
    return open_job(folder, digest=prepared.job_digest(plan), files=parts)


def _run(
    prepared: Prepared, pending: Sequence[_Pending], output: Output, emit: Sink, stop: Callable[[], bool]
) -> dict[str, Artifact]:
    jobs = [(item.plan, item.job) for item in pending]
    facts = fill_all(prepared, jobs, output.threads, emit, stop)
    built = {}
    for item in pending:
        if stop():
            raise InterruptedRunError("interrupted before the check", hint="run the same command again to resume")
        draft = draft_manifest(item.plan, {**facts, **layer_facts(item.plan, item.job)})
        with worker_pool(1) as pool:  # looks at the files while publish reads them back and hashes them
            looking = pool.submit(_look, prepared, item, output)
            settle = partial(_settle, looking, item.targets[0], emit)
            built[item.plan.digest] = publish(
                draft, item.job, item.targets, force=output.force, emit=emit, settle=settle
            )
    return built


def fill_all(
    prepared: Prepared, jobs: Sequence[tuple[AnyPlan, Job]], threads: int | None, emit: Sink, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Fill the files of all jobs: GGUF files in one read of the source, then one checkpoint after the other.

    Returns the facts of the run for the manifests: the source and the hashes of its files, and the time it took.
    """
    start = time.monotonic()
    source_bytes = prepared.plans[0].source_bytes
    emit(StageStarted("quantize", source_bytes))
    targets = [Target(plan, job) for plan, job in jobs if isinstance(plan, Plan)]
    checkpoint = prepared.checkpoint
    with SourceHasher(checkpoint.files()) as hasher:
        if targets:
            quantize(checkpoint, targets, threads=threads, emit=emit, stop=stop, advance=hasher.advance)
        for plan, job in jobs:
            if isinstance(plan, ServerPlan):
                workers = threads or default_threads()
                work = ServerWork(checkpoint, plan, job, workers, emit, stop, hasher.advance)
                fill(work, prepared.calibration, prepared.require_coverage)
        hashes = hasher.result()
        require_published(checkpoint.files(), hashes)
        source_files = prepared.records(hashes)
    checkpoint.unchanged()
    seconds = time.monotonic() - start
    count = sum(len(plan.tensors) for plan, _ in jobs)
    emit(StageFinished("quantize", seconds, f"{count} tensors · {size(source_bytes / seconds)}/s of the source"))
    return {
        "source": prepared.source_facts(),
        "source_files": source_files,
        "checks": [],
        "timings": {"quantize_seconds": round(seconds, 3)},
        **prepared.calibration_facts(),
    }


def layer_facts(plan: AnyPlan, job: Job) -> dict[str, Any]:
    """What became of every layer of a calibrated checkpoint: losses, damping, tokens."""
    if not isinstance(plan, ServerPlan) or not plan.calibrated:
        return {}
    first = {planned.name: job.records[planned.entries[0].name].extra for planned in plan.modules}
    return {"layers": [{"name": name, **facts} for name, facts in first.items()]}


def quantize_to_work(
    request: Request, work: Path, *, threads: int | None = None, emit: Sink = ignore, stop: Callable[[], bool] = never
) -> tuple[Path, ...]:
    """The quantize stage alone: one resumable folder per recipe under `work`, ready for `pack`."""
    prepared = prepare(request, None, emit)
    require_calibration(prepared)
    folders = tuple(work / recipe.title for recipe in prepared.recipes)
    with ExitStack() as stack:
        stack.callback(prepared.checkpoint.close)
        jobs = [
            (plan, stack.enter_context(open_plan_job(prepared, plan, folder)))
            for plan, folder in zip(prepared.plans, folders, strict=True)
        ]
        facts = fill_all(prepared, jobs, threads, emit, stop)
        for (plan, job), folder in zip(jobs, folders, strict=True):
            parts = [PartFile(f.name, f.nbytes) for f in plan.files]
            draft = draft_manifest(plan, {**facts, **layer_facts(plan, job)})
            save_work(folder, prepared.job_digest(plan), parts, draft)
    return folders


def require_calibration(prepared: Prepared) -> None:
    """Raise RecipeError for a recipe that is made with text, and was given none."""
    for recipe, plan in zip(prepared.recipes, prepared.plans, strict=True):
        if isinstance(plan, Plan) or isinstance(recipe, Recipe) or plan.calibrated or not recipe.needs_calibration:
            continue
        hint = "give --calib FILE with text like what the model will see, or a recipe without, such as w8a16"
        raise RecipeError(f"{recipe.name} needs calibration text", key="calib", hint=hint)


def _look(prepared: Prepared, item: _Pending, output: Output) -> Verification:
    """Look at the finished part files as `quantkit verify` does."""
    if not output.verify:
        return NOTHING
    if isinstance(item.plan, ServerPlan):  # which llama.cpp does not load
        return verify_server_parts(item.job.paths, prepared.checkpoint, item.plan)
    assert prepared.model is not None
    options = VerifyOptions(output.engine, None, CONVERT_SAMPLE_ROWS, output.threads)
    return verify_parts(item.job.paths, prepared.checkpoint, prepared.model, options)


def _settle(looking: Future[Verification], target: Path, emit: Sink, draft: Manifest) -> Manifest:
    """Wait for the verdict, which must be good before a file gets its name, and enter it in the manifest."""
    start = time.monotonic()
    seen = looking.result()
    if seen.checks:
        emit(StageFinished("verify", time.monotonic() - start, seen.summary()))
    seen.require(target)
    return replace(draft, facts={**draft.facts, "checks": seen.as_json()})
