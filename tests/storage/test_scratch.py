"""Arrays in nameless files: usable, gone with their last user, refused in time."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantkit.errors import NotWritableError, QuantkitError, ResourceError
from quantkit.storage import Scratch, scratch_file
from quantkit.storage.faults import Fault

SIZE = 3 << 20


class Lacks:
    """A file system without nameless files."""

    def __call__(self, call: Callable, *args: object) -> object:
        if call.__name__ == "open_at" and args[1] & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return call(*args)


@pytest.mark.parametrize("ops", [None, Lacks()], ids=["nameless", "unlinked"])
def test_a_file_has_no_name(ops: Lacks | None, disk_path: Path) -> None:
    folder = disk_path / "made"
    mapped = scratch_file(folder, SIZE, ops=ops)
    values = np.frombuffer(mapped, np.uint8)
    assert values.size == SIZE
    assert values.flags.writeable
    assert not values.any()
    values[:] = 7
    assert list(folder.iterdir()) == []
    del values, mapped
    assert list(folder.iterdir()) == []


def test_memory_first_then_the_disk(tmp_path: Path) -> None:
    scratch = Scratch(1000, tmp_path)
    assert scratch.new(1000).base is None
    assert isinstance(scratch.new(1001).base.obj, mmap.mmap)
    with pytest.raises(ResourceError, match="take 1,001 bytes, 1,000 bytes of memory may be used") as caught:
        Scratch(1000).new(1001)
    assert "--activations disk" in (caught.value.hint or "")


def test_settling_keeps_values_and_frees_memory(disk_path: Path) -> None:
    scratch = Scratch(0, disk_path)
    values = scratch.new(64 << 20)
    values[:] = np.arange(64 << 20, dtype=np.uint8)
    before = resident()
    scratch.settle()
    assert before - resident() >= 60 << 20
    assert np.array_equal(values[-1000:], np.arange(64 << 20, dtype=np.uint8)[-1000:])
    del values
    gc.collect()
    scratch.settle()  # the file is gone: nothing to do


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("ops", [None, Lacks()], ids=["nameless", "unlinked"])
def test_more_than_the_disk_has_is_refused(ops: Lacks | None, disk_path: Path) -> None:
    with pytest.raises(ResourceError, match="bytes needed"):
        scratch_file(disk_path, 1 << 60, ops=ops)
    assert list(disk_path.iterdir()) == []


def test_a_limit_on_file_sizes_is_a_resource_error(disk_path: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, old[1]))
    try:
        with pytest.raises(ResourceError, match="File too large"):
            scratch_file(disk_path, SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(disk_path.iterdir()) == []


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotWritableError, match="cannot write"):
        scratch_file(tmp_path / "file", SIZE)


@pytest.mark.parametrize("kind", ["enospc", "eio", "edquot", "eacces", "emfile", "eintr"])
def test_every_call_may_fail(kind: str, tmp_path: Path) -> None:
    """The first calls of a fresh folder: mkdir, open and fsync of the parent, open, allocate."""
    for at in range(1, 8):
        folder = tmp_path / f"{at}"
        try:
            scratch_file(folder, SIZE, ops=Fault(kind, at))
        except QuantkitError as error:
            assert isinstance(error, ResourceError | NotWritableError)
        assert not folder.exists() or list(folder.iterdir()) == []


def test_a_killed_process_leaves_nothing(disk_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from quantkit.storage import scratch_file\n"
        f"m = scratch_file(Path({str(disk_path)!r}), {SIZE}); m[:4] = b'data'; os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert list(disk_path.iterdir()) == []
