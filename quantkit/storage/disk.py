"""The system calls of quantkit: every byte it writes goes through `Disk`, and every call of `Disk` through `Ops`.

`Ops` is the seam for fault injection: tests replace it to fail, tear or count the n-th call, or to kill the process
before it. Below it is only the operating system; above it nothing knows that faults can be injected.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple

from quantkit.platforms import DIRECTORY, FOLDERS_OPEN, NO_WAIT, NOFOLLOW, RENAME_REFUSES, SAFE, open_unlinked, preadv
from quantkit.records import record
from quantkit.storage.elsewhere import fcntl, lock_byte, pwrite

Args = TypeVarTuple("Args")
Result = TypeVar("Result")

BUFFER_BYTES = 1 << 20  # what is read stays in a core's cache until it is hashed
RENAME_NOREPLACE, AT_FDCWD = 0x01, -100  # linux/fs.h, linux/fcntl.h
NO_DESCRIPTOR = -1  # of a folder, where folders have none
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})


class Ops(Protocol):
    """How a system call is made: `ops(call, *args)` returns `call(*args)`, unless it injects a fault."""

    def __call__(self, call: Callable[[*Args], Result], *args: *Args) -> Result: ...


def direct(call: Callable[[*Args], Result], *args: *Args) -> Result:
    """Make the call: the only `Ops` outside tests."""
    return call(*args)


@record
class File:
    """An open file descriptor and the path it was opened at, for messages.

    Of a folder it is NO_DESCRIPTOR where folders have none: what is in it is then reached by its path.
    """

    fd: int
    path: Path

    def close(self) -> None:
        if self.fd != NO_DESCRIPTOR:
            os.close(self.fd)

    def names(self) -> list[str]:
        """The names in a folder."""
        return os.listdir(self.path if self.fd == NO_DESCRIPTOR else self.fd)  # noqa: PTH208

    def facts(self) -> os.stat_result:
        """What the system says of it."""
        return look(self.path) if self.fd == NO_DESCRIPTOR else os.fstat(self.fd)


class Anchored(type(Path())):  # type: ignore[misc]  # PosixPath, or what the system has
    """A path below a folder that is held open. Calls go through the folder's descriptor, so that what somebody puts
    in the place of the folder meanwhile, a symbolic link above all, is not followed; the path itself is for messages.
    """

    folder: int | None = None
    below: str = ""


def anchored(folder: File, below: str) -> Path:
    """The path of something in an open folder; `below` is a name, or names of folders of our own and a name."""
    path = Anchored(folder.path / below)
    path.folder, path.below = None if folder.fd == NO_DESCRIPTOR else folder.fd, below
    return path


def _at(path: Path) -> tuple[str | Path, int | None]:
    """What openat(2) and its relatives are given: a name and a folder's descriptor, or a path."""
    if isinstance(path, Anchored) and path.folder is not None:
        return path.below, path.folder
    return path, None


def fallocate(fd: int, nbytes: int) -> None:
    """fallocate(2) from the start: where it is not supported, glibc's posix_fallocate writes into every block instead.

    Raises OSError, with ENOSYS outside Linux.
    """
    _libc_call("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(nbytes))


def rename_noreplace(source: Path, target: Path) -> None:
    """renameat2(2) with RENAME_NOREPLACE: rename, or FileExistsError when anything has that name.

    Raises OSError, with ENOSYS outside Linux.
    """
    (old, at), (new, to) = _at(source), _at(target)
    folders = [AT_FDCWD if folder is None else folder for folder in (at, to)]
    _libc_call("renameat2", folders[0], os.fsencode(old), folders[1], os.fsencode(new), RENAME_NOREPLACE)


def _libc_call(name: str, *args: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None) if fcntl is not None else None
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(*args) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def open_at(path: Path, flags: int) -> int:
    """open(2) with mode 0666, so that the umask decides; a symbolic link as last component is refused.

    It does not wait for the other end of a pipe.
    """
    name, folder = _at(path)
    return open_unlinked(name, flags | SAFE | NO_WAIT, folder)


def unlink(path: Path) -> None:
    name, folder = _at(path)
    os.unlink(name, dir_fd=folder)


def rmdir(path: Path) -> None:
    name, folder = _at(path)
    os.rmdir(name, dir_fd=folder)


def mkdir(path: Path, mode: int) -> None:
    name, folder = _at(path)
    os.mkdir(name, mode, dir_fd=folder)


def rename(source: Path, target: Path) -> None:
    (old, at), (new, to) = _at(source), _at(target)
    os.rename(old, new, src_dir_fd=at, dst_dir_fd=to)


def replace(source: Path, target: Path) -> None:
    (old, at), (new, to) = _at(source), _at(target)
    os.replace(old, new, src_dir_fd=at, dst_dir_fd=to)


def link(source: Path, target: Path) -> None:
    (old, at), (new, to) = _at(source), _at(target)
    os.link(old, new, src_dir_fd=at, dst_dir_fd=to)


def look(path: Path) -> os.stat_result:
    """lstat(2): nothing is followed."""
    name, folder = _at(path)
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link to nowhere included."""
    try:
        look(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_at(file: File, path: Path) -> bool:
    """Whether this open file still has this name."""
    try:
        facts = look(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(facts, file.facts())


def is_own(file: File) -> bool:
    """Whether an open file is what quantkit makes: a regular file with no second name that writes would reach."""
    facts = os.fstat(file.fd)
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1


@record
class Disk:
    """File operations made of system calls; each raises OSError that carries the path.

    Interrupted calls are repeated, short reads and writes continued. Descriptors are closed with os.close: what a
    close could report, the fsync before it has reported.
    """

    ops: Ops = direct

    def run(self, path: Path, call: Callable[[*Args], Result], *args: *Args) -> Result:
        """Make one system call about `path`."""
        while True:
            try:
                return self.ops(call, *args)
            except InterruptedError:
                continue
            except OSError as error:
                error.filename = error.filename or os.fspath(path)
                raise

    def open(self, path: Path, flags: int) -> File:
        return File(self.run(path, open_at, path, flags), path)

    def open_folder(self, path: Path) -> File:
        """Open a folder. Raises NotADirectoryError for anything else, a link to a folder included."""
        if not FOLDERS_OPEN:
            if not stat.S_ISDIR(self.run(path, look, path).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
            return File(NO_DESCRIPTOR, path)
        if isinstance(path, Anchored):
            return self.open(path, os.O_RDONLY | DIRECTORY)
        return File(self.run(path, os.open, path, os.O_RDONLY | DIRECTORY | NOFOLLOW | SAFE), path)

    def write(self, file: File, data: memoryview, offset: int) -> None:
        """Write all bytes at `offset`."""
        while data:
            written = self.run(file.path, pwrite, file.fd, data, offset)
            data, offset = data[written:], offset + written

    def append(self, file: File, data: bytes) -> None:
        """Write all bytes to a file opened with O_APPEND."""
        while data:
            data = data[self.run(file.path, os.write, file.fd, data) :]

    def read(self, file: File, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns the bytes read, fewer only at the end of the file."""
        done = 0
        while done < len(buffer):
            count = self.run(file.path, preadv, file.fd, [buffer[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def hash(self, file: File, offset: int, nbytes: int) -> str:
        """SHA-256 (hex) of up to `nbytes` bytes from `offset`, in constant memory."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(nbytes, BUFFER_BYTES)))
        end = offset + nbytes
        while offset < end:
            count = self.read(file, buffer[: end - offset], offset)
            if count == 0:
                break
            digest.update(buffer[:count])
            offset += count
        return digest.hexdigest()

    def sync(self, file: File) -> None:
        self.run(file.path, os.fsync, file.fd)
        if sys.platform == "darwin":  # fsync stops at the drive's cache there
            self.run(file.path, fcntl.fcntl, file.fd, fcntl.F_FULLFSYNC)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable; a no-op where folders cannot be synced."""
        if not FOLDERS_OPEN:
            return
        file = File(self.run(folder, os.open, folder, os.O_RDONLY | DIRECTORY | SAFE), folder)
        try:
            self.sync_open_folder(file)
        finally:
            file.close()

    def sync_open_folder(self, folder: File) -> None:
        """Make the names in a folder that is held open durable."""
        if folder.fd == NO_DESCRIPTOR:
            return
        try:
            self.run(folder.path, os.fsync, folder.fd)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise

    def sync_name(self, path: Path) -> None:
        """Make the name `path` durable; of a file in an open folder, and the folder's own name, too."""
        if isinstance(path, Anchored) and path.folder is not None:
            self.sync_open_folder(File(path.folder, path.parent))
            self.sync_folder(path.parent.parent)
        else:
            self.sync_folder(path.parent)

    def forget(self, file: File, offset: int, nbytes: int) -> None:
        """Start writing these bytes to the disk and drop clean ones from the page cache; 0 means to the end.

        The disk works while the processor does, instead of at the final fsync, and a later read sees the disk.
        """
        if hasattr(os, "posix_fadvise"):
            self.run(file.path, os.posix_fadvise, file.fd, offset, nbytes, os.POSIX_FADV_DONTNEED)

    def allocate(self, file: File, nbytes: int) -> None:
        """Give the file exactly `nbytes` bytes, with blocks behind all of them where the file system can do that."""
        try:
            self.run(file.path, fallocate, file.fd, nbytes)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        self.run(file.path, os.ftruncate, file.fd, nbytes)

    def lock(self, file: File) -> bool:
        """Take the advisory lock without waiting; False when another process holds it.

        True also where there are no locks to take: a lock saves work and waiting, nothing here is correct by it.
        """
        try:
            if fcntl is None:
                self.run(file.path, lock_byte, file.fd)
            else:
                self.run(file.path, fcntl.flock, file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def make_folders(self, folder: Path) -> None:
        """mkdir -p, durable."""
        if folder.is_dir():
            return
        self.make_folders(folder.parent)
        try:
            self.run(folder, mkdir, folder, 0o777)
        except FileExistsError:
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(folder)) from None
        self.sync_folder(folder.parent)

    def move(self, source: Path, target: Path, *, overwrite: bool) -> None:
        """Rename atomically. Raises FileExistsError without `overwrite` when the target is anything.

        Where renames cannot refuse to replace, a hard link does; where there is neither, OSError from link(2).
        """
        if overwrite:
            self.run(target, replace if isinstance(source, Anchored) else os.replace, source, target)
            return
        try:
            self.run(target, rename if RENAME_REFUSES else rename_noreplace, source, target)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self.run(target, link, source, target)
            self.remove(source)

    def remove(self, path: Path) -> None:
        """Unlink, if it is there."""
        with suppress(FileNotFoundError):
            self.run(path, unlink, path)

    def remove_tree(self, path: Path, ours: Callable[[str], bool] = lambda name: True) -> None:
        """Remove a folder and what is in it, as far as `ours` says so of the names in it.

        Nothing is followed: a symbolic link goes as what it is. What another process removes or adds meanwhile is its
        own affair, and a folder that is not empty then stays.
        """
        with suppress(FileNotFoundError), ExitStack() as held:
            folder = self.open_folder(path)
            held.callback(folder.close)
            for name in sorted(folder.names(), reverse=True):
                if not ours(name):
                    continue
                entry = anchored(folder, name)
                with suppress(FileNotFoundError):
                    if stat.S_ISDIR(look(entry).st_mode):
                        self.remove_tree(entry)
                    else:
                        self.remove(entry)
        try:
            self.run(path, rmdir, path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
