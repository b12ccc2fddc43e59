"""Every system call of a run fails once, in every way: nothing is damaged, the error is named, a rerun completes."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from storage import scenario
from storage.scenario import build, lacking

from quantkit.errors import NotWritableError, QuantkitError, ResourceError, UsageError
from quantkit.storage import Ops
from quantkit.storage.disk import Args, Result, direct
from quantkit.storage.faults import VARIABLE, Fault, from_environment

RESOURCE_FAULTS = ["enospc", "edquot", "eio", "efbig", "enomem", "emfile"]
PLACE_FAULTS = ["eacces", "erofs", "eperm"]
QUICK = {"enospc", "eio", "eacces"}


def slow(kind: str) -> object:
    return pytest.param(kind, marks=pytest.mark.slow)


@dataclass(frozen=True)
class Route:
    """A way through the code: with an older artifact to replace or not, and the calls the file system lacks."""

    replace: bool
    missing: tuple[str, ...] = ()

    def start(self, out: Path) -> dict[str, bytes]:
        if self.replace:
            return scenario.with_old_artifact(out)
        out.mkdir()
        return {}

    def run(self, out: Path, ops: Ops = direct) -> None:
        build(out, lacking(*self.missing, ops=ops), overwrite=self.replace)

    def calls(self, out: Path, after: int = 0) -> list[str]:
        """The names of the system calls of a run, or of one that continues after `after` tensors."""
        names: list[str] = []

        def counting(call: Callable[[*Args], Result], *args: *Args) -> Result:
            names.append(call.__name__)
            return call(*args)

        self.start(out)
        if after:
            build(out, overwrite=self.replace, stop_after=after)
        self.run(out, counting)
        scenario.assert_complete(out)
        return names

    def assert_rerun_completes(self, out: Path, before: dict[str, bytes]) -> None:
        scenario.assert_nothing_damaged(out, before)
        self.run(out)
        scenario.assert_complete(out)


REPLACE, NEW, BARE = Route(True), Route(False), Route(False, ("fallocate", "rename_noreplace"))
each_route = pytest.mark.parametrize("route", [REPLACE, NEW, BARE], ids=["replace", "new", "bare"])


def test_the_routes_make_every_call_there_is(tmp_path: Path) -> None:
    made = {name for i, r in enumerate([REPLACE, NEW, BARE]) for name in r.calls(tmp_path / str(i))}
    assert made == {
        "open", "open_at", "mkdir", "flock", "ftruncate", "fallocate", "pwrite", "write", "preadv", "posix_fadvise",
        "fsync", "rename_noreplace", "replace", "link", "unlink", "rmdir",
    }  # fmt: skip  # rename: only a resumed run


@each_route
@pytest.mark.parametrize("kind", [k if k in QUICK else slow(k) for k in RESOURCE_FAULTS + PLACE_FAULTS])
def test_any_call_may_fail(kind: str, route: Route, tmp_path: Path) -> None:
    reason = os.strerror(getattr(errno, kind.upper()))
    calls = len(route.calls(tmp_path / "clean"))
    failed = 0
    for at in range(1, calls + 1):
        out = tmp_path / str(at)
        before = route.start(out)
        try:
            route.run(out, Fault(kind, at))
        except QuantkitError as error:
            failed += 1
            assert type(error) is (ResourceError if kind in RESOURCE_FAULTS else NotWritableError), (at, error)
            assert error.path is not None and error.path in error.message and str(out) in error.path
            assert reason in error.message
            assert kind in PLACE_FAULTS or ("bytes needed" in error.message and "free" in error.message)
            route.assert_rerun_completes(out, before)
        else:  # a courtesy failed: taking a lock, its text, sweeping another user's temporary file
            scenario.assert_complete(out)
    assert failed >= calls - 10


@each_route
@pytest.mark.parametrize("kind", ["short", "eintr"])
def test_short_and_interrupted_calls_are_continued(kind: str, route: Route, tmp_path: Path) -> None:
    for at in range(1, len(route.calls(tmp_path / "clean")) + 1):
        out = tmp_path / str(at)
        route.start(out)
        route.run(out, Fault(kind, at))
        scenario.assert_complete(out)


@each_route
def test_a_disk_that_fills_up_and_stays_full(route: Route, tmp_path: Path) -> None:
    """From some call on, everything that needs space fails, also what cleans up; removing still works."""

    class Full(Fault):
        def __call__(self, call: Callable[[*Args], Result], *args: *Args) -> Result:
            needs_space = call.__name__ in ("open_at", "mkdir", "fallocate", "ftruncate", "pwrite", "write", "link")
            if next(self._calls) < self.at or not needs_space:
                return call(*args)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for at in range(1, len(route.calls(tmp_path / "clean")) - 10):
        out = tmp_path / str(at)
        before = route.start(out)
        try:
            route.run(out, Full("enospc", at))
        except ResourceError:
            route.assert_rerun_completes(out, before)
        else:
            scenario.assert_complete(out)


@each_route
@pytest.mark.parametrize("kind", ["kill", "tear"])
def test_the_process_is_killed_at_any_call(kind: str, route: Route, tmp_path: Path) -> None:
    killed = 0
    for at, name in enumerate(route.calls(tmp_path / "clean"), 1):
        if kind == "tear" and name not in ("pwrite", "write"):
            continue  # the same as kill
        out = tmp_path / str(at)
        before = route.start(out)
        killed += in_child(lambda: route.run(out, Fault(kind, at))) == -signal.SIGKILL  # noqa: B023
        route.assert_rerun_completes(out, before)
    assert killed > (70 if kind == "kill" else 20)


def test_the_same_on_the_disk_that_pytest_uses(disk_path: Path) -> None:
    calls = REPLACE.calls(disk_path / "clean")
    for at in range(1, len(calls) + 1, 7):
        out = disk_path / str(at)
        before = REPLACE.start(out)
        assert in_child(lambda: REPLACE.run(out, Fault("kill", at))) == -signal.SIGKILL  # noqa: B023
        REPLACE.assert_rerun_completes(out, before)


@each_route
@pytest.mark.parametrize("kind", ["kill", slow("eio"), slow("enospc")])
def test_the_rerun_goes_wrong_as_well(kind: str, route: Route, tmp_path: Path) -> None:
    """Stopped after three tensors; then the run that continues fails at any call. It loses none of the three."""
    for at in range(1, len(route.calls(tmp_path / "clean", after=3)) + 1):
        out = tmp_path / str(at)
        before = route.start(out)
        build(out, lacking(*route.missing), overwrite=route.replace, stop_after=3)
        if kind == "kill":
            in_child(lambda: route.run(out, Fault(kind, at)))  # noqa: B023
        else:
            with suppress(QuantkitError):
                route.run(out, Fault(kind, at))
        if not scenario.published(out):
            with scenario.open_scenario(out) as job:
                assert {t.name for t in scenario.TENSORS[:3]} <= set(job.records)
        route.assert_rerun_completes(out, before)


@pytest.mark.slow
def test_a_program_is_killed_at_any_call(tmp_path: Path) -> None:
    """The same from outside, through the environment, until the program ends by itself."""
    for at in range(1, 1000):
        out = tmp_path / str(at)
        before = scenario.with_old_artifact(out)
        status = run_program(out, f"kill:{at}")
        REPLACE.assert_rerun_completes(out, before)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert at == len(REPLACE.calls(tmp_path / "clean")) + 1


@pytest.mark.parametrize(("fault", "status"), [("enospc:20", 5), ("eio:30", 5), ("erofs:1", 6), ("short:20", 0)])
def test_a_program_ends_with_the_documented_code(fault: str, status: int, tmp_path: Path) -> None:
    assert run_program(tmp_path / "out", fault) == status


@pytest.mark.parametrize("spec", ["37", "kill", "kill:", "kill:-1", "nonsense:3"])
def test_a_malformed_fault_is_refused(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, spec)
    with pytest.raises(UsageError, match="QUANTKIT_FAULT"):
        from_environment()


def test_without_the_variable_calls_are_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert from_environment() is direct


@pytest.mark.parametrize("missing", [(), ("fallocate",)])
def test_a_file_size_limit(missing: tuple[str, ...], tmp_path: Path) -> None:
    largest = max(f.nbytes for f in scenario.FILES)
    for number in range(100):
        out = tmp_path / str(number)
        before = scenario.with_old_artifact(out)
        with file_size_limit(largest * number // 100), pytest.raises(ResourceError, match="File too large"):
            build(out, lacking(*missing), overwrite=True)
        scenario.assert_nothing_damaged(out, before)
        assert scenario.files(out) == set(before), "nothing was finished, so nothing is kept"
    REPLACE.assert_rerun_completes(out, before)


def test_a_full_device(tmp_path: Path) -> None:
    """Every write of file contents goes to /dev/full, which answers with the error of a full disk."""
    full = os.open("/dev/full", os.O_WRONLY)

    def to_full_device(call: Callable[[*Args], Result], *args: *Args) -> Result:
        return os.pwrite(full, *args[1:]) if call is os.pwrite else call(*args)

    with pytest.raises(ResourceError, match=r"No space left on device \([0-9,]+ bytes needed, [0-9,]+ free\)"):
        build(tmp_path, to_full_device)
    os.close(full)
    assert list(tmp_path.iterdir()) == []
    NEW.assert_rerun_completes(tmp_path, {})


def in_child(action: Callable[[], None]) -> int:
    """Run in a forked process; its exit status, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_program(out: Path, fault: str) -> int:
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, sys.path)])
    env = os.environ | {VARIABLE: fault, "PYTHONPATH": path}
    return subprocess.run([sys.executable, scenario.__file__, out], env=env, check=False).returncode


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
