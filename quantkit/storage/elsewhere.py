"""What stands for calls of Unix that a system lacks, and the set of what a job has open.

Nothing here is used on Linux but `OpenFiles`. tests/install/test_platforms.py runs all of it, in a process that has
nothing of what Windows has not; on Windows itself it was not run.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol, TypeVar

from quantkit.platforms import TURN, optional

LOCKED_BYTE = 0x7FFF0000  # nobody else can read a byte that is locked, so it lies behind all that is written
fcntl, msvcrt = optional("fcntl"), optional("msvcrt")


def _pwrite(fd: int, data: memoryview, offset: int) -> int:
    """pwrite(2) where there is none."""
    with TURN:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


_pwrite.__name__ = "pwrite"  # fault injection knows calls by their names
pwrite = getattr(os, "pwrite", _pwrite)


def lock_byte(fd: int) -> None:
    """The lock of a file on Windows, which is on a byte of it. Raises BlockingIOError when another process holds it,
    OSError where there are no locks."""
    if msvcrt is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    with TURN:
        os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error


class LockAlone:
    """The turn in a job folder where a lease cannot get its name, because an open file cannot be renamed. The lock
    says whose turn it is: that of Windows holds on every file system that it knows."""

    is_lost = False

    def is_held(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing: the lock goes with its file."""


class _Descriptor(Protocol):
    @property
    def fd(self) -> int: ...


Opened = TypeVar("Opened", bound=_Descriptor)


class OpenFiles:
    """Descriptors that are open, each closed once: with the others, or before, where only a closed file can move."""

    def __init__(self) -> None:
        self._descriptors: set[int] = set()

    def keep(self, file: Opened) -> Opened:
        """A file that is open, to be closed with the others."""
        self._descriptors.add(file.fd)
        return file

    def close(self, fd: int) -> None:
        if fd in self._descriptors:
            self._descriptors.discard(fd)
            os.close(fd)

    def close_all(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
