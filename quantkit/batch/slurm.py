"""The place `slurm`: tasks as elements of job arrays. See slurm_script.py for what is submitted.

What became of a task its own record says, which the job leaves in the folder of the batch; where a job was ended before
it could, what Slurm says of it. Jobs that an earlier run submitted and that are still in the queue are taken over: by
their numbers, and where it was killed before it knew those, by a name that it wrote down before it asked for them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantkit.batch.ledger import FOLDER, Ledger, where
from quantkit.batch.place import INTERRUPTED, Failure, Outcome, Report, Setup, Stop
from quantkit.batch.slurm_script import JOB_NAME, arrays, log_pattern, require_options
from quantkit.batch.task import Task
from quantkit.errors import InputError, NetworkError, UnsupportedError
from quantkit.records import record
from quantkit.storage import write_small
from quantkit.untrusted import parse_json_object, read_bounded, shown

TOOLS = ("sbatch", "squeue", "scancel")
ANSWER_S = 60.0  # for one of Slurm's commands
POLL_S = 5.0
SETTLE_S = 30.0  # for a record of a node to be seen here, and for sacct to know of an end
SILENT_S = 600.0  # that Slurm may not answer while jobs run
SAVE_S = 120.0  # for jobs that were asked to save their work
LATE_S = 60.0  # that an array may still be on its way to the queue, of a run that was killed
ATTEMPTS = 3  # of jobs that the cluster ended
MANY = 200  # ids on one command line
MAX_BYTES = 64 << 20
# Words of sbatch that asked, and does not know the answer, or was ended by a signal before it could say.
UNHEARD = ("timed out", "zero bytes", "unexpected message", "ended with -")
JOB = re.compile(r"[0-9]+")
WAITS = frozenset({
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "SUSPENDED",
    "STOPPED",
})  # fmt: skip
RUNS = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "EXPEDITING", "POWER_UP_NODE"})
OVER = -15

# What Slurm says of a job that could not say it: exit code, code, words, hint, whether another try may end otherwise.
ENDS: Mapping[str, tuple[int, str, str, str, bool]] = {
    "TIMEOUT": (OVER, "killed", "its time was over", "raise time in [slurm]; it resumes", True),
    "DEADLINE": (OVER, "killed", "its deadline passed", "raise time in [slurm]; it resumes", False),
    "OUT_OF_MEMORY": (5, "resource", "it ran out of memory", "raise mem in [slurm]", False),
    "NODE_FAIL": (-9, "killed", "its node failed", "run the same command again: it resumes", True),
    "BOOT_FAIL": (-9, "killed", "its node did not boot", "run the same command again", True),
    "LAUNCH_FAILED": (-9, "killed", "its node did not start it", "run the same command again", True),
    "RECONFIG_FAIL": (-9, "killed", "its node did not start it", "run the same command again", True),
    "PREEMPTED": (OVER, "killed", "another job took its place", "run the same command again: it resumes", True),
    "REVOKED": (OVER, "killed", "another cluster took it", "run the same command again", True),
    "CANCELLED": (INTERRUPTED, "interrupted", "cancelled", "run the same command again: it resumes", False),
}


@record
class Slurm:
    """Runs tasks as jobs of Slurm, as their batch's folder is on a file system of the cluster."""

    setup: Setup
    poll_s: float
    room_bytes: None = None  # jobs ask for what they need
    name: str = "slurm"

    def run(self, tasks: Sequence[Task], report: Report, stop: Stop) -> None:
        """Submit all tasks and report what becomes of them. Once `stop` says so, jobs are cancelled: what runs saves
        its work. Raises NetworkError when Slurm takes no job, or does not answer for ten minutes: what was submitted
        goes on, and the next run waits for it."""
        run = _Run(self.setup, report)
        run.submit(run.adopt(tasks, stop))
        while run.jobs:
            if stop():
                run.cancel(self.poll_s)
                return
            run.look()
            if run.jobs:
                _sleep(self.poll_s, stop)


@dataclass
class _Job:
    """An element of an array: the task that it runs, and when it was first missing from the queue. `before` is the time
    of the task's record when it was submitted: another one is this job's, whatever the clock of its node says."""

    task: Task
    attempt: int
    before: float | None
    gone: float | None = None


Entry = tuple[str, str, float | None]  # of jobs.json: task, key, and the time of the record that there was before


@record
class _Asked:
    """An array that sbatch was asked for at `time`: whether there is one of this name only the queue knows."""

    time: float
    entries: tuple[Entry, ...]


@dataclass
class _Run:
    """`jobs` by their numbers, `asked` by names: both are in jobs.json before anything is waited for. `others` are in
    the queue for tasks that are not of this run."""

    setup: Setup
    report: Report
    jobs: dict[str, _Job] = field(default_factory=dict)
    asked: dict[str, _Asked] = field(default_factory=dict)
    others: dict[str, Entry] = field(default_factory=dict)
    silent: float | None = None  # since when Slurm does not answer

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.setup.out)

    @property
    def folder(self) -> Path:
        return self.setup.out.absolute() / FOLDER / "slurm"

    def adopt(self, tasks: Sequence[Task], stop: Stop) -> list[Task]:
        """Take over what an earlier run has submitted and the queue still has; the tasks that are left, none when it
        was stopped before it knew."""
        known, asked = _submitted(self.folder / "jobs.json")
        for name, array in asked.items():
            known |= _found(name, array, stop)
        self.asked = asked if asked and stop() else {}  # found or not, they are known by now
        states = _queue(known) if known else {}
        keys = self.setup.keys
        there = {job: entry for job, entry in known.items() if job in states}
        named = {entry[0]: job for job, entry in there.items() if keys.get(entry[0]) == entry[1]}
        left = []
        for task in tasks:
            if task.id in named:
                self.jobs[named[task.id]] = _Job(task, 1, there[named[task.id]][2])
            else:
                left.append(task)
        self.others = {job: entry for job, entry in there.items() if job not in self.jobs}
        if known or asked:
            self._write_down()
        return [] if self.asked else left

    def submit(self, tasks: Sequence[Task], attempt: int = 1) -> None:
        """Submit tasks as arrays, each written down by its name before and by its number after: killed in between, or
        when sbatch does not answer, the next run finds in the queue whether there is one."""
        for array in arrays(tasks, self.setup) if tasks else ():
            before = {task.id: self._time(task) for task in array.tasks}  # a job may end before sbatch has
            name = f"{JOB_NAME}-{os.urandom(8).hex()}"
            entries = tuple((task.id, self.setup.keys[task.id], before[task.id]) for task in array.tasks)
            self.asked[name] = _Asked(time.time(), entries)
            self._write_down()
            options = [f"--job-name={name}", f"--output={log_pattern(self.folder)}", "--chdir=/"]
            try:
                said = call(["sbatch", "--parsable", *options], array.script)
            except NetworkError as error:
                if not any(word in error.message.lower() for word in UNHEARD):  # it was refused: nothing to look for
                    del self.asked[name]
                    self._write_down()
                raise
            number = said.strip().split(";")[0]
            if not JOB.fullmatch(number):
                raise NetworkError(f"sbatch said {shown(said[:200])!r}, not the number of a job", hint="try it by hand")
            for index, task in enumerate(array.tasks):
                self.jobs[f"{number}_{index}"] = _Job(task, attempt, before[task.id])
            del self.asked[name]
            self._write_down()

    def look(self) -> None:
        """See what has ended, report it, and submit again what the cluster ended."""
        try:
            states = _queue(self.jobs)
            over = [job for job in self.jobs if states.get(job) not in (WAITS | RUNS)]
            facts = _accounting(over) if over else {}
        except NetworkError:  # a controller that is busy, or begins anew; its jobs go on
            self.silent = self.silent or time.monotonic()
            if time.monotonic() - self.silent > SILENT_S:
                raise
            return
        self.silent = None
        again: dict[int, list[Task]] = {}
        for name in over:
            job = self.jobs[name]
            end = self._end(job, facts.get(name, states.get(name, "")))
            if end is None:
                continue
            del self.jobs[name]
            outcome, passing = end
            if passing and job.attempt < ATTEMPTS:
                again.setdefault(job.attempt + 1, []).append(job.task)
            else:
                self.report(replace(outcome, attempts=max(outcome.attempts, job.attempt)))
        for attempt, tasks in again.items():
            self.submit(tasks, attempt)
        if over:
            self._write_down()

    def cancel(self, poll_s: float) -> None:
        """End what waits, ask what runs to save its work, wait for it, and report all of it."""
        numbers = sorted({name.partition("_")[0] for name in self.jobs})
        for start in range(0, len(numbers), MANY):
            some = numbers[start : start + MANY]
            call(["scancel", "--state=PENDING", *some])
            call(["scancel", "--full", "--signal=TERM", *some])
        deadline = time.monotonic() + SAVE_S
        while time.monotonic() < deadline and _queue(self.jobs):
            time.sleep(min(poll_s, 1.0))
        if time.monotonic() >= deadline:
            call(["scancel", *numbers])
        for job in self.jobs.values():
            failure = Failure("interrupted", INTERRUPTED, "interrupted", "run the same command again: it resumes")
            stopped = Outcome(job.task.id, INTERRUPTED, 0.0, where(), failure, attempts=job.attempt)
            self.report(self._recorded(job) or stopped)
        self.jobs.clear()
        self._write_down()

    def _end(self, job: _Job, state: str) -> tuple[Outcome, bool] | None:
        """What became of a job that has left the queue, and whether the cluster ended it, so that another try may end
        otherwise. None while that cannot be known yet."""
        recorded = self._recorded(job)
        word = state.split(" ")[0].rstrip("+")
        if recorded is not None:  # 130: it was told that its time is nearly over, and has saved its work
            return recorded, recorded.exit == INTERRUPTED and word != "CANCELLED"
        job.gone = job.gone or time.monotonic()
        if word in ENDS:
            exit_code, code, what, hint, passing = ENDS[word]
            failure = Failure(code, exit_code, f"{what} (Slurm: {word})", hint)
            return Outcome(job.task.id, exit_code, 0.0, "slurm", failure), passing
        if time.monotonic() - job.gone < SETTLE_S:
            return None
        what = f"its job ended without a record (Slurm: {shown(word) or 'unknown'})"
        failure = Failure("bug", 1, what, f"see the logs in {shown(self.folder)}")
        return Outcome(job.task.id, 1, 0.0, "slurm", failure), False

    def _time(self, task: Task) -> float | None:
        """When the record of a task was written, by the clock of whoever wrote it; None without one."""
        found = self.ledger.read(task.id)
        return None if found is None else found.time

    def _recorded(self, job: _Job) -> Outcome | None:
        """What the job itself has written down."""
        found = self.ledger.read(job.task.id)
        if found is None or found.exit is None or found.key != self.setup.keys[job.task.id]:
            return None
        return None if found.time == job.before else found.outcome()

    def _write_down(self) -> None:
        keys = self.setup.keys
        body = {
            "jobs": self.others
            | {name: (job.task.id, keys[job.task.id], job.before) for name, job in self.jobs.items()},
            "asked": {name: [array.time, array.entries] for name, array in self.asked.items()},
        }
        write_small(self.folder / "jobs.json", json.dumps(body).encode(), overwrite=True)


def _submitted(path: Path) -> tuple[dict[str, Entry], dict[str, _Asked]]:
    """Jobs of an earlier run by their numbers, and arrays of which it knew the name alone. Nothing where the file is
    none of ours."""
    try:
        body: Any = parse_json_object(read_bounded(path, MAX_BYTES), path)
        jobs = {str(name): _entry(*entry) for name, entry in body["jobs"].items()}
        asked = {
            str(name): _Asked(float(when), tuple(_entry(*entry) for entry in entries))
            for name, (when, entries) in body.get("asked", {}).items()
        }
    except (InputError, ValueError, TypeError, AttributeError, KeyError):
        return {}, {}
    return jobs, asked


def _entry(task: object, key: object, before: Any) -> Entry:
    return str(task), str(key), None if before is None else float(before)


def _found(name: str, array: _Asked, stop: Stop) -> dict[str, Entry]:
    """The jobs of an array by its name, as far as they are in the queue. Whoever asked for it may have been killed
    while it was on its way: for a minute after that it is looked for."""
    late = time.monotonic() + LATE_S - min(max(time.time() - array.time, 0.0), LATE_S)
    while True:
        said = call(["squeue", "--noheader", "--array", "--me", "--format=%i|%T", f"--name={name}"])
        ids = [line.strip().partition("|")[0] for line in said.splitlines() if "|" in line]
        if ids or stop() or time.monotonic() >= late:
            break
        _sleep(POLL_S, stop)
    numbers = {each: each.rpartition("_")[2] for each in ids}
    return {each: array.entries[int(n)] for each, n in numbers.items() if n.isdecimal() and int(n) < len(array.entries)}


def _queue(jobs: Iterable[str]) -> dict[str, str]:
    """The states of those elements of arrays that are in the queue."""
    numbers = sorted({name.partition("_")[0] for name in jobs})
    found: dict[str, str] = {}
    for start in range(0, len(numbers), MANY):
        ids = ",".join(numbers[start : start + MANY])
        said = call(["squeue", "--noheader", "--array", "--format=%i|%T", f"--jobs={ids}"], lenient=True)
        found |= dict(line.strip().split("|", 1) for line in said.splitlines() if "|" in line)
    return found


def _accounting(jobs: Sequence[str]) -> dict[str, str]:
    """How jobs ended, where Slurm keeps accounts."""
    found: dict[str, str] = {}
    if shutil.which("sacct") is None:
        return found
    for start in range(0, len(jobs), MANY):
        ids = ",".join(jobs[start : start + MANY])
        said = call(
            ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={ids}"],
            lenient=True,
        )
        found |= dict(line.strip().split("|", 1) for line in said.splitlines() if "|" in line)
    return found


def call(argv: Sequence[str], text: str | None = None, *, lenient: bool = False) -> str:
    """What one of Slurm's commands prints. Raises NetworkError where it fails; `lenient` of its exit code, which
    squeue uses for jobs that it has forgotten."""
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, timeout=ANSWER_S, encoding="utf-8", errors="backslashreplace"
        )
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{argv[0]} timed out: no answer in {ANSWER_S:.0f} s", hint="is Slurm running?") from error
    except OSError as error:
        raise NetworkError(f"{argv[0]} does not answer: {shown(str(error)[:200])}", hint="is Slurm running?") from error
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
    if done.returncode != 0 and not (lenient and "Invalid job id" in done.stderr):
        raise NetworkError(f"{argv[0]} ended with {done.returncode}: {shown(said[:400])}", hint="is Slurm running?")
    return done.stdout


def _sleep(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop():
        time.sleep(min(0.2, seconds))


def open_place(setup: Setup) -> Slurm:
    """Slurm, as its commands on this machine know it.

    Raises UnsupportedError where they are not there, UsageError for options that are none, NetworkError when it does
    not answer.
    """
    require_options(dict(setup.options))
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        what = f"--on slurm needs {', '.join(missing)}, which is not on the PATH"
        hint = "run it where jobs are submitted, or use --on local or --on dask; `batch emit` writes files for others"
        raise UnsupportedError(what, hint=hint)
    call(["squeue", "--noheader", "--me", "--format=%i"])
    return Slurm(setup, POLL_S)
