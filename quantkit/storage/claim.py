"""Who works in a job folder.

    .quantkit-9a0c51c27d10/          the job, named after its digest
        lock                         flock, and the pid and host of its holder
        lease-00000001               whose turn it is, also where flock means nothing (lease.py)
        run-3f52b0c9a1e77d64/        the files under construction; only one process knows this name
            journal.jsonl
            model.gguf

Lock and lease are politeness: the second process learns at once that it is not needed. Correctness does not rest on
them, for there are file systems where flock always succeeds, and leases run out. A process that continues earlier work
first renames the run folder, which only one can do. Every later operation on a path by the process before it then
fails: it cannot publish. Through descriptors that are still open it can write only what the new owner writes, the same
bytes at the same offsets, because a file under construction belongs to one digest, is never made shorter than it must
be, and never gets a byte that the finished file does not have at that place.

The folder is held open, and all paths in it are relative to its descriptor. Nothing in it is believed to be ours by
its name alone: a link, a pipe or a file with a second name is neither followed, nor written, nor read.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantkit.errors import BusyError, NotWritableError
from quantkit.platforms import MOVES_OPEN_FILES, is_administrator, is_mine, node_name, preadv
from quantkit.records import record
from quantkit.storage.disk import Disk, File, Ops, anchored, is_at, is_own, look, mkdir, rename, rmdir
from quantkit.storage.elsewhere import LockAlone
from quantkit.storage.failures import explained, shown
from quantkit.storage.faults import from_environment
from quantkit.storage.lease import LEASE, TEMPORARY, Lease, sweep_candidates, take_lease

LOCK = "lock"
JOURNAL = "journal.jsonl"
RUN = re.compile(r"run-[0-9a-f]{16}")
OURS = re.compile(
    rf"{LOCK}|{RUN.pattern}|{LEASE.pattern}|{TEMPORARY.pattern}|blocks-[0-9a-f]{{64}}(-[0-9]{{4,}}\.seal)?|work\.json"
)
ATTEMPTS = 100
HOLDER_BYTES = 300


@record
class JobFolder:
    """A job folder that is open and locked, and in which this process has its turn."""

    file: File
    lock: File
    lease: Lease | LockAlone

    @property
    def path(self) -> Path:
        return self.file.path

    def __truediv__(self, below: str) -> Path:
        return anchored(self.file, below)


def is_ours(name: str) -> bool:
    """Whether quantkit gives this name to something in a job folder."""
    return OURS.fullmatch(name) is not None


def goes(name: str) -> bool:
    """Whether something in a job folder that is locked can be removed: not the lock, where open files stay."""
    return is_ours(name) and (MOVES_OPEN_FILES or name != LOCK)


@contextmanager
def locked_folder(disk: Disk, path: Path) -> Iterator[JobFolder]:
    """Make the job folder and hold its lock and lease; at the end, a folder with nothing in it but the lock is removed.

    Raises BusyError, naming process and host, when another process holds either; NotWritableError for something else
    in its place.
    """
    folder = None
    try:
        folder = _enter(disk, path)
        yield folder
    finally:
        if folder is not None:
            with suppress(OSError):
                sweep_candidates(disk, folder.file)
            folder.lease.release()
            if not MOVES_OPEN_FILES:
                folder.lock.close()
            _remove_lone_lock(disk, folder.file)
        with suppress(OSError):  # tidying must not hide why a job ends
            disk.run(path, rmdir, path)
        if folder is not None:
            if MOVES_OPEN_FILES:
                folder.lock.close()
            folder.file.close()


def claim_run(disk: Disk, folder: JobFolder, *, fresh: bool = False) -> str:
    """Give the earlier run with the longest journal a name that only this process knows, or make a new run.

    A `fresh` run begins in any case, and earlier ones go.
    """
    earlier = sorted(_runs(folder), key=lambda name: _journal_bytes(folder, name))
    for old in earlier if fresh else earlier[:-1]:  # more than one only where the lock did not hold
        disk.remove_tree(folder / old)
    if fresh or not earlier:
        return new_run(disk, folder)
    run = _name()
    try:
        disk.run(folder.path, rename, folder / earlier[-1], folder / run)
    except FileNotFoundError:  # another process was faster
        return new_run(disk, folder)
    return run


def new_run(disk: Disk, folder: JobFolder) -> str:
    """Make an empty run folder, durably."""
    run = _name()
    disk.run(folder.path, mkdir, folder / run, 0o777)
    disk.sync_folder(folder.path)
    return run


def remove_job(path: Path, *, ops: Ops | None = None) -> None:
    """Remove a job folder that a killed process left behind, if there is one. Raises BusyError when it is in use."""
    disk = Disk(ops or from_environment())
    with explained(path, 0):
        if path.is_dir() and not path.is_symlink():
            with locked_folder(disk, path):
                disk.remove_tree(path, goes)


def _runs(folder: JobFolder) -> Iterator[str]:
    """Earlier runs: folders, not links to some."""
    for name in folder.file.names():
        with suppress(FileNotFoundError):
            if RUN.fullmatch(name) and stat.S_ISDIR(look(folder / name).st_mode):
                yield name


def _name() -> str:
    return f"run-{os.urandom(8).hex()}"


def _enter(disk: Disk, path: Path) -> JobFolder:
    for _ in range(ATTEMPTS):
        disk.make_folders(path)
        folder = _open(disk, path)
        if folder is None:  # the holder before us finished and removed the folder
            continue
        try:
            lock = disk.open(anchored(folder, LOCK), os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # likewise
            folder.close()
            continue
        except BaseException:
            folder.close()
            raise
        if not is_own(lock):
            _close(lock, folder)
            raise not_ours(folder.path / LOCK)
        if not disk.lock(lock):
            folder.close()
            raise _busy(lock)
        if is_at(lock, lock.path) and is_at(folder, path):
            with suppress(OSError):  # a courtesy to whoever comes second
                disk.run(lock.path, os.ftruncate, lock.fd, 0)
                disk.write(lock, memoryview(f"{os.getpid()} {node_name()}\n".encode()), 0)
            lease = _turn(disk, folder, lock)
            if lease is not None:
                return JobFolder(folder, lock, lease)
        _close(lock, folder)  # removed between open and lock
    raise BusyError(f"{shown(path)} keeps changing hands", hint="try again", path=shown(path))


def _turn(disk: Disk, folder: File, lock: File) -> Lease | LockAlone | None:
    """The lease; None when the folder was removed meanwhile. Without it, nothing stays open that `_enter` closes."""
    try:
        return take_lease(disk, folder) if MOVES_OPEN_FILES else LockAlone()
    except FileNotFoundError:
        return None
    except BaseException:
        _remove_lone_lock(disk, folder)
        _close(lock, folder)
        raise


def _remove_lone_lock(disk: Disk, folder: File) -> None:
    with suppress(OSError):  # tidying must not hide why a job ends
        if folder.names() == [LOCK]:
            disk.remove(anchored(folder, LOCK))


def _close(*files: File) -> None:
    for file in files:
        file.close()


def _open(disk: Disk, path: Path) -> File | None:
    """The folder, open; None when it was removed meanwhile."""
    try:
        file = disk.open_folder(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and path.is_symlink():
            raise not_ours(path) from error
        raise
    if not is_mine(file.facts()) and not is_administrator():
        file.close()
        raise not_ours(path)
    return file


def not_ours(path: Path) -> NotWritableError:
    """The error for something that has the name of quantkit's own work, and is not what quantkit makes."""
    what = f"{shown(path)} has the name of work in progress, but quantkit did not make it"
    hint = "a link, a pipe, or another user's: look at it, and remove it"
    return NotWritableError(what, hint=hint, path=shown(path))


def _busy(lock: File) -> BusyError:
    said = memoryview(bytearray(HOLDER_BYTES))
    pid, _, host = bytes(said[: preadv(lock.fd, [said], 0)]).strip().partition(b" ")
    lock.close()
    holder = f"process {shown(pid)} on {shown(host)}" if pid and host else "another process"
    path = shown(lock.path.parent)
    message = f"{path} is in use by {holder}"
    return BusyError(message, hint="wait for it to end, or choose another output with -o", path=path)


def _journal_bytes(folder: JobFolder, run: str) -> int:
    try:
        return look(folder / f"{run}/{JOURNAL}").st_size
    except OSError:
        return -1
