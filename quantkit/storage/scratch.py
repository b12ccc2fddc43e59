"""Arrays too large for memory, in files that have no name: whatever ends the process, the disk space comes back."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.errors import ResourceError
from quantkit.platforms import FOLDERS_OPEN, TEMPORARY
from quantkit.records import record
from quantkit.storage.disk import UNSUPPORTED, Disk, File, Ops
from quantkit.storage.failures import explained, shown
from quantkit.storage.faults import from_environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    U8 = NDArray[np.uint8]

ZEROS = 1 << 20  # bytes of a write that allocates
O_TMPFILE = getattr(os, "O_TMPFILE", 0)  # Linux only
CHUNK_BYTES, ALIGNED = 16 << 20, 64  # small arrays share a file, each at a multiple
NAMELESS_UNKNOWN = UNSUPPORTED | {errno.EISDIR, errno.ENOENT}  # open(2): what a kernel without O_TMPFILE says


@record
class Scratch:
    """Where large arrays go: memory for those of at most `memory_bytes`, files in `folder` for others.

    Without a folder, larger ones are refused.
    """

    memory_bytes: int
    folder: Path | None = None
    maps: list[weakref.ref[mmap.mmap]] = field(default_factory=list)

    def new(self, nbytes: int) -> U8:
        """A writable uint8 array (nbytes,), its values undefined; the space is free again when it is dropped.

        Raises ResourceError where neither memory nor disk has so much, NotWritableError for the folder.
        """
        import numpy as np

        if nbytes <= self.memory_bytes:
            return np.empty(nbytes, np.uint8)
        if self.folder is None:
            message = f"activations take {nbytes:,} bytes, {self.memory_bytes:,} bytes of memory may be used"
            raise ResourceError(message, hint="use --activations disk, fewer --samples or a smaller --seqlen")
        mapped = scratch_file(self.folder, nbytes)
        self.maps.append(weakref.ref(mapped))
        return np.frombuffer(mapped, np.uint8)

    def settle(self) -> None:
        """Give back the memory that mapped files occupy; what was written to them stays. Not while others use them."""
        for reference in self.maps:
            mapped = reference()
            if mapped is not None and hasattr(mapped, "madvise"):
                mapped.madvise(mmap.MADV_DONTNEED)  # of a shared mapping this drops no data: the file has it


class Room:
    """Memory for arrays of `nbytes` bytes all together, and nameless files in `folder` for what is beyond. Of an array
    that is dropped the memory is free again. Safe to share between threads."""

    def __init__(self, nbytes: int, folder: Path | None = None) -> None:
        self._left = nbytes
        self._files = Scratch(0, folder)
        self._chunk: U8 | None = None
        self._at = 0
        self._lock = threading.RLock()  # a finalizer may run in a thread that holds it

    def fits(self, nbytes: int) -> bool:
        """Whether memory has so much left."""
        return nbytes <= self._left

    def new(self, nbytes: int) -> U8:
        """A writable uint8 array (nbytes,), its values undefined. Raises ResourceError where neither memory nor disk
        has so much, NotWritableError for the folder."""
        import numpy as np

        with self._lock:
            if not self.fits(nbytes):
                return self._in_file(nbytes)
            self._left -= nbytes
        made = np.empty(nbytes, np.uint8)
        weakref.finalize(made, self._give_back, nbytes)
        return made

    def settle(self) -> None:
        """Give back the memory that files occupy, as `Scratch.settle`."""
        self._files.settle()

    def _in_file(self, nbytes: int) -> U8:
        if self._chunk is None or self._at + nbytes > len(self._chunk):
            self._chunk, self._at = self._files.new(max(nbytes, CHUNK_BYTES)), 0
        made = self._chunk[self._at : self._at + nbytes]
        self._at += -(-nbytes // ALIGNED) * ALIGNED
        return made

    def _give_back(self, nbytes: int) -> None:
        with self._lock:
            self._left += nbytes


def scratch_file(folder: Path, nbytes: int, *, ops: Ops | None = None) -> mmap.mmap:
    """A mapped file of `nbytes` > 0 zeros in `folder` that has no name and goes with the mapping.

    Every block is allocated before this returns: writing into it cannot run out of disk. Raises ResourceError when
    the disk is too small, NotWritableError when the folder cannot be written.
    """
    disk = Disk(ops or from_environment())
    with explained(folder, nbytes):
        disk.make_folders(folder)
        file = _nameless(disk, folder.resolve())
        try:
            if hasattr(os, "posix_fallocate"):
                disk.run(file.path, os.posix_fallocate, file.fd, 0, nbytes)
            else:
                for start in range(0, nbytes, ZEROS):
                    disk.write(file, memoryview(bytes(min(ZEROS, nbytes - start))), start)
            return mmap.mmap(file.fd, nbytes)
        except ValueError as error:  # a file system that says yes and gives less
            message = f"{shown(folder)} cannot hold a file of {nbytes:,} bytes"
            raise ResourceError(message, path=shown(folder), hint="choose another disk") from error
        finally:
            os.close(file.fd)


def written_by(folder: Path, write: Callable[[Path], None]) -> bytes:
    """What `write`, a library that insists on a path, writes: it gets that of an open file in `folder` that has no name
    and leaves nothing behind. Raises NotWritableError, ResourceError."""
    disk = Disk(from_environment())
    with explained(folder, 0):
        if not FOLDERS_OPEN:  # Windows, where open files have no names of this kind either
            return _written_beside(disk, folder, write)
        file = _nameless(disk, folder.resolve())
        try:
            write(Path(f"/dev/fd/{file.fd}"))
            with os.fdopen(os.dup(file.fd), "rb") as stream:
                stream.seek(0)
                return stream.read()
        finally:
            os.close(file.fd)


def _written_beside(disk: Disk, folder: Path, write: Callable[[Path], None]) -> bytes:
    path = folder / f".quantkit-{os.urandom(8).hex()}.scratch"
    try:
        write(path)
        return path.read_bytes()
    finally:
        disk.remove(path)


def _nameless(disk: Disk, folder: Path) -> File:
    """An open file without a name. Where the file system cannot make one, its name is removed at once."""
    try:
        if O_TMPFILE:
            return disk.open(folder, os.O_RDWR | O_TMPFILE | os.O_EXCL)  # O_EXCL: may never get a name
    except OSError as error:
        if error.errno not in NAMELESS_UNKNOWN:
            raise
    name = folder / f".quantkit-{os.urandom(8).hex()}.scratch"
    file = disk.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | TEMPORARY)
    if not TEMPORARY:
        disk.remove(file.path)
    return file
