"""Schedulers of Dask: one that is there, by its address, or a cluster on this machine, for this process alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec

from quantkit.batch.budget import memory_here
from quantkit.batch.ledger import FOLDER
from quantkit.batch.place import TLS, Setup
from quantkit.errors import InputError, NetworkError, UnsupportedError, UsageError
from quantkit.machine import core_count
from quantkit.qtypes import NUMERICS
from quantkit.storage import probe_file
from quantkit.version import __version__

if TYPE_CHECKING:
    from distributed import Client, LocalCluster, Security

CONNECT_S = 10.0
ANSWER_S = 30.0  # for workers to say what they see
WAKE_S = 0.5
RESTART_S = 600  # for a worker of our own that ended to be back, before another one takes its place
LOSSES = 20  # of workers under one task that Dask takes for bad luck, on a cluster of our own
LOOPBACK = "127.0.0.1"


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
        asyncio.run(asyncio.wait_for(greet(setup.address, security), CONNECT_S))
        client = Client(setup.address, timeout=CONNECT_S, security=security, set_as_default=False)
    except (OSError, RuntimeError, TypeError, ValueError, MemoryError, EOFError, OverflowError, LookupError) as error:
        what = f"no Dask scheduler answers at {setup.address}: {_reason(error)}"
        hint = "start one with `dask scheduler`, correct --scheduler, or leave it out for workers on this machine"
        raise NetworkError(what, hint=hint, key="scheduler") from error
    try:
        with _quiet():
            yield client
    finally:
        with suppress(OSError, ValueError, TimeoutError):  # of a client that looks for a scheduler that is gone
            client.close(timeout=CONNECT_S)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Dask logs: what matters of it, a scheduler that is gone, outcomes say."""
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


async def greet(address: str, security: Security) -> None:
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
            n_workers=workers(setup), threads_per_worker=1, host=LOOPBACK, dashboard_address=None,
            security=Security.temporary(), protocol="tls://", silence_logs=50,
        )  # fmt: skip
        with _closed(cluster), Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _closed(cluster: LocalCluster) -> Iterator[None]:
    """Close a cluster at the end. Where a worker died before its cluster has read that it came, Dask 2026.8 fails on
    the missing name, and says so when all has ended."""
    try:
        yield
    finally:
        with suppress(KeyError):
            cluster.close()


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
    if isinstance(error, MemoryError | OverflowError):  # lengths that are none
        return "what listens there speaks another language"
    late = isinstance(error, TimeoutError | asyncio.CancelledError)
    words = str(error) or ("no answer in time" if late else type(error).__name__)
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
    client.register_plugin(Room(room_of(setup)))
    found: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return int(max((facts["resources"].get(MEMORY, 0) for facts in found.values()), default=0))


def room_of(setup: Setup) -> int | None:
    """Bytes of each worker, where somebody says so; on this machine its part of what the place `local` would take."""
    if setup.address is not None:
        return setup.memory_bytes
    return memory_here(setup.memory_bytes) // workers(setup)


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


def workers(setup: Setup) -> int:
    """Workers of a cluster on this machine."""
    return setup.jobs or max(min(core_count(), len(setup.keys)), 1)
