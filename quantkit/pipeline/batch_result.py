"""What batches say of their tasks: plans and outcomes, as plain data and as lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from quantkit.batch.ledger import Made, State, TaskRecord
from quantkit.batch.matrix import Matrix
from quantkit.batch.place import Failure
from quantkit.batch.task import Task
from quantkit.batch.worker import PASSING
from quantkit.errors import BatchError, InterruptedRunError, QuantkitError
from quantkit.pipeline.batch_plan import PlannedTask
from quantkit.pipeline.batch_room import download_bytes
from quantkit.pipeline.batch_sources import HubSource
from quantkit.records import record
from quantkit.report.shell import shell_word

STATES: tuple[State, ...] = ("done", "failed", "interrupted", "running", "waiting")


@record
class PlanRow:
    """A planned task, and what became of it before."""

    planned: PlannedTask
    state: State

    def as_json(self) -> dict[str, Any]:
        task, error = self.planned.task, self.planned.error
        return {
            "id": task.id,
            "model": task.model,
            "recipes": list(task.recipes),
            "state": self.state,
            "command": command_of(task),
            "out": str(task.out),
            "artifacts": [each.as_json() for each in self.planned.artifacts],
            "bytes": self.planned.nbytes,
            "needs": asdict(task.needs),
            "seconds": round(self.planned.seconds, 1),
            "error": None if error is None else {"code": error.code, "message": error.message, "hint": error.hint},
        }


@record
class BatchPlan:
    """What a matrix makes. `lacking` is why it cannot be run here: memory, disk. `scripts` are those of its jobs, of a
    place that has some; `sources` its models of the Hub."""

    matrix: Matrix
    rows: tuple[PlanRow, ...]
    jobs: int
    threads: int
    memory_bytes: int
    free_bytes: int
    lacking: tuple[QuantkitError, ...] = ()
    scripts: tuple[str, ...] = ()
    sources: tuple[HubSource, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(row.planned.nbytes for row in self.rows)

    @property
    def left_bytes(self) -> int:
        """What is still to be written."""
        return sum(row.planned.nbytes for row in self.rows if row.state != "done")

    @property
    def seconds(self) -> float:
        """What the tasks that are left take, one after the other."""
        return sum(row.planned.seconds for row in self.rows if row.state != "done")

    @property
    def peak_bytes(self) -> int:
        """Memory of the largest task."""
        return max((row.planned.task.needs.memory_bytes for row in self.rows), default=0)

    def as_json(self) -> dict[str, Any]:
        return {
            "matrix": str(self.matrix.path),
            "out": str(self.matrix.out),
            "tasks": [row.as_json() for row in self.rows],
            "states": counts([row.state for row in self.rows]),
            "bytes": self.nbytes,
            "left_bytes": self.left_bytes,
            "download_bytes": download_bytes([row.planned.task for row in self.rows if row.state != "done"]),
            "free_bytes": self.free_bytes,
            "fits_disk": self.left_bytes <= self.free_bytes,
            "peak_bytes": self.peak_bytes,
            "memory_bytes": self.memory_bytes,
            "fits_memory": self.peak_bytes <= self.memory_bytes,
            "jobs": self.jobs,
            "threads": self.threads,
            "seconds": round(self.seconds, 1),
            "scripts": list(self.scripts),
            "sources": [each.as_json() for each in self.sources],
        }

    def require(self) -> None:
        """Raise, all at once, what keeps it from being run here."""
        if self.lacking:
            first, *others = self.lacking
            first.others = tuple(others)
            raise first


@record
class TaskRow:
    """A task and its record; None while there is none of it as it is now."""

    task: Task
    state: State
    record: TaskRecord | None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Why it failed: for each of its recipes that did, else as a whole."""
        if self.record is None or self.state not in ("failed", "interrupted"):
            return ()
        return self.record.failures or ((self.record.error,) if self.record.error else ())

    @property
    def made(self) -> tuple[Made, ...]:
        return self.record.artifacts if self.record is not None else ()

    def as_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "id": self.task.id,
            "model": self.task.model,
            "recipes": list(self.task.recipes),
            "state": self.state,
            "command": command_of(self.task),
            "exit": None if record is None else record.exit,
            "seconds": 0.0 if record is None else record.seconds,
            "attempts": 0 if record is None else record.attempts,
            "where": None if record is None else record.where,
            "error": None if record is None or record.error is None else record.error.as_json(),
            "failures": [each.as_json() for each in (record.failures if record else ())],
            "artifacts": [made_json(each) for each in self.made],
        }


@record
class BatchResult:
    """What became of the tasks of a matrix. `unread` is why records of measurements beside artifacts were left out."""

    matrix: Matrix
    rows: tuple[TaskRow, ...]
    seconds: float
    stopped: bool = False
    sources: tuple[HubSource, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[TaskRow, ...]:
        return tuple(row for row in self.rows if row.state == "failed")

    @property
    def telling(self) -> Failure | None:
        """Of all that failed what says whether another try may end otherwise: the first that may, else the first."""
        failures = [each for row in self.failed for each in row.failures]
        passing = (each for each in failures if each.exit < 0 or each.exit in PASSING)
        return next(passing, failures[0] if failures else None)

    def as_json(self) -> dict[str, Any]:
        return {
            "matrix": str(self.matrix.path),
            "out": str(self.matrix.out),
            "states": counts([row.state for row in self.rows]),
            "seconds": self.seconds,
            "tasks": [row.as_json() for row in self.rows],
            "sources": [each.as_json() for each in self.sources],
        }

    def require(self) -> None:
        """Raise InterruptedRunError for a batch that was stopped, BatchError for one of which tasks failed."""
        if self.stopped:
            hint = "run the same command again: it goes on with what is not done"
            raise InterruptedRunError("interrupted: what ran has saved its work", hint=hint)
        if self.failed:
            errors = {row.task.id: QuantkitError(_why(row)) for row in self.failed}
            hint = f"quantkit batch retry {shell_word(str(self.matrix.path))} begins those again"
            done = [row for row in self.rows if row.state != "failed"]
            raise BatchError(errors, done, kind="tasks", hint=hint)


def _why(row: TaskRow) -> str:
    return "; ".join(each.message for each in row.failures) or "it failed"


def counts(states: Sequence[State]) -> dict[str, int]:
    """How many tasks are in each state, all states named."""
    found = Counter(states)
    return {state: found[state] for state in STATES}


def made_json(made: Made) -> dict[str, Any]:
    """An artifact that was made."""
    return {
        "recipe": made.recipe,
        "kind": made.kind,
        "files": [{"path": path, "bytes": nbytes, "sha256": sha256} for path, nbytes, sha256 in made.files],
        "manifest": made.manifest,
        "identity": made.identity,
        "bytes": made.nbytes,
        "bits_per_weight": made.bits_per_weight,
        "kl": made.kl,
        "kl_error": made.kl_error,
        "gates": list(made.gates),
        "data": made.data,
        "commit": made.commit,
    }


def command_of(task: Task) -> str:
    """The command line of a task, for a POSIX shell."""
    return " ".join(map(shell_word, ("quantkit", *task.argv)))
