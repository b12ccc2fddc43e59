"""Tasks on workers of Dask: lost workers, memory, schedulers that are not there, and who may talk to ours."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from batch.batches import Heard, artifacts, expanded, leftovers, matrix
from commands import quantkit

from quantkit.batch.ledger import Ledger
from quantkit.batch.place import Failure, Outcome, Setup, open_place
from quantkit.batch.task import Needs, Task
from quantkit.errors import InputError, NetworkError, QuantkitError, UnsupportedError, UsageError

distributed = pytest.importorskip("distributed")
dask_cluster = pytest.importorskip("quantkit.batch.dask_cluster")
dask_task = pytest.importorskip("quantkit.batch.dask_task")
psutil = pytest.importorskip("psutil")


def setup(tmp_path: Path, **more: Any) -> Setup:
    return Setup(tmp_path / "matrix.toml", tmp_path / "out", {}, **more)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 1.0)
    monkeypatch.setattr(dask_cluster, "ANSWER_S", 2.0)


# Before anything starts.


def test_a_scheduler_that_is_not_there_is_said_first(tmp_path: Path, impatient: None) -> None:
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9: ") as caught:
        open_place("dask", setup(tmp_path, address="tcp://127.0.0.1:9"))
    assert time.monotonic() - start < 10
    assert "dask scheduler" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_something_else_at_the_address_is_said_first(tmp_path: Path, impatient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # answers nothing
        start = time.monotonic()
        with pytest.raises(NetworkError, match="no answer in time"):
            open_place("dask", setup(tmp_path, address=f"tcp://127.0.0.1:{server.getsockname()[1]}"))
        assert time.monotonic() - start < 10


def test_a_scheduler_without_workers_is_said_before_models_are_opened(tmp_path: Path, impatient: None) -> None:
    with (
        distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=50) as empty,
        pytest.raises(NetworkError, match="has no workers"),
    ):
        open_place("dask", setup(tmp_path, address=empty.scheduler_address))


@pytest.mark.parametrize("said", [ValueError("IOStream is not idle"), OSError("closed"), TimeoutError()])
def test_a_client_that_looks_for_a_scheduler_that_is_gone_ends_quietly(
    said: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its own looking raised, Dask raises when it is closed: outcomes have been told by then."""
    whole = distributed.Client.close

    def closed(self: Any, timeout: Any = None) -> None:
        whole(self, timeout)
        raise said

    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=50) as empty:
        with (
            monkeypatch.context() as patch,
            dask_cluster.connected(setup(tmp_path, address=empty.scheduler_address)) as client,
        ):
            patch.setattr(distributed.Client, "close", closed)
        assert client.status == "closed"


class Greeting(socketserver.BaseRequestHandler):
    """A server of another kind, which speaks first."""

    def handle(self) -> None:
        self.request.sendall(b"SSH-2.0-OpenSSH_9.0\r\n" * 40)


def test_a_server_of_another_kind_is_no_scheduler(tmp_path: Path, impatient: None) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(NetworkError, match="speaks another language"):
            open_place("dask", setup(tmp_path, address=f"tcp://127.0.0.1:{server.server_address[1]}"))
        server.shutdown()


@pytest.mark.parametrize(
    "address", ["", "node", "node:8786", "http://node:8786", "tcp://node", "tcp://:1", "tcp://node:0", "tcp://n:99999",
                "tcp://n:x", "inproc://x:1", "tcp://"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no address of a Dask scheduler") as caught:
        open_place("dask", setup(tmp_path, address=address))
    assert "tcp://" in str(caught.value.hint)


def test_tls_takes_three_files_that_are_there(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("no certificate")
    some = {"address": "tls://127.0.0.1:9"}
    with pytest.raises(UsageError, match="--tls-cert, --tls-key"):
        open_place("dask", setup(tmp_path, **some, options=(("tls-ca", str(pem)),)))
    missing = (("tls-ca", str(pem)), ("tls-cert", str(pem)), ("tls-key", str(tmp_path / "none")))
    with pytest.raises(InputError, match="--tls-key"):
        open_place("dask", setup(tmp_path, **some, options=missing))
    damaged = tuple((name, str(pem)) for name in ("tls-ca", "tls-cert", "tls-key"))
    with pytest.raises(QuantkitError, match="TLS"):
        open_place("dask", setup(tmp_path, **some, options=damaged))


def seen(**other: Any) -> str:
    facts = {"host": "node-3", "shares": True, "version": dask_cluster.__version__, "numerics": dask_cluster.NUMERICS}
    return msgspec.json.encode(facts | other).decode()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (seen(shares=False), InputError, "on node-3 does not see"),
        (seen(version="0.0.1"), UnsupportedError, "has quantkit 0.0.1"),
        (seen(numerics=99), UnsupportedError, "has quantkit"),
        (ModuleNotFoundError("No module named 'quantkit'"), UnsupportedError, "cannot run quantkit"),
    ],
)
def test_a_worker_that_would_do_something_else_is_said_first(
    answer: object, error: type[QuantkitError], words: str, tmp_path: Path
) -> None:
    dask_cluster._require_same("tcp://n:1", seen(), setup(tmp_path))
    with pytest.raises(error, match=words) as caught:
        dask_cluster._require_same("tcp://n:1", answer, setup(tmp_path))
    assert caught.value.hint


def test_orders_are_text_and_nothing_else() -> None:
    order = dask_task.Order("a", ("convert", "x"), "/out", "/batch", "key", 2)
    assert msgspec.json.decode(order.encode(), type=dask_task.Order) == order
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(order.encode().replace('"key"', '"kez"', 1), type=dask_task.Order)
    outcome = Outcome("a", -9, 1.5, "here", Failure("killed", -9, "m", None))
    assert dask_task.decode(dask_task.encode(outcome)) == outcome


@pytest.mark.parametrize("other", [{"version": "0.0.1"}, {"batch": "/nowhere"}], ids=str)
def test_a_worker_that_comes_later_looks_for_itself(other: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".quantkit-batch").mkdir()
    facts = {"task": "a", "argv": ["convert"], "out": str(tmp_path), "batch": str(tmp_path), "key": "k", **other}
    outcome = dask_task.decode(dask_task.run_order(msgspec.json.encode(facts).decode()))
    assert (outcome.exit, outcome.error.code) == (4, "unsupported")
    assert outcome.error.hint


class Lost:
    """A future that was done when its worker was killed, with its result, and is done again later."""

    key, status, asked = "k", "finished", 0

    def result(self, timeout: float) -> str:
        self.asked += 1
        if self.asked == 1:
            self.status = "pending"
            raise distributed.comm.CommClosedError("the worker is gone")
        return str(dask_task.encode(Outcome("a", 0, 1.0, "elsewhere")))

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self.status = "finished"
        call(self)

    def release(self) -> None: ...


def test_a_result_that_is_lost_with_its_worker_is_waited_for_again(tmp_path: Path) -> None:
    """Between the end of a task and the reading of its outcome the worker may be killed."""

    class Running:
        status = "running"

    heard = Heard()
    run = importlib.import_module("quantkit.batch.dask")._Run(Running(), setup(tmp_path), heard)
    future = Lost()
    run._futures["k"] = (Task("a", "", (), (), tmp_path), future, 1)
    run._ended.put("k")
    run.wait(lambda: False)
    assert heard.exits == {"a": 0}
    assert future.asked == 2


# On a cluster.


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A scheduler and workers of one thread (two, or as many as the test says), as somebody else has started them.

    Where a worker dies before its cluster has read that it came, Dask 2026.8 fails on the missing name and says so at
    the end of its ``close``, when all has ended: a fault of its bookkeeping, which none of this asks.
    """
    import dask

    with (
        suppress(KeyError),
        dask.config.set({"distributed.scheduler.allowed-failures": 20}),
        distributed.LocalCluster(
            n_workers=getattr(request, "param", 2), threads_per_worker=1, host="127.0.0.1", dashboard_address=None,
            silence_logs=50, memory_limit="1GiB",
        ) as found,
    ):  # fmt: skip
        yield found


@pytest.mark.parametrize(("raised", "seen"), [(KeyError, False), (OSError, True)])
def test_a_worker_that_died_young_is_no_error_at_the_end(raised: type[Exception], seen: bool) -> None:
    """Of our own cluster, in the same way as above."""

    class Closing:
        def close(self) -> None:
            raise raised("tcp://127.0.0.1:1")

    with pytest.raises(raised) if seen else nullcontext(), dask_cluster._closed(Closing()):
        pass


class Killer(threading.Thread):
    """Kills workers by chance, with SIGKILL, until it is told to stop."""

    def __init__(self, cluster: Any, dice: random.Random, most: int) -> None:
        super().__init__(daemon=True)
        self.cluster, self.dice, self.most, self.killed = cluster, dice, most, 0
        self.ended = threading.Event()

    def run(self) -> None:
        while self.killed < self.most and not self.ended.wait(self.dice.uniform(0.3, 1.2)):
            nanny = self.dice.choice(list(self.cluster.workers.values()))
            with suppress(ProcessLookupError, AttributeError):
                if nanny.pid:
                    os.kill(nanny.pid, signal.SIGKILL)
                    self.killed += 1


@pytest.mark.slow
def test_workers_are_killed_and_nothing_is_lost(cluster: Any, tmp_path: Path) -> None:
    tasks, told = expanded(matrix(tmp_path, 5), place="dask", address=cluster.scheduler_address)
    heard, killer = Heard(), Killer(cluster, random.Random(0), 3)

    def begun() -> bool:
        if not killer.is_alive() and not killer.killed:
            killer.start()
        return False

    open_place("dask", told).run(tasks, heard, begun)
    killer.ended.set()
    killer.join()
    assert heard.exits == dict.fromkeys([task.id for task in tasks], 0)
    assert killer.killed >= 2
    made = artifacts(tmp_path / "out")
    assert len(made) == 5
    assert len(set(made.values())) == 1, "the same bytes, whoever made them and however often it was begun"
    assert not leftovers(tmp_path / "out")
    ledger = Ledger(told.out)
    states = {task.id: ledger.state(ledger.read(task.id), told.keys[task.id]) for task in tasks}
    assert set(states.values()) == {"done"}


@pytest.mark.parametrize("command", ["run", "dry run", pytest.param("scheduler", marks=pytest.mark.slow)])
def test_a_task_that_fits_no_worker_is_said_before_anything_begins(
    command: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As on this machine: exit 5 with all of them named, and no task is begun, nor is a cluster."""
    path = matrix(tmp_path, 2)
    more = {"run": [], "dry run": ["--dry-run"]}.get(command)
    if more is None:
        more = ["--scheduler", request.getfixturevalue("cluster").scheduler_address]
    done = quantkit("batch", "run", path, "--on", "dask", "--workers", "2", "--memory", "8MB", *more, "--json")
    assert done.status == 5, done.stderr
    room = "8.00 MB" if command == "scheduler" else "4.00 MB"
    said = [done.json["error"], *done.json["error"].get("others", ())]
    assert [each["message"].partition(":")[0] for each in said] == ["m0.gguf", "m1.gguf"]
    assert all(f"of memory, {room} are there" in each["message"] for each in said), said
    assert not (tmp_path / "out" / ".quantkit-batch" / "tasks").exists()


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_no_worker_is_given_more_than_it_has_and_a_stop_saves(cluster: Any, tmp_path: Path) -> None:
    """Tasks of 0.6 of a worker's memory: one at a time on each, and one of twice its memory never begins."""
    tasks, told = expanded(matrix(tmp_path, 4), place="dask", address=cluster.scheduler_address)
    room = 1 << 30
    tasks = [replace(task, needs=Needs(memory_bytes=room * 6 // 10)) for task in tasks]
    tasks[3] = replace(tasks[3], needs=Needs(memory_bytes=room * 2))
    heard = Heard()
    stopped: list[float] = []

    def stop() -> bool:
        if sum(outcome.ok for outcome in heard) >= 1 and not stopped:
            stopped.append(time.monotonic())
        return bool(stopped)

    open_place("dask", told).run(tasks, heard, stop)
    assert set(heard.exits) == {task.id for task in tasks}
    assert heard.exits["m3.gguf"] == 5
    assert heard[0].task == "m3.gguf", "what never fits is said before anything begins"
    assert "no worker has more than" in heard[0].error.message  # type: ignore[union-attr]
    others = [each.exit for each in heard if each.task != "m3.gguf"]
    assert 0 in others
    assert 130 in others
    assert set(others) <= {0, 130}
    assert time.monotonic() - stopped[0] < 30
    again = Heard()
    open_place("dask", told).run(tasks[:3], again, lambda: False)
    assert set(again.exits.values()) == {0}
    spans = []
    for task in tasks[:3]:
        record = Ledger(told.out).read(task.id)
        assert record is not None
        spans.append((record.time - record.seconds, record.time))
    spans.sort()
    assert all(end <= start + 0.2 for (_, end), (start, _) in pairwise(spans)), spans


def listening(process: Any) -> set[int]:
    """The ports that a process listens on."""
    return {each.laddr.port for each in process.net_connections(kind="inet") if each.status == "LISTEN"}


@pytest.mark.slow
def test_a_cluster_of_our_own_listens_to_nobody_else(tmp_path: Path) -> None:
    """Sockets on loopback alone, and a client without the certificate of this run gets no answer."""
    tasks, told = expanded(matrix(tmp_path, 1), place="dask", jobs=1)
    place = open_place("dask", told)
    looked: list[set[str]] = []
    refused: list[bool] = []
    before = listening(psutil.Process())  # of other tests

    def stop() -> bool:
        if not looked:
            me = psutil.Process()
            family = [me, *me.children(recursive=True)]
            sockets = []
            for one in family:
                with suppress(psutil.Error):  # ended meanwhile
                    sockets += [each for each in one.net_connections(kind="inet") if each.status == "LISTEN"]
            looked.append({each.laddr.ip for each in sockets})
            ports = listening(me) - before
            for address in (f"{kind}://127.0.0.1:{port}" for port in ports for kind in ("tcp", "tls")):
                stranger = distributed.Security.temporary() if address.startswith("tls") else distributed.Security()
                try:
                    asyncio.run(asyncio.wait_for(dask_cluster.greet(address, stranger), 1.0))
                    refused.append(False)
                except (OSError, TimeoutError, ValueError, RuntimeError, MemoryError):
                    refused.append(True)
        return False

    heard = Heard()
    place.run(tasks, heard, stop)
    assert heard.exits == {tasks[0].id: 0}
    assert looked[0]
    assert all(ip in ("127.0.0.1", "::1") for ip in looked[0]), looked
    assert refused
    assert all(refused)


@pytest.mark.slow
def test_tls_is_honoured_and_a_scheduler_that_dies_is_said(tmp_path: Path) -> None:
    """With the files of the options, and without them nobody answers. What was not made is said."""
    security = distributed.Security.temporary()
    pems = {"tls-ca": security.tls_ca_file, "tls-cert": security.tls_client_cert, "tls-key": security.tls_client_key}
    for name, text in pems.items():
        (tmp_path / name).write_text(text)
    options = tuple((name, str(tmp_path / name)) for name in pems)
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50,
        security=security, protocol="tls://",
    )  # fmt: skip
    path, address = matrix(tmp_path / "batch", 3), cluster.scheduler_address
    tasks, told = expanded(path, place="dask", address=address, options=options)
    with pytest.raises(NetworkError, match="no Dask scheduler"):
        open_place("dask", expanded(path, place="dask", address=address)[1])

    def after(heard: Heard) -> None:
        if len(heard) == 1:
            threading.Thread(target=cluster.close, daemon=True).start()

    heard = Heard(after)
    open_place("dask", told).run(tasks, heard, lambda: False)
    exits = heard.exits
    assert set(exits) == {task.id for task in tasks}
    assert heard[0].ok
    assert 9 in exits.values()
    assert set(exits.values()) <= {0, 9}
    error = next(outcome.error for outcome in heard if outcome.exit == 9)
    assert error is not None
    assert f"{address} is gone" in error.message
