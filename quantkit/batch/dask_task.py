"""What a Dask worker is asked to do: a task, given and answered as JSON text.

Nothing else travels: functions go by their names, and a worker without quantkit says so. The task runs as a child of
the worker process, as on any machine: it ends when its worker does, and whoever runs it next goes on where it was.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import msgspec
from distributed import Status, Worker, WorkerPlugin, get_worker

from quantkit.batch.ledger import FOLDER, Ledger, where
from quantkit.batch.place import Failure, Outcome
from quantkit.batch.task import Task
from quantkit.batch.worker import Work, run_task
from quantkit.errors import QuantkitError, UnsupportedError
from quantkit.machine import core_count, memory_limit_bytes
from quantkit.qtypes import NUMERICS
from quantkit.untrusted import read_bounded
from quantkit.version import __version__

MEMORY = "quantkit-memory"  # a resource of Dask, in bytes: no worker is given tasks that together need more
MAX_PROBE_BYTES = 1000
RESOURCE_EXIT, UNSUPPORTED_EXIT = 5, 4


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task to be run: its own command line, the folder of its batch, and its key in the ledger there."""

    task: str
    argv: tuple[str, ...]
    out: str
    batch: str
    key: str
    threads: int | None = None
    force: bool = False
    offline: bool = False
    version: str = __version__

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


class Seen(msgspec.Struct, frozen=True):
    """What a worker is: whether it sees the file that was just written for it, and what would run its tasks."""

    host: str
    shares: bool
    version: str
    numerics: int


def run_order(text: str) -> str:
    """Run a task, and say what became of it, unless it is done: a worker may be lost between doing and saying.

    A task whose result nobody waits for any more (cancelled, or its client is gone) is asked to save its work.
    """
    order = msgspec.json.decode(text, type=Order)
    ledger = Ledger(Path(order.batch))
    try:
        _require_place(order)
        known = ledger.read(order.task)
        if known is not None and ledger.state(known, order.key) == "done":
            return encode(known.outcome())
        task = Task(order.task, "", (), order.argv, Path(order.out))
        work = Work(task, ledger, order.key, order.threads or _threads(), order.force, order.offline)
        return encode(run_task(work, _is_unwanted()))
    except QuantkitError as error:  # not here; or the ledger cannot be written
        code = UNSUPPORTED_EXIT if isinstance(error, UnsupportedError) else RESOURCE_EXIT
        failure = Failure(error.code, code, error.message, error.hint)
        return encode(Outcome(order.task, code, 0.0, where(), failure))


def _require_place(order: Order) -> None:
    """Raise UnsupportedError on a worker that came later than the others were looked at, and is another one."""
    if order.version != __version__:
        what = f"the worker on {platform.node()} has quantkit {__version__}, not {order.version}"
        raise UnsupportedError(what, hint="install the same version on every worker")
    if not (Path(order.batch) / FOLDER).is_dir():
        what = f"the worker on {platform.node()} does not see {order.batch}"
        raise UnsupportedError(what, hint="put it on a file system that all workers share, at the same path")


def encode(outcome: Outcome) -> str:
    """An outcome as JSON text."""
    return msgspec.json.encode(outcome).decode()


def decode(text: str) -> Outcome:
    """An outcome from JSON text. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(text, type=Outcome)


def look(path: str, text: str) -> str:
    """What this worker is, as JSON text. `path` is a file with `text` that was just written in the batch's folder."""
    try:
        shares = read_bounded(Path(path), MAX_PROBE_BYTES) == text.encode()
    except (QuantkitError, OSError):
        shares = False
    return msgspec.json.encode(Seen(platform.node(), shares, __version__, NUMERICS)).decode()


class Room(WorkerPlugin):  # type: ignore[misc]  # distributed is not looked into
    """Declares the memory of each worker, those that come later included, as a resource that tasks take their part of.

    What Dask limits a worker to, else what the machine has. `nbytes` overrides both.
    """

    name = "quantkit-room"

    def __init__(self, nbytes: int | None = None) -> None:
        self.nbytes = nbytes

    async def setup(self, worker: Worker) -> None:
        limit = self.nbytes or worker.memory_manager.memory_limit or memory_limit_bytes()
        await worker.set_resources(**{MEMORY: limit})


def _threads() -> int:
    """Threads of a task of this worker: all cores where it runs one at a time, else one each."""
    return core_count() if get_worker().state.nthreads == 1 else 1


def _is_unwanted() -> Callable[[], bool]:
    """Whether the task that this thread runs is cancelled, or its worker about to end."""
    worker = get_worker()
    key = worker.get_current_task()

    def unwanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or worker.status not in (Status.running, Status.paused)

    return unwanted
