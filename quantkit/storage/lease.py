"""Whose turn it is in a job folder, on file systems that several machines share and whose locks may mean nothing.

    .quantkit-9a0c51c27d10/
        lease-00000003           a process: host, boot, pid namespace, pid, when it began

The number is the fencing token: it is only ever counted up, and a number can be taken by one process alone, because the
file gets its name by an operation that refuses to replace. The highest number has the turn. Its owner touches the file
every 15 seconds. Another process takes the next number when the owner has certainly ended (same machine, no such
process any more), or when the file was not touched for two minutes; until then it is told who is at work.

A lease keeps two live processes from doing the same work; that nothing wrong is published does not rest on it. An owner
that was held up for so long that another one has its turn is fenced off: its run folder has another name by then
(claim.py), so that it gives no file a name and writes no record.

Ages are differences between two times that the file system gave: where its server does, the clock of neither machine
matters. Where the machine that writes does (Lustre), clocks that are two minutes apart make the lease mean nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantkit.errors import BusyError
from quantkit.platforms import DIRECTORY, NO_WAIT, SAFE, open_unlinked
from quantkit.storage.disk import UNSUPPORTED, Disk, File, anchored, is_at, look
from quantkit.storage.failures import shown
from quantkit.storage.owner import Owner, read_owner, this_process

RENEW_SECONDS = 15.0
EXPIRY_SECONDS = 120.0
LEASE = re.compile(r"lease-([0-9]{8,17})")
TEMPORARY = re.compile(r"\.quantkit-[0-9a-f]{16}\.tmp")
MAX_BYTES = 2000
ATTEMPTS = 100
NO_WAY = UNSUPPORTED | {errno.EPERM}  # neither renames that refuse to replace nor hard links


class Lease:
    """The turn of this process in a folder that is held open. A thread renews it until `release`."""

    def __init__(self, disk: Disk, folder: File, file: File) -> None:
        """Use `take_lease`. `file` is the lease, open, under its name."""
        self._disk, self._folder, self._file = disk, folder, file
        self._number = max(_numbers_of([file.path.name]))
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew, name="quantkit-lease", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken the turn, as of the last renewal: no call of the file system."""
        return self._lost

    def is_held(self) -> bool:
        """Whether the turn is still ours, as the file system says now."""
        try:
            self._lost = self._lost or not is_at(self._file, self._file.path) or _highest(self._folder) > self._number
        except OSError:
            return False
        return not self._lost

    def release(self) -> None:
        """Give the turn back."""
        self._ended.set()
        self._thread.join()
        _abandon(self._disk, self._file)

    def _renew(self) -> None:
        """Touch the lease from time to time; not counted by tests of faults, for the clock says when it happens."""
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(OSError):
                if self.is_held():
                    os.utime(self._file.fd)


def take_lease(disk: Disk, folder: File) -> Lease:
    """Take the turn in a job folder. Raises BusyError, naming process and host, while another process has it;
    FileNotFoundError when the folder was removed meanwhile."""
    for _ in range(ATTEMPTS):
        with _candidate(disk, folder) as candidate:
            number = _free_number(folder, os.fstat(candidate.fd).st_mtime)
            try:
                file = _named(disk, candidate, anchored(folder, _name(number)))
            except (FileExistsError, FileNotFoundError):
                if not _is_there(folder):
                    raise
                continue  # another process was faster, or swept the candidate
        if _highest(folder) == number:
            _remove_older(disk, folder, number)
            return Lease(disk, folder, file)
        _abandon(disk, file)  # a number that had been given back, while others counted on
    raise BusyError(f"{shown(folder.path)} keeps changing hands", hint="try again", path=shown(folder.path))


def sweep_candidates(disk: Disk, folder: File) -> None:
    """Remove what killed processes left of leases that never were: only who has the turn may do so."""
    for name in folder.names():
        if TEMPORARY.fullmatch(name):
            disk.remove(anchored(folder, name))


@contextmanager
def _candidate(disk: Disk, folder: File) -> Iterator[File]:
    """A lease without a number, whole. It has lost this name when it has a number; else it is removed."""
    name = anchored(folder, f".quantkit-{os.urandom(8).hex()}.tmp")
    file = disk.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        disk.write(file, memoryview(this_process().encode()), 0)
        disk.sync(file)  # after a power loss it still says whose it was
        yield file
    finally:
        with suppress(OSError):
            disk.remove(name)
        os.close(file.fd)


def _named(disk: Disk, candidate: File, path: Path) -> File:
    """A candidate under its number. Raises FileExistsError, FileNotFoundError, OSError."""
    file = File(os.dup(candidate.fd), path)
    try:
        disk.move(candidate.path, path, overwrite=False)
    except OSError as error:
        _abandon(disk, file)
        if error.errno not in NO_WAY:
            raise
    except BaseException:
        _abandon(disk, file)
        raise
    else:
        return file
    file = disk.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)  # whole only a moment later: until then its age counts
    try:
        disk.write(file, memoryview(this_process().encode()), 0)
    except BaseException:
        _abandon(disk, file)
        raise
    return file


def _free_number(folder: File, now: float) -> int:
    """The number after the highest, whose owner has ended or let it run out; else BusyError."""
    highest = _highest(folder)
    if highest == 0:
        return 1
    try:
        fd = open_unlinked(_name(highest), os.O_RDONLY | SAFE | NO_WAIT, folder.fd)
    except OSError:  # given back just now, or nothing that a process could hold
        return highest + 1
    try:
        facts, data = os.fstat(fd), b""
        if stat.S_ISREG(facts.st_mode):
            data = os.read(fd, MAX_BYTES)
    finally:
        os.close(fd)
    age, owner = now - facts.st_mtime, read_owner(data)
    if not stat.S_ISREG(facts.st_mode) or abs(age) > EXPIRY_SECONDS or (owner is not None and owner.has_ended):
        return highest + 1
    raise _busy(folder, owner, EXPIRY_SECONDS - age)


def _busy(folder: File, owner: Owner | None, seconds: float) -> BusyError:
    holder = f"process {owner.pid} on {shown(owner.host)}" if owner else "another process"
    path = shown(folder.path)
    hint = "wait for it to end, or choose another output with -o"
    if owner is not None and owner.host != this_process().host:
        hint += f"; if that machine is gone, its work is free to be continued in {max(seconds, 1):.0f} s"
    return BusyError(f"{path} is in use by {holder}", hint=hint, path=path)


def _abandon(disk: Disk, file: File) -> None:
    """Remove a lease, if this is still the file of that name, and close it; what cannot be removed has run out."""
    try:
        with suppress(OSError):
            if is_at(file, file.path):
                os.utime(file.fd, (0, 0))
                disk.remove(file.path)
    finally:
        os.close(file.fd)


def _name(number: int) -> str:
    return f"lease-{number:08d}"


def _numbers(folder: File) -> list[int]:
    again = os.open(".", os.O_RDONLY | DIRECTORY | SAFE, dir_fd=folder.fd)  # threads share the place in one
    try:
        return _numbers_of(os.listdir(again))  # noqa: PTH208
    finally:
        os.close(again)


def _numbers_of(names: Iterable[str]) -> list[int]:
    return [int(found[1]) for found in map(LEASE.fullmatch, names) if found]


def _highest(folder: File) -> int:
    return max(_numbers(folder), default=0)


def _remove_older(disk: Disk, folder: File, number: int) -> None:
    for other in _numbers(folder):
        if other < number:
            with suppress(OSError):  # a folder of that name, say: it is in nobody's way
                disk.remove(anchored(folder, _name(other)))


def _is_there(folder: File) -> bool:
    """Whether an open folder still has its name."""
    with suppress(OSError):
        return os.path.samestat(look(folder.path), os.fstat(folder.fd))
    return False
