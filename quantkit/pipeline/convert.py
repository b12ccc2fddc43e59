"""The convert stage: plan, quantize, verify, pack. One read of the source for any number of recipes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import (
    OF_ONE,
    BatchError,
    GateError,
    InputError,
    InterruptedRunError,
    NonFiniteError,
    QuantkitError,
)
from quantkit.events import Sink, StageFinished, StageStarted, Warned, ignore, never
from quantkit.filling.fill import fill
from quantkit.filling.hashing import SourceHasher, require_published
from quantkit.filling.work import ALONE, Beside, Work
from quantkit.machine import core_count, worker_pool
from quantkit.pipeline.guard import guard, require_guarded, require_unbound
from quantkit.pipeline.layout import laid_out
from quantkit.pipeline.looks import engine_of, look, reading_once
from quantkit.pipeline.optional import differs, gating_of, require_engine_of, require_gates, require_texts, write_texts
from quantkit.pipeline.output import GATES, Output
from quantkit.pipeline.outputs import (
    Artifact,
    already_built,
    job_folder,
    older_manifest,
    open_plan_job,
    output_paths,
    output_stem,
    refuse_existing,
    refuse_inputs,
    refuse_strangers,
    to_retire,
)
from quantkit.pipeline.pack import draft_manifest, layer_facts, publish, save_work, with_hashes
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.prepared import Prepared, with_text
from quantkit.pipeline.request import Request, require_checkable
from quantkit.pipeline.standing import believed, record_checks
from quantkit.pipeline.users import warn_of_no_loader, with_users
from quantkit.plan.base import Plan
from quantkit.plan.grids import facts_of_grids, summary
from quantkit.plan.sizes import plan_line
from quantkit.quality.checks.base import Verification
from quantkit.recipes.read import load_recipes
from quantkit.records import record
from quantkit.report.manifest import Manifest, manifest_path
from quantkit.report.text import size
from quantkit.storage import Job, PartFile, remove_job
from quantkit.units import counted
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from quantkit.pipeline.gating import Gating

USUAL = Output()


@record
class _Pending:
    """An artifact still to be built, and the number of its recipe."""

    number: int
    plan: Plan
    targets: tuple[Path, ...]
    job: Job

    @property
    def discards(self) -> bool:
        """Whether a rejected input makes the work worthless: not after hours of calibration."""
        return self.plan.way != "blocks"


def convert(
    request: Request,
    output: Output = USUAL,
    *,
    emit: Sink = ignore,
    stop: Callable[[], bool] = never,
    hasher: SourceHasher | None = None,
) -> tuple[Artifact, ...]:
    """Build every artifact of a request, in the order of its recipes.

    An artifact that is there already and is what would be written is left alone, once the looks that are asked for
    were taken at it; one that differs raises ExistsError unless `output.force`. An interrupted or failed run leaves a
    job folder beside the target from which the same request resumes; a run that rejects its input leaves nothing.
    Of several recipes each has its own fate: when one fails the others are made, and BatchError says which. A `hasher`
    that has begun with the source goes on, and is closed at the end.
    """
    require_engine_of(output)
    recipes = load_recipes(request.recipes)
    require_checkable(output.engine, recipes, output.verify)
    gates = require_gates(request, output)
    output = replace(output, out=laid_out(output.layout, request.source, recipes, output.out))
    start = time.monotonic()
    emit(StageStarted("plan"))
    prepared = prepare(request, output_stem(output.out), emit, stop, hasher=hasher or SourceHasher())
    try:
        emit(StageFinished("plan", time.monotonic() - start, "\n           ".join(map(plan_line, prepared.plans))))
        gating = gating_of(gates, request, prepared, output)
        prepared = with_text(prepared, emit)
        require_guarded(prepared)
        require_texts(request, prepared, output)
        built = _build(prepared, output, gating, emit, stop)
        built = with_users(built, prepared.plans, request.tp, laid_out=output.layout is not None)
        warn_of_no_loader(built, prepared.plans, emit)
        return write_texts(request, prepared, built, output, emit)
    finally:
        prepared.close()


def _build(
    prepared: Prepared, output: Output, gating: Gating | None, emit: Sink, stop: Callable[[], bool]
) -> tuple[Artifact, ...]:
    groups = output_paths(prepared, output.out)
    for targets in groups:
        refuse_inputs(targets, prepared.inputs)
    artifacts: dict[int, Artifact] = {}
    failed: dict[int, QuantkitError] = {}
    with ExitStack() as stack:
        pending = []
        for number, (plan, targets) in enumerate(zip(prepared.plans, groups, strict=True)):
            try:
                found = standing(prepared, plan, targets, output, emit)
                if found is not None:
                    judged = gating is not None and not plan.is_encoder
                    artifacts[number] = gating.standing(found, plan, emit) if gating and judged else found
                    remove_job(
                        job_folder(targets[0], prepared.job_digest(plan))
                    )  # killed after its last step, before tidying
                else:
                    job = stack.enter_context(_open(prepared, plan, targets, output))
                    pending.append(_Pending(number, plan, targets, job))
            except OF_ONE as error:
                failed[number] = error
        if failed and not prepared.several:
            raise failed[min(failed)]
        if pending:
            try:
                with reading_once(prepared, [item.plan for item in pending], output, gating) as beside:
                    artifacts |= _run(prepared, pending, (output, gating, beside), (emit, stop), failed)
            except InputError:
                for item in pending:
                    if item.discards:
                        item.job.discard()  # a damaged source has nothing worth resuming
                raise
    require_all(prepared, failed, [artifacts[number] for number in sorted(artifacts)])
    return tuple(artifacts[number] for number in range(len(groups)))


def require_all(prepared: Prepared, failed: Mapping[int, QuantkitError], built: Sequence[object]) -> None:
    """Raise what kept recipes from being made: the error itself where there is one recipe, else BatchError."""
    if failed and not prepared.several:
        raise failed[min(failed)]
    failures = dict(prepared.refused) | {prepared.recipes[number].name: failed[number] for number in sorted(failed)}
    if failures:
        raise BatchError(failures, built)


def _open(prepared: Prepared, plan: Plan, targets: Sequence[Path], output: Output) -> Job:
    """The job of an artifact, opened when nothing is in its way. Raises ExistsError where something is."""
    folder, older = job_folder(targets[0], prepared.job_digest(plan)), older_manifest(targets)
    again = output.paranoid and already_built(older, targets, plan.digest, lambda: prepared.origin.files)
    if not os.path.lexists(folder) and not again:  # else the job knows what an earlier run has published
        refuse_existing(targets, output.force, older, lambda: differs(older, plan, prepared))
    job = open_plan_job(prepared, plan, folder, fresh=output.paranoid)
    try:
        refuse_strangers(
            targets, (*job.retired, *(to_retire(targets, manifest_path(targets[0])) if output.force else ()))
        )
    except QuantkitError:
        job.close()
        raise
    return job


def _run(
    prepared: Prepared,
    pending: Sequence[_Pending],
    asked: tuple[Output, Gating | None, Beside],
    listeners: tuple[Sink, Callable[[], bool]],
    failed: dict[int, QuantkitError],
) -> dict[int, Artifact]:
    """Fill the files of all jobs and publish them. Enters in `failed` what keeps single ones from being made."""
    (output, gating, beside), (emit, stop) = asked, listeners
    jobs = [(item.plan, item.job) for item in pending]
    failing: dict[int, QuantkitError] = {}
    facts = fill_all(prepared, jobs, output.threads, listeners, failing, beside)
    built = {}
    for index, item in enumerate(pending):
        if stop():
            raise InterruptedRunError("interrupted before the check", hint="run the same command again to resume")
        try:
            if index in failing:
                raise failing[index]
            read = prepared.reading(item.plan)
            found = _improved(read, item.plan, item.job, output, listeners) if item.plan.way == "blocks" else None
            draft = draft_manifest(item.plan, {**facts, **own_facts(prepared, item.plan, item.job, emit)})
            draft = replace(draft, facts={**draft.facts, "guard": found}) if found else draft
            if kept := draft.facts.get("preserved"):
                emit(StageFinished("preserve", 0.0, summary(kept)))
            draft = _guarded(prepared, item, with_hashes(draft, item.job), output.threads, emit)
            emit(StageStarted("verify" if output.verify else "publish"))
            with worker_pool(1) as pool:  # looks at the files while publish reads them back and hashes them
                looking = pool.submit(
                    look, prepared, item.plan, item.job.paths, output, emit, draft.facts.get("layers", ())
                )
                settle = partial(_settle, looking, item, None if item.plan.is_encoder else gating, emit)
                made = publish(draft, item.job, item.targets, force=output.force, emit=emit, settle=settle)
            built[item.number] = Artifact(item.targets[0], made, built=True)
        except (*OF_ONE, NonFiniteError) as error:
            if not prepared.several:
                raise
            if isinstance(error, InputError) and item.discards:
                item.job.discard()  # nothing worth resuming
            failed[item.number] = error
    return built


def _improved(
    read: Prepared, plan: Plan, job: Job, output: Output, listeners: tuple[Sink, Callable[[], bool]]
) -> Mapping[str, Any] | None:
    """Fit the norms of a file made with text; what the manifest says of its guard."""
    from quantkit.pipeline.never_worse import never_worse  # for files made with text alone
    from quantkit.pipeline.norms import refit_norms

    emit, stop = listeners
    refit_norms(read, plan, job, emit, stop)
    return never_worse(read, plan, job, output.threads, emit, measures=output.verify)


def _guarded(prepared: Prepared, item: _Pending, draft: Manifest, threads: int | None, emit: Sink) -> Manifest:
    """The draft with what the file really loses where it has a bound. Raises GateError for one that loses more."""
    if not item.plan.allocation:
        return draft
    try:
        allocation = guard(prepared, item.plan, item.job.paths, threads, emit)
    except GateError:
        item.job.discard()  # another bound gives other types
        raise
    return replace(draft, facts={**draft.facts, "allocation": allocation})


def fill_all(
    prepared: Prepared,
    jobs: Sequence[tuple[Plan, Job]],
    threads: int | None,
    listeners: tuple[Sink, Callable[[], bool]],
    failed: dict[int, QuantkitError],
    beside: Beside = ALONE,
) -> dict[str, Any]:
    """Fill the files of all jobs: GGUF files in one read of the source, then one checkpoint after the other.

    Returns the facts of the run for the manifests: the source and the hashes of its files, and the time it took.
    Enters in `failed`, by the number of its job, what keeps single ones from being filled; no facts where all do.
    """
    emit, stop = listeners
    start = time.monotonic()
    source_bytes = prepared.plans[0].source_bytes
    emit(StageStarted("quantize", source_bytes))
    checkpoint = prepared.checkpoint
    with prepared.hashing() as hasher:
        how = (threads or core_count(), emit, stop, hasher.advance, beside)
        beside.begin()
        failed |= fill(
            [Work(prepared.reading(p).checkpoint, p, job, *how) for p, job in jobs],
            prepared.calibration,
            prepared.require_coverage,
        )
        beside.finish()
        if len(failed) == len(jobs):
            return {}
        hashes = hasher.result()
        require_published(checkpoint.files(), hashes)
        source_files = prepared.origin.records(hashes)
    checkpoint.unchanged()
    seconds = time.monotonic() - start
    count = sum(len(plan.tensors) for plan, _ in jobs)
    what = f"{counted(count, 'tensor')} · {size(source_bytes / seconds)}/s of the source"
    emit(StageFinished("quantize", seconds, what))
    return {
        "source": prepared.origin.facts(),
        "source_files": source_files,
        "checks": [],
        "timings": {"quantize_seconds": round(seconds, 3)},
    }


def _evened_facts(prepared: Prepared, plan: Plan, emit: Sink) -> dict[str, Any]:
    """The manifest's word on columns that were evened, which is told."""
    facts = prepared.evened_facts(plan)
    if not facts:
        return {}
    what = f"{plan.files[0].name}: columns were far apart in length at {counted(facts['sites'], 'place')}"
    emit(Warned("evened", f"{what}: they were evened first, which leaves the function as it is"))
    return {"evened": facts}


def own_facts(prepared: Prepared, plan: Plan, job: Job, emit: Sink) -> dict[str, Any]:
    """What the manifest of this artifact says besides: text that was used, what became of each layer with it."""
    made = {**layer_facts(plan, job), **facts_of_grids(plan, job.records)}
    if plan.refits:
        from quantkit.pipeline.norms import norms_facts  # for files made with text alone

        made |= norms_facts(plan, job)
    made |= _evened_facts(prepared, plan, emit)
    return {**prepared.calibration_facts(plan), **made}


def quantize(
    request: Request,
    work: Path,
    *,
    threads: int | None = None,
    paranoid: bool = False,
    emit: Sink = ignore,
    stop: Callable[[], bool] = never,
) -> tuple[Path, ...]:
    """The quantize stage alone: one resumable folder per recipe under `work`, ready for `pack`.

    `paranoid`: what an earlier run finished does not count.
    """
    require_unbound(request.max_kld)
    failed: dict[int, QuantkitError] = {}
    with ExitStack() as stack:
        prepared = with_text(stack.enter_context(prepare(request, None, emit, stop, hasher=SourceHasher())), emit)
        folders = tuple(work / recipe.title for recipe in prepared.recipes)
        jobs = [
            (plan, stack.enter_context(open_plan_job(prepared, plan, folder, fresh=paranoid)))
            for plan, folder in zip(prepared.plans, folders, strict=True)
        ]
        facts = fill_all(prepared, jobs, threads, (emit, stop), failed)
        for number, ((plan, job), folder) in enumerate(zip(jobs, folders, strict=True)):
            if number in failed:
                continue
            if plan.refits:
                from quantkit.pipeline.norms import refit_norms  # for files made with text alone

                refit_norms(prepared.reading(plan), plan, job, emit, stop)
            parts = [PartFile(f.name, f.nbytes) for f in plan.files]
            draft = draft_manifest(plan, {**facts, **own_facts(prepared, plan, job, emit)})
            save_work(folder, prepared.job_digest(plan), parts, draft)
    require_all(prepared, failed, [folder for number, folder in enumerate(folders) if number not in failed])
    return folders


def standing(prepared: Prepared, plan: Plan, targets: Sequence[Path], output: Output, emit: Sink) -> Artifact | None:
    """The artifact that is there, if it is what would be made. Looks that are asked for now and were not then are
    taken, and entered in its manifest. Raises VerificationError for one that fails."""
    if output.paranoid:
        return None
    found = already_built(older_manifest(targets), targets, plan.digest, lambda: prepared.origin.files)
    if found is None:
        return None
    refuse_strangers(targets)
    artifact = believed(prepared, plan, Artifact(targets[0], found, built=False))
    if artifact is None:
        what = f"{shown(targets[0])} does not hold what the source gives, or nobody can tell"
        emit(Warned("not-believed", f"{what}: its manifest is not of this user's making"))
        return None
    done = {check["check"] for check in artifact.manifest.facts["checks"] if check["ok"] is not False} - {GATES}
    engine = engine_of(plan, output)
    if output.verify and (not done or (engine and engine not in done)):
        seen = look(prepared, plan, targets, output, emit)
        if seen.checks:
            emit(StageFinished("verify", 0.0, seen.summary()))
            artifact = record_checks(artifact, seen)
    return artifact


def _settle(
    looking: Future[Verification], item: _Pending, gating: Gating | None, emit: Sink, draft: Manifest
) -> Manifest:
    """Wait for the verdict, which must be good before a file gets its name, and enter it in the manifest."""
    start = time.monotonic()
    seen = looking.result()
    if seen.checks:
        emit(StageFinished("verify", time.monotonic() - start, seen.summary()))
    seen.require(item.targets[0])
    if gating is not None:
        seen = replace(seen, checks=(*seen.checks, gating.judged(item.plan, item.job.paths, item.targets[0], emit)))
    return replace(draft, facts={**draft.facts, "checks": seen.as_json()})
