"""Several processes on one output: with locks, and where locks always succeed."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from storage import scenario
from storage.scenario import CONTENTS, FILES, HEADER, NAMES, TENSORS, build, lacking, open_scenario

from quantkit.errors import BusyError, QuantkitError
from quantkit.storage import Job, PartFile, open_job
from quantkit.storage.disk import Args, Result, direct
from quantkit.storage.faults import Fault

NO_LOCK = lacking("flock")


def test_the_second_process_learns_at_once_who_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with open_scenario(tmp_path):
                os.write(ready[1], b"!")
                signal.pause()
        finally:
            os._exit(0)
    try:
        os.read(ready[0], 1)
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
        with pytest.raises(BusyError, match=f"in use by process {pid} on {os.uname().nodename}"):
            build(tmp_path)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    build(tmp_path)
    scenario.assert_complete(tmp_path)


def test_a_lock_file_that_was_removed_is_not_believed(tmp_path: Path) -> None:
    """Between opening the lock and taking it, its holder may finish and remove it."""
    lock = tmp_path / scenario.JOB / "lock"

    def removed_once(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call is fcntl.flock and not lock.with_name("seen").exists():  # type: ignore[comparison-overlap]
            lock.with_name("seen").touch()
            lock.unlink()
        return call(*args)

    with open_scenario(tmp_path, removed_once), pytest.raises(BusyError):
        open_scenario(tmp_path)


@pytest.mark.parametrize("text", ["", "nonsense", "\x1b[31m" + "x" * 1000])
def test_a_lock_without_a_name_still_holds(text: str, tmp_path: Path) -> None:
    with open_scenario(tmp_path):
        (tmp_path / scenario.JOB / "lock").write_text(text)
        with pytest.raises(BusyError, match="in use by another process") as caught:
            open_scenario(tmp_path)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("processes", [2, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("locks", ["locks", "no locks"])
@pytest.mark.parametrize("kills", ["kills", "no kills"])
def test_processes_race_for_one_output(processes: int, locks: str, kills: str, tmp_path: Path) -> None:
    for seed in range(24):
        out = tmp_path / str(seed)
        out.mkdir()
        dice = random.Random(f"{seed} {processes} {locks} {kills}")
        pids = []
        for number in range(processes):
            doomed = kills == "kills" and number % 2 == 0
            ops = Fault("kill", dice.randrange(1, 90)) if doomed else direct
            pids.append(start(out, hurried(dice.random(), lacking("flock", ops=ops) if locks == "no locks" else ops)))
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert set(ends) <= {0, 6, -signal.SIGKILL}, ends
        assert kills == "kills" or 0 in ends, ends
        scenario.assert_nothing_damaged(out, {})
        if 0 in ends:
            assert tuple((out / name).read_bytes() for name in NAMES) == CONTENTS
        build(out)
        scenario.assert_complete(out)


def hurried(seed: float, ops: Callable[..., object]) -> Callable[..., object]:
    """Delay calls by chance, so that processes meet in many places."""
    dice = random.Random(seed)

    def delayed(call: Callable[[*Args], Result], *args: *Args) -> object:
        if dice.random() < 0.2:
            time.sleep(dice.random() * 0.002)
        return ops(call, *args)

    return delayed


def start(out: Path, ops: Callable[..., object]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            build(out, ops)  # type: ignore[arg-type]
            status = 0
        except QuantkitError as error:
            status = scenario.exit_code(error)
        finally:
            os._exit(status)
    return pid


# Where locks always succeed, step by step.


@pytest.mark.parametrize("earlier", [0, 3], ids=["new", "resumed"])
@pytest.mark.parametrize("other", [None, 2, 5], ids=["all", "some", "most"])
def test_another_process_runs_between_any_two_calls(earlier: int, other: int | None, tmp_path: Path) -> None:
    """The slow process wakes up after the other one has done all, or some, of the same work."""
    for at in range(1, 120):
        out = tmp_path / str(at)
        build(out, stop_after=earlier)
        calls = count(1)

        def interrupted(call: Callable[[*Args], Result], *args: *Args) -> Result:
            if next(calls) == at:  # noqa: B023
                scenario.expire(out)  # noqa: B023
                build(out, NO_LOCK, stop_after=other)  # noqa: B023
                present = scenario.published(out)  # noqa: B023
                result = NO_LOCK(call, *args)
                assert present <= scenario.published(out)  # noqa: B023
                return result
            return NO_LOCK(call, *args)

        try:
            build(out, interrupted)
        except BusyError:
            scenario.assert_nothing_damaged(out, {})
        build(out)
        scenario.assert_complete(out)
        if next(calls) <= at:
            break
    assert at > 60


def write_everything(job: Job) -> None:
    for tensor in TENSORS:
        job.write(tensor.file, tensor.offset, tensor.data)
        job.finish(tensor.record)
    for file in range(len(FILES)):
        job.write(file, 0, HEADER)


def publish(job: Job, out: Path) -> None:
    job.publish([out / name for name in NAMES], overwrite=False, check=scenario.check_structure)


def test_who_loses_the_job_cannot_publish(tmp_path: Path) -> None:
    with open_scenario(tmp_path, NO_LOCK) as first:
        write_everything(first)
        scenario.expire(tmp_path)
        with open_scenario(tmp_path, NO_LOCK) as second:
            assert len(second.records) == len(TENSORS), "the work of the first was taken over"
            with pytest.raises(BusyError, match="another process"):
                publish(first, tmp_path)
            assert not (tmp_path / NAMES[0]).exists()
            for file in range(len(FILES)):
                second.write(file, 0, HEADER)
            publish(second, tmp_path)
            publish(first, tmp_path)  # by now its bytes are where they should be
            second.discard()
    build(tmp_path)
    scenario.assert_complete(tmp_path)


def test_a_job_that_is_no_longer_wanted_does_no_harm(tmp_path: Path) -> None:
    """The second job has another digest in the same folder: the first one's files are removed under its feet."""
    with open_scenario(tmp_path, NO_LOCK) as first:
        write_everything(first)
        other = [PartFile(NAMES[0], FILES[0].nbytes)]
        scenario.expire(tmp_path)
        with open_job(tmp_path / scenario.JOB, digest="other", files=other, ops=NO_LOCK) as second:
            second.write(0, 0, b"half of")
            write_everything(first)
            with pytest.raises((BusyError, FileNotFoundError)):
                publish(first, tmp_path)
            assert second.read(0, 0, 10) == b"half of\0\0\0"
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == []
