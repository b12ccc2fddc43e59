"""What operating systems do differently: the one place that knows which of them has what.

quantkit is made and tested on Linux. macOS is a Unix like it; Windows has no folders with descriptors, no reads and
writes at an offset, no owners of files as numbers, no limits of processes, and neither renames nor removes a file that
is open. Everything else asks here, or `storage.disk`, which writes; docs/install.md says what is lost where.

Each fact is asked of the system itself where that is possible, and not of its name.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def optional(name: str) -> Any:
    """A module that only some systems have; None on the others."""
    try:
        return import_module(name)
    except ImportError:
        return None


resource = optional("resource")

# Flags of open(2); those that a system lacks do nothing there.
CLOEXEC: int = getattr(os, "O_CLOEXEC", getattr(os, "O_NOINHERIT", 0))
NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
DIRECTORY: int = getattr(os, "O_DIRECTORY", 0)
BINARY: int = getattr(os, "O_BINARY", 0)  # Windows: else line ends are translated
TEMPORARY: int = getattr(os, "O_TEMPORARY", 0)  # Windows: the file goes when it is closed
SAFE = CLOEXEC | BINARY

FOLDERS_OPEN = os.open in os.supports_dir_fd  # whether a folder can be held open, and names looked up in it
MOVES_OPEN_FILES = sys.platform != "win32"  # whether an open file can be renamed and removed
RENAME_REFUSES = sys.platform == "win32"  # whether rename() refuses to replace, instead of replacing
LIMITS_PROCESSES = resource is not None  # whether a child process can be given limits of memory and time

FATAL: int = getattr(signal, "SIGKILL", signal.SIGTERM)  # ends a process at once; on Windows every signal does
OUT_OF_LIMITS = tuple(-getattr(signal, name) for name in ("SIGXCPU", "SIGKILL") if hasattr(signal, name))

TURN = threading.Lock()  # a position that all threads share, where there are no reads and writes at an offset


def open_unlinked(path: os.PathLike[str] | str, flags: int, folder: int | None = None) -> int:
    """open(2) with mode 0666, so that the umask decides; a symbolic link as last component is refused.

    Where no flag says so, the link is looked for before: one that appears in between is followed there.
    """
    if not NOFOLLOW and Path(path).is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return os.open(path, flags | NOFOLLOW, 0o666, dir_fd=folder)


def _preadv(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """preadv(2) into the first of the buffers."""
    with TURN:
        os.lseek(fd, offset, os.SEEK_SET)
        return _readv(fd, buffers)


def _readv(fd: int, buffers: Sequence[Any]) -> int:
    """readv(2) into the first of the buffers."""
    data = os.read(fd, len(buffers[0]))
    buffers[0][: len(data)] = data
    return len(data)


_preadv.__name__, _readv.__name__ = "preadv", "readv"  # fault injection knows calls by their names
preadv = getattr(os, "preadv", _preadv)
readv = getattr(os, "readv", _readv)


def user_ids() -> frozenset[int] | None:
    """The numbers under which files of this user are known; None where files have no such owner."""
    if not hasattr(os, "geteuid"):
        return None
    return frozenset({os.getuid(), os.geteuid()})


def is_mine(facts: os.stat_result) -> bool:
    """Whether a file belongs to this user: true where files have no owner by number."""
    return not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()


def is_administrator() -> bool:
    """Whether this process may do everything, as root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def user_label() -> str:
    """What tells this user from others in the name of a folder that all share."""
    return str(os.geteuid()) if hasattr(os, "geteuid") else os.environ.get("USERNAME", "user")


def node_name() -> str:
    """The name of this machine."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


def allocated_bytes(facts: os.stat_result) -> int:
    """Bytes of the disk that a file occupies; its length where the system does not say."""
    blocks: int | None = getattr(facts, "st_blocks", None)
    return facts.st_size if blocks is None else blocks * 512


def address_limit() -> int | None:
    """The soft limit of this process on addresses (ulimit -v), None without any."""
    return _limit(0)


def highest_address_limit() -> int | None:
    """The hard limit of this process on addresses, None without any."""
    return _limit(1)


def _limit(which: int) -> int | None:
    if resource is None:
        return None
    limit: int = resource.getrlimit(resource.RLIMIT_AS)[which]
    return None if limit == resource.RLIM_INFINITY else limit


def may_run(pid: int) -> bool:
    """Whether a process of this machine may still run: false only of one that is certainly gone. Windows does not say;
    there, signal 0 ends a process."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def interrupt() -> None:
    """Interrupt the main thread of this process, as Ctrl-C does."""
    if sys.platform == "win32":  # where os.kill ends the process, whatever the signal
        import _thread

        _thread.interrupt_main(signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)
