"""The place `dask`: tasks on the workers of a scheduler that is there, or on a cluster on this machine.

A task takes its memory as a resource of its worker, so that none is over-committed. One whose worker is lost runs again
on another: the files of the batch lie on a file system that all workers share, and the command finds there what was
finished. What is sent are ids, paths and command lines; see dask_task.py.
"""

from __future__ import annotations

import asyncio
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec

from quantkit.batch.ledger import FOLDER, Ledger, where
from quantkit.batch.place import INTERRUPTED, Failure, Outcome, Report, Setup, Stop
from quantkit.batch.task import Task
from quantkit.errors import InputError, NetworkError, UnsupportedError, UsageError
from quantkit.extras import require_installed
from quantkit.machine import core_count
from quantkit.qtypes import NUMERICS
from quantkit.report.text import size
from quantkit.storage import probe_file
from quantkit.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future, Security

CONNECT_S = 10.0
ANSWER_S = 30.0  # for workers to say what they see
WAKE_S = 0.5
SAVE_S = 60.0  # for tasks that were asked to save their work
LOST_AGAIN = 3  # times that a task is given to another worker, after Dask itself has given up on it
RESTART_S = 600  # for a worker of our own that ended to be back, before another one takes its place
LOSSES = 20  # of workers under one task that Dask takes for bad luck, on a cluster of our own
KILLED, NETWORK_EXIT, BUG_EXIT = -9, 9, 1
LOOPBACK = "127.0.0.1"
TLS = ("tls-ca", "tls-cert", "tls-key")


@dataclass(frozen=True)
class Dask:
    """Runs tasks on workers of Dask. `work` is what they are asked to do: a function of an importable module, from the
    text of an Order to that of an Outcome; None: dask_task.run_order."""

    setup: Setup
    work: Callable[[str], str] | None = None
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
                    report(_too_large(task, room))
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
        if self._setup.address is None and cluster is not None and len(cluster.worker_spec) < _workers(self._setup):
            cluster.scale(_workers(self._setup))

    def cancel(self) -> None:
        """Let go of what is left: workers ask it to save its work."""
        left = [future for _, future, _ in self._futures.values()]
        self._futures.clear()
        with suppress(OSError, RuntimeError, TimeoutError):
            if left and self._client.status == "running":
                self._client.cancel(left)

    def _settle(self, key: str) -> None:
        from distributed import KilledWorker

        task, future, attempt = self._futures.pop(key)
        if future.status == "finished":
            from quantkit.batch.dask_task import decode

            outcome = decode(future.result(timeout=ANSWER_S))
            self._report(replace(outcome, attempts=max(outcome.attempts, attempt)))
        elif future.status == "error":
            error = future.exception(timeout=ANSWER_S)
            if isinstance(error, KilledWorker) and attempt < LOST_AGAIN:
                self.submit(task, attempt + 1)
            else:
                self._report(Outcome(task.id, *_failed(error), attempts=attempt))
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
    return max(core_count() // _workers(setup), 1)


def _workers(setup: Setup) -> int:
    return setup.jobs or max(min(core_count(), len(setup.keys)), 1)


# --- the scheduler and its workers ----------------------------------------------------------------------------------


def open_place(setup: Setup) -> Dask:
    """The workers of the scheduler at `setup.address`, or of this machine.

    Raises UnsupportedError without the package, UsageError for an address that is none, NetworkError, within ten
    seconds, for a scheduler that is not there.
    """
    require_installed("--on dask", ("distributed", "cryptography"), key="on", instead="--on local")
    if setup.address is not None:
        require_address(setup.address)
        with connected(setup):
            pass
    return Dask(setup)


def require_address(address: str) -> None:
    """Raise UsageError for what is no address of a scheduler."""
    kind, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if kind not in ("tcp", "tls") or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        what = f'--scheduler "{address}" is no address of a Dask scheduler'
        raise UsageError(what, hint="for example tcp://node-1:8786, or tls://node-1:8786", key="scheduler")


@contextmanager
def connected(setup: Setup) -> Iterator[Client]:
    """A client of the scheduler, or of a cluster that ends with the context. Raises NetworkError, InputError."""
    from distributed import Client

    if setup.address is None:
        with _own_cluster(setup) as client:
            yield client
        return
    security = _security(setup)
    try:
        asyncio.run(asyncio.wait_for(_greet(setup.address, security), CONNECT_S))
        client = Client(setup.address, timeout=CONNECT_S, security=security, set_as_default=False)
    except (OSError, TimeoutError, RuntimeError, TypeError, ValueError) as error:
        what = f"no Dask scheduler answers at {setup.address}: {_reason(error)}"
        hint = "start one with `dask scheduler`, correct --scheduler, or leave it out for workers on this machine"
        raise NetworkError(what, hint=hint, key="scheduler") from error
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_S)


async def _greet(address: str, security: Security) -> None:
    """Ask whoever listens there who it is. Raises ValueError for somebody else, OSError, TimeoutError."""
    from distributed.core import rpc

    async with rpc(address, connection_args=security.get_connection_args("client"), timeout=CONNECT_S) as other:
        kind = (await other.identity())["type"]
    if kind != "Scheduler":
        raise ValueError(f"it is a {kind}")


@contextmanager
def _own_cluster(setup: Setup) -> Iterator[Client]:
    """A scheduler and workers on this machine that only this process can talk to: loopback, with certificates that are
    made for it and kept in memory."""
    import dask
    from distributed import Client, LocalCluster, Security

    config = {
        "distributed.scheduler.allowed-failures": LOSSES,
        "distributed.deploy.lost-worker-timeout": f"{RESTART_S}s",  # on a busy machine a worker is not back in 15 s
        "distributed.worker.memory.terminate": False,  # a worker is a few MB, and its task, a child, looks after itself
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with dask.config.set(config):
        cluster = LocalCluster(
            n_workers=_workers(setup), threads_per_worker=1, host=LOOPBACK, dashboard_address=None,
            security=Security.temporary(), protocol="tls://", silence_logs=50,
        )  # fmt: skip
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


def _security(setup: Setup) -> Security:
    """TLS as asked for, else as Dask's own configuration says. Raises InputError, UsageError."""
    from distributed import Security

    given = {name: value for name, value in setup.options if name in TLS}
    if not given:
        return Security()
    if set(given) != set(TLS):
        missing = ", ".join(f"--{name}" for name in TLS if name not in given)
        raise UsageError(f"TLS needs {missing} as well", hint="give all three, or configure Dask", key="tls")
    for name, value in given.items():
        if not Path(value).is_file():
            raise InputError(f"--{name}: {value} is no file", hint="give a PEM file", path=value)
    security = Security(
        tls_ca_file=given["tls-ca"],
        tls_client_cert=given["tls-cert"],
        tls_client_key=given["tls-key"],
        require_encryption=True,
    )
    try:
        security.get_connection_args("client")
    except OSError as error:  # SSLError, or a file that cannot be read
        raise InputError(f"the TLS files cannot be used: {error}", hint="give PEM files", key="tls") from error
    return security


def _reason(error: BaseException) -> str:
    """The deepest cause: Dask wraps it in its own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
    return words.strip().splitlines()[0]


def require_workers(client: Client, setup: Setup) -> int:
    """The memory in bytes of the largest worker, after all of them were asked what they see.

    Raises NetworkError without workers, InputError when one does not see the batch's folder, or has another quantkit.
    """
    from quantkit.batch.dask_task import MEMORY, Room

    try:
        client.wait_for_workers(1, timeout=ANSWER_S)
    except TimeoutError as error:
        what = f"the scheduler {setup.address} has no workers"
        raise NetworkError(what, hint="start some: dask worker ADDRESS", key="scheduler") from error
    _require_all_same(client, setup)
    client.register_plugin(Room(_room(setup)))
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return int(max((facts["resources"].get(MEMORY, 0) for facts in workers.values()), default=0))


def _room(setup: Setup) -> int | None:
    """Bytes of each worker, where somebody says so."""
    if setup.memory_bytes is None or setup.address is not None:
        return setup.memory_bytes
    return setup.memory_bytes // _workers(setup)


def _require_all_same(client: Client, setup: Setup) -> None:
    """Ask all workers what they are, until one has answered. One that is lost meanwhile says nothing; those that come
    later look for themselves (dask_task.run_order)."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        answers = _seen(client, setup, deadline - time.monotonic())
        for worker, answer in answers.items():
            if not isinstance(answer, OSError):
                _require_same(worker, answer, setup)
        if any(isinstance(answer, str) for answer in answers.values()):
            return
        time.sleep(WAKE_S)
    what = f"the workers of {setup.address or 'this machine'} do not answer"
    raise NetworkError(what, hint="see what they do: the scheduler has a dashboard", key="scheduler")


def _seen(client: Client, setup: Setup, seconds: float) -> Mapping[str, object]:
    """What each worker is, by its address: the text of a Seen, or the error that it gave instead."""
    from quantkit.batch.dask_task import look

    answers: list[Mapping[str, object]] = []
    with probe_file(setup.out.absolute() / FOLDER) as (path, text):
        asking = Thread(
            target=lambda: answers.append(client.run(look, str(path), text, on_error="return")), daemon=True
        )
        asking.start()
        asking.join(max(seconds, 1.0))
    return answers[0] if answers else {}


def _require_same(worker: str, answer: object, setup: Setup) -> None:
    """Raise InputError for a worker that does not see the folder of the batch or would run another quantkit."""
    from quantkit.batch.dask_task import Seen

    if not isinstance(answer, str):
        what = f"the worker {worker} cannot run quantkit: {type(answer).__name__}: {answer}"
        raise UnsupportedError(what, hint="install the same quantkit-cli[batch] there", key="scheduler")
    seen = msgspec.json.decode(answer, type=Seen)
    if seen.version != __version__ or seen.numerics != NUMERICS:
        what = f"the worker {worker} has quantkit {seen.version}, this one is {__version__}"
        raise UnsupportedError(what, hint="install the same version on every worker", key="scheduler")
    if not seen.shares:
        what = f"the worker {worker} on {seen.host} does not see {setup.out.absolute()}, or sees another folder"
        hint = "put the matrix, its models and its folder on a file system that all workers share, at the same path"
        raise InputError(what, hint=hint, path=str(setup.out))
