"""Batches: a matrix of models and recipes planned, run, looked at, and run again where it failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.batch.budget import jobs_here, memory_here
from quantkit.batch.dask_cluster import room_of
from quantkit.batch.expand import Wish, wishes_of
from quantkit.batch.faults import Faults
from quantkit.batch.ledger import Ledger, State, keys_of
from quantkit.batch.matrix import Matrix, read_matrix
from quantkit.batch.place import INTERRUPTED, PLACES, TLS, Outcome, Place, Setup, open_place
from quantkit.batch.slurm_script import job_scripts
from quantkit.batch.task import Task
from quantkit.batch.worker import Work, may_pass, run_task
from quantkit.errors import UsageError, did_you_mean, require_choice
from quantkit.events import Sink, StageFinished, StageStarted, TaskFinished, Warned, ignore, never
from quantkit.pipeline.batch_measured import measurements_in
from quantkit.pipeline.batch_plan import PlannedTask, plan_tasks
from quantkit.pipeline.batch_records import look_at_places, require_places, tell, write_records
from quantkit.pipeline.batch_result import BatchPlan, BatchResult, PlanRow, TaskRow
from quantkit.pipeline.batch_room import needs_left, require_own_outputs, require_room
from quantkit.pipeline.batch_sources import ask_now, is_on_hub, sources_of
from quantkit.pipeline.given import coerce, given_path, given_size
from quantkit.pipeline.request import USES, WITH_TEXT
from quantkit.recipes.recipe import Overrides, Recipe, override
from quantkit.records import record
from quantkit.storage import free_bytes
from quantkit.units import counted, parse_size
from quantkit.untrusted import shown

LOCAL, DASK, SLURM = "local", "dask", "slurm"


@record
class BatchRequest:
    """A matrix, and how to run it. Fields are the options of `quantkit batch run`.

    `place` is where; `jobs`, `threads`, `memory`, `address` and `options` are what it is told. `task` is the id of the
    one that is to be run. With `keep_going` what cannot be planned fails by itself and the others are made; with
    `recheck` every task is begun again, and says what is there. `junit` is a file for servers of CI.
    """

    matrix: Path
    place: str = LOCAL
    jobs: int | None = None
    threads: int | None = None
    memory: str | None = None
    address: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    task: str | None = None
    force: bool = False
    keep_going: bool = False
    recheck: bool = False
    offline: bool = False
    junit: Path | None = None
    summary: bool = True

    def __post_init__(self) -> None:
        coerce(self, {"matrix": given_path, "memory": given_size, "junit": given_path})


@record
class Expanded:
    """A matrix as tasks, with what is known of each."""

    matrix: Matrix
    wishes: tuple[Wish, ...]
    keys: dict[str, str]
    ledger: Ledger

    def states(self) -> dict[str, State]:
        return {name: self.ledger.state(self.ledger.read(name), key) for name, key in self.keys.items()}


def expand(request: BatchRequest, faults: Faults) -> Expanded:
    """The tasks of the matrix of a request. Opens no model. What is wrong is added to `faults`."""
    matrix = read_matrix(request.matrix, faults)
    wishes = tuple(wishes_of(matrix, idle, faults))
    keys = keys_of(wishes)
    if len(keys) < len(wishes):
        [(twice, _)] = Counter(wish.task.id for wish in wishes).most_common(1)
        what = f"two tasks are called {twice}"
        faults.add(UsageError(what, path=str(matrix.path), hint="give models and recipes names of their own"))
    return Expanded(matrix, wishes, keys, Ledger(matrix.out))


def idle(option: str, recipe: Recipe) -> str | None:
    """Why a recipe has no use for an option, by its key; None where it has one. Text is of use wherever it would be."""
    given = override(recipe, Overrides(text=True))
    for use in USES:
        if use.field == option and not use.users(given):
            return use.why
    text = option in (each.removeprefix("--").replace("-", "_") for each in WITH_TEXT)
    if text and idle("calib", recipe) is not None:
        return "is about text, and it needs none"
    return None


def plan_batch(request: BatchRequest, *, failed_only: bool = False, emit: Sink = ignore) -> BatchPlan:
    """What every task of a matrix makes, to the byte, what it takes, and which are done. Writes nothing.

    Room is asked for, and jobs are shown, of what `run_batch` with the same arguments would begin. Raises, all at once,
    what is wrong with the matrix, its models and recipes, and a disk or memory that is too small.
    """
    _require_place(request)
    faults = Faults()
    found = expand(request, faults)
    faults.require_none()
    look_at_places(found.matrix, request.junit)
    jobs, threads = jobs_here(request.jobs, request.threads, len(found.wishes))
    planned = _planned(found, found.wishes, threads, faults, emit, offline=request.offline)
    states = found.states()
    rows = [PlanRow(each, states[each.task.id]) for each in planned]
    begun = {wish.task.id for wish in _chosen(request, found, failed_only)}
    left = [each for each in planned if each.task.id in begun]
    lacking = Faults()
    memory, free = memory_here(_memory(request)), free_bytes(found.matrix.out)
    require_room(left, _room(request, found, begun, memory), found.matrix.out, lacking)
    if not request.keep_going:
        faults.require_none()
    jobs_of = request.place == SLURM and request.task is None  # one task is run here
    scripts = job_scripts([each.task for each in left], setup_of(request, found)) if jobs_of else ()
    sources = sources_of(found.wishes, found.ledger, found.keys, _commits(found.wishes, planned))
    return BatchPlan(
        found.matrix, tuple(rows), jobs, threads, memory, free, tuple(lacking.found), tuple(scripts), sources
    )


def run_batch(
    request: BatchRequest, *, failed_only: bool = False, emit: Sink = ignore, stop: Callable[[], bool] = never
) -> BatchResult:
    """Run what is not done, or with `failed_only` what failed; then write the index, the checksums and the page.

    What failed for a reason that does not pass is not begun again unless it is asked for, or its inputs changed. The
    result says what became of each task; `require` raises BatchError where some failed.
    """
    start = time.monotonic()
    _require_place(request)
    faults = Faults()
    found = expand(request, faults)
    faults.require_none()
    require_places(found.matrix, request.junit)
    if request.task is not None:
        return _run_one(request, found, emit, stop)
    chosen = _chosen(request, found, failed_only)
    place = (
        open_place(request.place, setup_of(request, _of(found, chosen))) if chosen else None
    )  # not there: said before all work
    _, threads = jobs_here(request.jobs, request.threads, len(chosen))
    planned = _planned(found, chosen, threads, faults, emit, offline=request.offline)
    tasks = needs_left(planned)
    room = Faults()
    require_room(planned, None if place is None else place.room_bytes, found.matrix.out, room)
    for error in [*([] if request.keep_going else faults.found), *room.found]:
        room.add(error)
    room.require_none()
    now = _commits(chosen, planned)
    if not request.offline:
        done = {wish.source for wish in found.wishes if is_on_hub(wish.source)} - now.keys()
        now |= ask_now(sorted(done))
    for each in sources_of(found.wishes, found.ledger, found.keys, now):
        if each.older:
            emit(Warned("moved", each.words))
    stopped = place is not None and _run_all(place, found, tasks, emit, stop)
    result = _result(found, time.monotonic() - start, stopped, now)
    write_records(result, request.junit, request.summary, emit)
    return result


def batch_status(request: BatchRequest) -> BatchResult:
    """What became of each task so far. Opens no model and writes nothing."""
    faults = Faults()
    found = expand(request, faults)
    faults.require_none()
    return _result(found, 0.0, False)


def _room(request: BatchRequest, found: Expanded, begun: set[str], memory: int) -> int | None:
    """Memory that one task may take, as far as that is known without asking a scheduler; None where it is not."""
    if request.place == DASK and request.address is None:
        of_begun = [wish for wish in found.wishes if wish.task.id in begun]
        return room_of(setup_of(request, _of(found, of_begun)))
    return memory if request.place == LOCAL else None


def _require_place(request: BatchRequest) -> None:
    """Raise UsageError for a place that is none, and for what only the workers of a scheduler have a use for."""
    require_choice("--on", request.place, PLACES)
    idle = [*(["scheduler"] if request.address else []), *(key for key, _ in request.options if key in TLS)]
    if idle and request.place != DASK:
        what = f"--{idle[0]} is of --on {DASK}, this is --on {request.place}"
        raise UsageError(what, hint=f"add --on {DASK}, or leave it out", key=idle[0])


def _planned(
    found: Expanded, wishes: Sequence[Wish], threads: int, faults: Faults, emit: Sink, *, offline: bool
) -> list[PlannedTask]:
    start = time.monotonic()
    emit(StageStarted("plan"))
    planned = plan_tasks(wishes, threads, faults, emit, offline=offline)
    require_own_outputs(planned, faults, _taken(found, wishes))
    done = len(found.wishes) - len(wishes)
    what = counted(len(planned), "task") + (f", {done} not to be begun" if done else "")
    emit(StageFinished("plan", time.monotonic() - start, what))
    return planned


def _taken(found: Expanded, wishes: Sequence[Wish]) -> dict[Path, tuple[str, str]]:
    """The files of tasks that are not among these, each with its task and recipe."""
    begun = {wish.task.id for wish in wishes}
    taken: dict[Path, tuple[str, str]] = {}
    for name in found.keys.keys() - begun:
        record = found.ledger.read(name)
        if record is not None and record.key == found.keys[name]:
            for made in found.ledger.what_stands(record).artifacts:
                taken |= {found.matrix.out / path: (name, made.recipe) for path, _, _ in made.files}
    return taken


def _chosen(request: BatchRequest, found: Expanded, failed_only: bool) -> list[Wish]:
    """What is to be run: what is not done, and did not fail for good; of one task, that one."""
    chosen = []
    if request.task is not None:
        wish, state = _asked(request, found)
        return [wish] if request.recheck or state != "done" else []
    for wish in found.wishes:
        record = found.ledger.read(wish.task.id)
        state = found.ledger.state(record, found.keys[wish.task.id])
        for_good = state == "failed" and record is not None and not may_pass(record.outcome())
        again = request.recheck or (state != "done" and not for_good)
        if state == "failed" if failed_only else again:
            chosen.append(wish)
    return chosen


def _run_all(place: Place, found: Expanded, tasks: Sequence[Task], emit: Sink, stop: Callable[[], bool]) -> bool:
    """Run tasks at a place. Whether it was stopped: here, or one of the tasks by somebody else."""
    total, done, stopped = len(tasks), 0, False

    def report(outcome: Outcome) -> None:
        nonlocal done, stopped
        done += 1
        stopped = stopped or outcome.exit == INTERRUPTED
        _require_record(found, outcome)
        emit(
            TaskFinished(
                outcome.task, outcome.exit, round(outcome.seconds, 3), outcome.where, done, total, _words(outcome)
            )
        )

    place.run(tasks, report, stop)
    return stopped or stop()


def _require_record(found: Expanded, outcome: Outcome) -> None:
    """Write down a failure that nobody has: a place could not even begin the task. What is done its own process has
    written down, with what it made, also where that is not to be seen here yet."""
    record, key = found.ledger.read(outcome.task), found.keys[outcome.task]
    code = None if outcome.error is None else outcome.error.code
    known = None if record is None else (record.key, record.exit, None if record.error is None else record.error.code)
    if not outcome.ok and known != (key, outcome.exit, code):
        found.ledger.settle(outcome, key, ())


def setup_of(request: BatchRequest, found: Expanded) -> Setup:
    """What a place is told."""
    return Setup(
        matrix=found.matrix.path,
        out=found.matrix.out,
        keys=found.keys,
        jobs=request.jobs,
        threads=request.threads,
        memory_bytes=_memory(request),
        force=request.force,
        offline=request.offline,
        address=request.address,
        options=(*(found.matrix.slurm if request.place == SLURM else ()), *request.options),
    )


def _words(outcome: Outcome) -> str:
    if outcome.failures:
        return "; ".join(f"{each.recipe}: {each.message}" for each in outcome.failures)
    return outcome.error.message if outcome.error is not None else ""


def _run_one(request: BatchRequest, found: Expanded, emit: Sink, stop: Callable[[], bool]) -> BatchResult:
    """Run the one task of a request here, as other machines are asked to. No index, no page: those are of the whole."""
    start, (wish, state) = time.monotonic(), _asked(request, found)
    name = wish.task.id
    if request.recheck or state != "done":
        work = Work(wish.task, found.ledger, found.keys[name], request.threads, request.force, request.offline)
        outcome = run_task(work, stop)
        emit(TaskFinished(name, outcome.exit, round(outcome.seconds, 3), outcome.where, 1, 1, _words(outcome)))
    result = _result(_of(found, [wish]), time.monotonic() - start, stop())
    tell(result, request.junit, request.summary, emit)
    return replace(result, stopped=result.stopped or result.rows[0].state == "interrupted")


def _asked(request: BatchRequest, found: Expanded) -> tuple[Wish, State]:
    """The one task of a request, and what is known of it. Raises UsageError for one that is none of the matrix."""
    name = str(request.task)
    wish = next((wish for wish in found.wishes if wish.task.id == name), None)
    if wish is None:
        what = f'--task "{shown(name)}" is none of the matrix{did_you_mean(name, found.keys)}'
        raise UsageError(what, key="task", hint=f"quantkit batch plan {shown(found.matrix.path)} lists them")
    return wish, found.ledger.state(found.ledger.read(name), found.keys[name])


def _of(found: Expanded, wishes: Sequence[Wish]) -> Expanded:
    """The same with some of the tasks."""
    return replace(found, wishes=tuple(wishes), keys={wish.task.id: found.keys[wish.task.id] for wish in wishes})


def _commits(wishes: Sequence[Wish], planned: Sequence[PlannedTask]) -> dict[str, str]:
    """The commits at which models of the Hub were planned, by their sources."""
    known = {each.task.id: each.commit for each in planned}
    return {wish.source: commit for wish in wishes if (commit := known.get(wish.task.id))}


def _result(found: Expanded, seconds: float, stopped: bool, now: Mapping[str, str] | None = None) -> BatchResult:
    rows = []
    for wish in found.wishes:
        record = found.ledger.read(wish.task.id)
        state = found.ledger.state(record, found.keys[wish.task.id])
        if record is not None and record.key != found.keys[wish.task.id]:
            record = None
        rows.append(TaskRow(wish.task, state, None if record is None else found.ledger.what_stands(record)))
    measured = measurements_in(found.matrix.out, [row.record for row in rows if row.record is not None])
    rows = [row if row.record is None else replace(row, record=measured.of(row.record)) for row in rows]
    sources = sources_of(found.wishes, found.ledger, found.keys, now or {})
    return BatchResult(found.matrix, tuple(rows), round(seconds, 3), stopped, sources, measured.unread)


def _memory(request: BatchRequest) -> int | None:
    return parse_size(request.memory, "--memory") if request.memory else None


__all__ = ["BatchPlan", "BatchRequest", "BatchResult", "batch_status", "plan_batch", "run_batch"]
