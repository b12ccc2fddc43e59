"""Who works in a job folder.

    .quantkit-9a0c51c27d10/          the job, named after its digest
        lock                         flock, and the pid and host of its holder
        run-3f52b0c9a1e77d64/        the files under construction; only one process knows this name
            journal.jsonl
            model.gguf

The lock is politeness: the second process learns at once that it is not needed. Correctness does not rest on it, for
there are file systems where flock always succeeds. A process that continues earlier work first renames the run
folder, which only one can do. Every later operation on a path by the process before it then fails: it cannot publish.
Through descriptors that are still open it can write only what the new owner writes, the same bytes at the same
offsets, because a file under construction belongs to one digest, is never made shorter than it must be, and never gets
a byte that the finished file does not have at that place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantkit.errors import BusyError
from quantkit.storage.disk import Disk, File, Ops
from quantkit.storage.failures import explained, shown
from quantkit.storage.faults import from_environment

LOCK = "lock"
JOURNAL = "journal.jsonl"
ATTEMPTS = 100
HOLDER_BYTES = 300


@contextmanager
def locked_folder(disk: Disk, folder: Path) -> Iterator[None]:
    """Make the job folder and hold its lock; at the end, a folder with nothing in it but the lock is removed.

    Raises BusyError, naming process and host, when another process holds the lock.
    """
    lock = None
    try:
        lock = _lock(disk, folder)
        yield
    finally:
        with suppress(OSError):  # tidying must not hide why a job ends
            if lock is not None and [p.name for p in folder.iterdir()] == [LOCK]:
                disk.remove(lock.path)
            disk.run(folder, os.rmdir, folder)
        if lock is not None:
            os.close(lock.fd)


def claim_run(disk: Disk, folder: Path) -> Path:
    """Give the earlier run with the longest journal a name that only this process knows, or make a new run."""
    earlier = sorted(folder.glob("run-*"), key=_journal_bytes)
    for old in earlier[:-1]:  # more than one only where the lock did not hold
        disk.remove_tree(old)
    if not earlier:
        return new_run(disk, folder)
    run = folder / _name()
    try:
        disk.run(run, os.rename, earlier[-1], run)
    except FileNotFoundError:  # another process was faster
        return new_run(disk, folder)
    return run


def new_run(disk: Disk, folder: Path) -> Path:
    """Make an empty run folder, durably."""
    run = folder / _name()
    disk.run(run, os.mkdir, run, 0o777)
    disk.sync_folder(folder)
    return run


def remove_job(folder: Path, *, ops: Ops | None = None) -> None:
    """Remove a job folder that a killed process left behind, if there is one. Raises BusyError when it is in use."""
    disk = Disk(ops or from_environment())
    with explained(folder, 0):
        if folder.is_dir():
            with locked_folder(disk, folder):
                disk.remove_tree(folder)


def _name() -> str:
    return f"run-{os.urandom(8).hex()}"


def _lock(disk: Disk, folder: Path) -> File:
    for _ in range(ATTEMPTS):
        disk.make_folders(folder)
        try:
            lock = disk.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # the holder before us finished and removed the folder
            continue
        if not disk.lock(lock):
            raise _busy(lock)
        if is_at(lock, lock.path):
            with suppress(OSError):  # a courtesy to whoever comes second
                disk.run(lock.path, os.ftruncate, lock.fd, 0)
                disk.write(lock, memoryview(f"{os.getpid()} {os.uname().nodename}\n".encode()), 0)
            return lock
        os.close(lock.fd)  # removed between open and lock
    raise BusyError(f"{shown(folder)} keeps changing hands", hint="try again", path=shown(folder))


def _busy(lock: File) -> BusyError:
    pid, _, host = os.pread(lock.fd, HOLDER_BYTES, 0).strip().partition(b" ")
    os.close(lock.fd)
    holder = f"process {shown(pid)} on {shown(host)}" if pid and host else "another process"
    path = shown(lock.path.parent)
    message = f"{path} is in use by {holder}"
    return BusyError(message, hint="wait for it to end, or choose another output with -o", path=path)


def is_at(file: File, path: Path) -> bool:
    """Whether this open file still has this name."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(facts, os.fstat(file.fd))


def _journal_bytes(run: Path) -> int:
    try:
        return (run / JOURNAL).lstat().st_size
    except OSError:
        return -1
