"""Whose turn it is where locks mean nothing: leases, who has ended, and that numbers are fencing tokens."""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from storage import scenario
from storage.scenario import JOB, NAMES, TENSORS, build, lacking, open_scenario

from quantkit.errors import BusyError, QuantkitError
from quantkit.storage import lease as leases
from quantkit.storage.disk import Args, Result, direct
from quantkit.storage.faults import Fault
from quantkit.storage.job import Job
from quantkit.storage.owner import Owner, read_owner, this_process

NO_LOCK = lacking("flock")
HERE = this_process()


def hold(out: Path, owner: Owner, *, age: float = 0.0, number: int = 1) -> Path:
    """What a process elsewhere has left: a job folder with its lease."""
    folder = out / JOB
    folder.mkdir(exist_ok=True)
    path = folder / f"lease-{number:08d}"
    path.write_bytes(owner.encode())
    os.utime(path, (time.time() - age, time.time() - age))
    return path


ELSEWHERE = replace(HERE, host="node-17", boot="another boot", pid=4711)


def test_a_live_process_elsewhere_is_not_disturbed(tmp_path: Path) -> None:
    hold(tmp_path, ELSEWHERE, age=100)
    with pytest.raises(BusyError, match="in use by process 4711 on node-17") as caught:
        build(tmp_path, NO_LOCK)
    assert "if that machine is gone" in str(caught.value.hint)
    seconds = int(str(caught.value.hint).split(" in ")[1].split()[0])
    assert 1 <= seconds <= leases.EXPIRY_SECONDS - 99
    assert [path.name for path in (tmp_path / JOB).glob("lease-*")] == ["lease-00000001"]
    assert not list((tmp_path / JOB).glob("run-*")), "nothing was begun"


@pytest.mark.parametrize("age", [121, -3600], ids=["run out", "from the future"])
def test_a_lease_that_ran_out_is_taken_over(age: float, tmp_path: Path) -> None:
    hold(tmp_path, ELSEWHERE, age=age)
    with open_scenario(tmp_path, NO_LOCK):
        names = [path.name for path in (tmp_path / JOB).glob("lease-*")]
        assert names == ["lease-00000002"], "counted up, and the old one is gone"
    build(tmp_path, NO_LOCK)
    scenario.assert_complete(tmp_path)


def ended() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


OWNERS: dict[str, tuple[Callable[[], Owner], bool]] = {
    "this one": (lambda: HERE, False),
    "ended": (lambda: replace(HERE, pid=ended()), True),
    "its number was given again": (lambda: replace(HERE, started="1"), True),
    "before a reboot": (lambda: replace(HERE, boot="b"), True),
    "of another machine without a name": (lambda: replace(HERE, boot="b", host="localhost"), False),
    "of a system that does not say": (lambda: replace(HERE, boot=""), False),
    "in another container": (lambda: replace(HERE, space="pid:[1]", pid=ended()), False),
    "of another host": (lambda: replace(HERE, host="other", pid=ended()), False),
    "where nothing says when it began": (lambda: replace(HERE, started="", pid=ended()), True),
    "number zero": (lambda: replace(HERE, pid=0), False),
    "a number that is none": (lambda: replace(HERE, started="", pid=1 << 80), False),
}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say when a process began")
@pytest.mark.parametrize("what", OWNERS)
def test_only_what_has_certainly_ended_is_said_to_have(what: str) -> None:
    owner, has_ended = OWNERS[what]
    assert owner().has_ended is has_ended
    assert read_owner(HERE.encode()) == HERE
    assert HERE.host == platform.node()


def test_a_child_that_nobody_waited_for_has_ended(tmp_path: Path) -> None:
    """A worker that was killed stays in the table of processes until its parent asks."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert replace(HERE, pid=pid).has_ended
    finally:
        os.waitpid(pid, 0)


FACTS = json.loads(HERE.encode())
NOBODY = [
    *(b"", b"{", b"[]", b"null", b'{"pid": 1}', HERE.encode()[:-10], b"\xff\xfe" * 50, b"[" * 1900),
    *(json.dumps({**FACTS, key: value}).encode() for key, value in (("pid", "1"), ("pid", True), ("host", "x" * 5000))),
]


@pytest.mark.parametrize("data", NOBODY, ids=range(len(NOBODY)))
def test_a_lease_that_names_nobody_counts_by_its_age(data: bytes, tmp_path: Path) -> None:
    path = hold(tmp_path, HERE)
    path.write_bytes(data)
    with pytest.raises(BusyError, match="in use by another process"):
        build(tmp_path, NO_LOCK)
    os.utime(path, (0, 0))
    build(tmp_path, NO_LOCK)
    scenario.assert_complete(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_lease_is_in_nobodys_way(kind: str, tmp_path: Path) -> None:
    (tmp_path / JOB).mkdir()
    path, victim = tmp_path / JOB / "lease-00000007", tmp_path / "victim"
    victim.write_text("mine")
    {"link": lambda: path.symlink_to(victim), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with open_scenario(tmp_path, NO_LOCK):
        pass
    build(tmp_path, NO_LOCK)
    assert victim.read_text() == "mine"
    victim.unlink()
    scenario.assert_complete(tmp_path)


def test_the_owner_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    with open_scenario(tmp_path, NO_LOCK) as job:
        scenario.expire(tmp_path)
        deadline = time.monotonic() + 10
        while next((tmp_path / JOB).glob("lease-*")).stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(BusyError):
            build(tmp_path, NO_LOCK)
        job.require_turn()


def taken_over(out: Path) -> Job:
    """The job of one whose lease ran out, whenever it may have been renewed in between."""
    for _ in range(100):
        scenario.expire(out)
        with suppress(BusyError):
            return open_scenario(out, NO_LOCK)
    raise AssertionError("a hundred renewals between one call and the next")


def test_a_late_writer_stops_and_seals_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held up with everything published, before it could say so: the one who took over says it, once."""
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    late = open_scenario(tmp_path, NO_LOCK)
    scenario.fill(late)
    late.publish([tmp_path / name for name in NAMES], overwrite=False, check=scenario.check_structure)
    monkeypatch.setattr(leases.Lease, "_renew", lambda self: None)
    with taken_over(tmp_path) as new:
        assert len(new.records) == len(TENSORS)
        deadline = time.monotonic() + 10
        while not late._place.lease.is_lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(BusyError, match="another process took over"):
            late.finish(TENSORS[0].record)
        with pytest.raises(BusyError, match="another process took over"):
            late.require_turn()
        with pytest.raises(BusyError, match="another process took over"):
            late.seal(tmp_path / scenario.MANIFEST, b"of the late one")
        late.discard()
        assert not (tmp_path / scenario.MANIFEST).exists()
        assert (tmp_path / JOB).is_dir(), "what belongs to another one now stays"
        new.seal(tmp_path / scenario.MANIFEST, b"of the new one")
        new.discard()
    assert scenario.files(tmp_path) == {*NAMES, scenario.MANIFEST}
    assert (tmp_path / scenario.MANIFEST).read_bytes() == b"of the new one"


def test_a_number_that_was_given_back_is_not_taken_behind_a_higher_one(tmp_path: Path) -> None:
    """Between counting and taking, others may have come, gone, and left a lease with a higher number."""

    def overtaken(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call.__name__ == "rename_noreplace" and not seen:
            seen.append(1)
            hold(tmp_path, ELSEWHERE, number=5)
        return NO_LOCK(call, *args)

    seen: list[int] = []
    with pytest.raises(BusyError, match="node-17"):
        build(tmp_path, overtaken)
    assert [path.name for path in (tmp_path / JOB).glob("lease-*")] == ["lease-00000005"]


# Many processes, kills, and locks that always succeed.

PROCESSES, ROUNDS = 8, 200


def logged(log: int, ops: Callable[..., object], dice: random.Random) -> Callable[..., object]:
    """Write down each final name that was given, at once, and wait by chance before some calls."""

    def call_and_say(call: Callable[[*Args], Result], *args: *Args) -> object:
        if dice.random() < 0.05:
            time.sleep(dice.random() * 0.001)
        result = ops(call, *args)
        if call.__name__ in ("rename_noreplace", "replace", "link", "rename"):
            name = os.path.basename(os.fspath(args[1]))  # noqa: PTH119
            if name in LEAVES:
                os.write(log, name.encode() + b"\n")
        return result

    return call_and_say


LEAVES = {Path(name).name for name in (*NAMES, scenario.MANIFEST)}


def race(out: Path, log: int, dice: random.Random) -> list[int]:
    """One round: eight processes at one output, half of them killed before a call that chance names."""
    pids = []
    for number in range(PROCESSES):
        seed, at = dice.random(), dice.randrange(1, 110)
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                ops = Fault("kill", at) if number % 2 == 0 else direct
                build(out, logged(log, lacking("flock", ops=ops), random.Random(seed)))  # type: ignore[arg-type]
                status = 0
            except QuantkitError as error:
                status = scenario.exit_code(error)
            finally:
                os._exit(status)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


@pytest.mark.parametrize("rounds", [6, pytest.param(ROUNDS, marks=pytest.mark.slow)])
def test_eight_processes_half_of_them_killed_publish_once(rounds: int, tmp_path: Path) -> None:
    dice = random.Random(rounds)
    for number in range(rounds):
        out = tmp_path / str(number)
        out.mkdir()
        log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        ends = race(out, log, dice)
        assert set(ends) <= {0, 6, -signal.SIGKILL}, ends
        scenario.assert_nothing_damaged(out, {})
        build(out, logged(log, NO_LOCK, random.Random(0)))  # type: ignore[arg-type]
        scenario.assert_complete(out)
        given = Counter((tmp_path / "log").read_text().split())
        os.close(log)
        assert given == dict.fromkeys(LEAVES, 1), (number, given)
