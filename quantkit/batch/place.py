"""Where tasks run: the seam between the scheduler and a machine, a cluster, a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from quantkit.batch.task import Task
from quantkit.records import record

# Each is a module of this package with a function `open_place(setup) -> Place`.
PLACES = ("local", "dask", "slurm")
TLS = ("tls-ca", "tls-cert", "tls-key")  # options of the place dask
DONE, SEVERAL, INTERRUPTED = 0, 10, 130


@record
class Failure:
    """Why something could not be made: an error as the command line says it. `recipe` is empty for a whole task."""

    code: str
    exit: int
    message: str
    hint: str | None = None
    recipe: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@record
class Outcome:
    """What became of a task. `exit` is the exit code of its command line, negative for a signal that ended it; `where`
    names the machine and process that ran it. `error` is why it failed, `failures` which of its recipes did."""

    task: str
    exit: int
    seconds: float
    where: str
    error: Failure | None = None
    failures: tuple[Failure, ...] = ()
    attempts: int = 1

    @property
    def ok(self) -> bool:
        return self.exit == DONE


@record
class Setup:
    """What a place is told. `matrix` is the file that other machines read, too; `out` the folder of the batch.

    `keys` are those of the ledger, by task: what tells a task that is still the same from one that is another now.
    `jobs` are tasks at a time, `threads` those of each, `memory_bytes` what all together may take; None: as the place
    thinks best. `force` replaces outputs that differ. `address` is that of a scheduler, `options` are the place's own.
    """

    matrix: Path
    out: Path
    keys: Mapping[str, str]
    jobs: int | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    force: bool = False
    offline: bool = False
    address: str | None = None
    options: tuple[tuple[str, str], ...] = ()


Report = Callable[[Outcome], None]
Stop = Callable[[], bool]


class Place(Protocol):
    """Runs tasks, in any order and any number at a time."""

    @property
    def name(self) -> str: ...

    @property
    def room_bytes(self) -> int | None:
        """Memory that one task may take; None where the place makes room as tasks ask for it."""
        ...

    def run(self, tasks: Sequence[Task], report: Report, stop: Stop) -> None:
        """Run all tasks and report each outcome once, from the thread that called. Once `stop` says so nothing begins
        any more, and what runs is asked to save its work and end (its outcome then has exit 130)."""
        ...


def open_place(name: str, setup: Setup) -> Place:
    """The place of that name, one of `PLACES`. Raises UsageError, UnsupportedError for one that is not to be had."""
    found: Place = import_module(f"quantkit.batch.{name}").open_place(setup)
    return found
