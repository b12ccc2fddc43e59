"""The place `dask`: tasks on the workers of a scheduler that is there, or on a cluster on this machine.

A task takes its memory as a resource of its worker, so that none is over-committed. One whose worker is lost runs again
on another: the files of the batch lie on a file system that all workers share, and the command finds there what was
finished. What is sent are ids, paths and command lines; see dask_task.py.
"""

from __future__ import annotations

import os
import queue
import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from quantkit.batch.dask_cluster import (
    ANSWER_S,
    WAKE_S,
    connected,
    require_address,
    require_workers,
    room_of,
    workers,
)
from quantkit.batch.ledger import Ledger, where
from quantkit.batch.place import INTERRUPTED, Failure, Outcome, Report, Setup, Stop
from quantkit.batch.task import Task
from quantkit.extras import require_installed
from quantkit.machine import core_count
from quantkit.records import record
from quantkit.report.text import size
from quantkit.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

SAVE_S = 60.0  # for tasks that were asked to save their work
LOST_AGAIN = 3  # times that a task is given to another worker, after Dask itself has given up on it
KILLED, NETWORK_EXIT, BUG_EXIT = -9, 9, 1


@record
class Dask:
    """Runs tasks on workers of Dask. `work` is what they are asked to do: a function of an importable module, from the
    text of an Order to that of an Outcome; None: dask_task.run_order."""

    setup: Setup
    work: Callable[[str], str] | None = None
    room_bytes: int | None = None
    name: str = "dask"

    def run(self, tasks: Sequence[Task], report: Report, stop: Stop) -> None:
        """Run all tasks. Once `stop` says so nothing begins any more, and what runs saves its work.

        Raises NetworkError when the scheduler is not there, InputError for workers that do not see the batch's folder.
        """
        with ExitStack() as held:
            client = held.enter_context(connected(self.setup))
            room = require_workers(client, self.setup)
            run = _Run(client, self.setup, report, self.work)
            held.callback(run.cancel)
            for task in tasks:
                if stop():
                    break
                if task.needs.memory_bytes > room:
                    report(_too_large(task, room))  # a worker that was larger is gone by now
                else:
                    run.submit(task)
            run.wait(stop)


class _Run:
    """Futures of tasks, and what becomes of them."""

    def __init__(self, client: Client, setup: Setup, report: Report, work: Callable[[str], str] | None = None) -> None:
        from quantkit.batch.dask_task import run_order

        self._client, self._setup, self._report = client, setup, report
        self._work = work or run_order
        self._futures: dict[str, tuple[Task, Future, int]] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._mark = os.urandom(4).hex()  # two batches on one scheduler have tasks of the same name

    def submit(self, task: Task, attempt: int = 1) -> None:
        """Hand a task to the scheduler."""
        from quantkit.batch.dask_task import MEMORY, Order

        setup = self._setup
        batch = str(setup.out.absolute())
        order = Order(
            task.id,
            task.argv,
            str(task.out.absolute()),
            batch,
            setup.keys[task.id],
            _threads(setup),
            setup.force,
            setup.offline,
            __version__,
        )
        key = f"quantkit-{self._mark}-{attempt}-{task.id}"
        future = self._client.submit(
            self._work, order.encode(), key=key, pure=False, resources={MEMORY: task.needs.memory_bytes}
        )
        self._futures[key] = (task, future, attempt)
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def wait(self, stop: Stop) -> None:
        """Report what ends until nothing is left, or until it is stopped or the scheduler is gone."""
        while self._futures:
            if stop():
                self._stopped()
                return
            try:
                key = self._ended.get(timeout=WAKE_S)
            except queue.Empty:
                if self._client.status not in ("running", "connecting"):
                    self._lost()
                self._tend()
                continue
            if key in self._futures:
                self._settle(key)

    def _tend(self) -> None:
        """Replace workers of our own that are gone for good: without any, tasks would wait for ever."""
        cluster = self._client.cluster
        if self._setup.address is None and cluster is not None and len(cluster.worker_spec) < workers(self._setup):
            cluster.scale(workers(self._setup))

    def cancel(self) -> None:
        """Let go of what is left: workers ask it to save its work."""
        left = [future for _, future, _ in self._futures.values()]
        self._futures.clear()
        with suppress(OSError, RuntimeError, TimeoutError, ValueError):
            if left and self._client.status == "running":
                self._client.cancel(left)

    def _settle(self, key: str) -> None:
        from distributed import KilledWorker

        task, future, attempt = self._futures.pop(key)
        text = _result(future) if future.status == "finished" else None
        if text is not None:
            from quantkit.batch.dask_task import decode

            outcome = decode(text)
            self._report(replace(outcome, attempts=max(outcome.attempts, attempt)))
        elif future.status == "error":
            error = future.exception(timeout=ANSWER_S)
            if isinstance(error, KilledWorker) and attempt < LOST_AGAIN:
                self.submit(task, attempt + 1)
            else:
                self._report(Outcome(task.id, *_failed(error), attempts=attempt))
        elif self._client.status == "running" and future.status != "cancelled":  # lost with its worker: done once more
            self._futures[key] = (task, future, attempt)
            future.add_done_callback(lambda done: self._ended.put(done.key))
            return
        elif self._client.status == "running":  # somebody cancelled it at the scheduler
            failure = Failure("interrupted", INTERRUPTED, "cancelled at the scheduler", "run the same command again")
            self._report(Outcome(task.id, INTERRUPTED, 0.0, where(), failure, attempts=attempt))
        else:
            self._futures[key] = (task, future, attempt)
            self._lost()
        future.release()

    def _lost(self) -> None:
        """The scheduler is gone, and what becomes of tasks with it."""
        for task, _, attempt in self._futures.values():
            what = f"the scheduler {self._setup.address or 'of this machine'} is gone"
            failure = Failure("network", NETWORK_EXIT, what, "start it, and run the same command again: it resumes")
            self._report(Outcome(task.id, NETWORK_EXIT, 0.0, where(), failure, attempts=attempt))
        self._futures.clear()

    def _stopped(self) -> None:
        """Cancel everything, wait until what ran has saved its work, and report what is known of it."""
        left = {task.id: attempt for task, _, attempt in self._futures.values()}
        self.cancel()
        ledger, deadline = Ledger(self._setup.out), time.monotonic() + SAVE_S
        running = set(left)
        while running and time.monotonic() < deadline:
            running = {each for each in running if _runs(ledger, each, self._setup.keys[each])}
            if running:
                time.sleep(WAKE_S)
        for each, attempt in left.items():
            found = ledger.read(each)
            if found is not None and found.key == self._setup.keys[each] and found.exit is not None:
                self._report(found.outcome())
            else:
                failure = Failure("interrupted", INTERRUPTED, "interrupted", "run the same command again")
                self._report(Outcome(each, INTERRUPTED, 0.0, where(), failure, attempts=attempt))


def _result(future: Future) -> str | None:
    """The result of a future that has ended; None where the worker that had it is gone."""
    try:
        return str(future.result(timeout=ANSWER_S))
    except (OSError, TimeoutError, CancelledError, futures.CancelledError, ValueError):
        return None  # ValueError is tornado's, where a connection ends before TLS has begun


def _runs(ledger: Ledger, task: str, key: str) -> bool:
    found = ledger.read(task)
    return found is not None and ledger.state(found, key) == "running"


def _failed(error: BaseException | None) -> tuple[int, float, str, Failure]:
    """Exit code, seconds, place and failure of a task that came back without an outcome."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        what = f"its workers ended {LOST_AGAIN} times, the last one {error.last_worker.address}"
        return KILLED, 0.0, error.last_worker.address, Failure("killed", KILLED, what, "see why: memory, perhaps")
    what = f"{type(error).__name__}: {error}"
    hint = "install the same version of quantkit-cli on every worker"
    return BUG_EXIT, 0.0, where(), Failure("bug", BUG_EXIT, what[:500], hint)


def _too_large(task: Task, room: int) -> Outcome:
    what = f"needs {size(task.needs.memory_bytes)} of memory, no worker has more than {size(room)}"
    failure = Failure("resource", 5, what, "start a worker with a larger --memory-limit")
    return Outcome(task.id, 5, 0.0, where(), failure)


def _threads(setup: Setup) -> int | None:
    """Threads of each task: as asked; on this machine its cores, divided; elsewhere the worker knows."""
    if setup.threads or setup.address:
        return setup.threads
    return max(core_count() // workers(setup), 1)


def open_place(setup: Setup) -> Dask:
    """The workers of the scheduler at `setup.address`, or of this machine.

    Raises UnsupportedError without the package, UsageError for an address that is none, NetworkError, within ten
    seconds, for a scheduler that is not there, or has no workers, InputError for workers that do not see the batch's
    folder.
    """
    require_installed("--on dask", ("distributed", "cryptography"), key="on", instead="--on local")
    if setup.address is None:
        return Dask(setup, room_bytes=room_of(setup))
    require_address(setup.address)
    with connected(setup) as client:
        return Dask(setup, room_bytes=require_workers(client, setup))
