"""Single files: read and hash them, write small ones atomically, keep SHA256SUMS."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from quantkit.errors import BusyError, ExistsError, InputError, NotWritableError, ResourceError
from quantkit.platforms import (
    DIRECTORY,
    FOLDERS_OPEN,
    MOVES_OPEN_FILES,
    NO_WAIT,
    SAFE,
    allocated_bytes,
    is_mine,
    readv,
)
from quantkit.storage.disk import Anchored, Disk, File, Ops, is_own, look, open_at
from quantkit.storage.failures import explained, free_bytes, shown
from quantkit.storage.faults import from_environment

READ_BYTES = 4 << 20
SUMS = "SHA256SUMS"
MAX_SUMS_BYTES = 64 << 20
LOCK_SECONDS = 30.0
ATTEMPTS = 5
TEMPORARY = ".quantkit-{}.tmp"
GUARD = ".quantkit-sums.lock"
# Gone meanwhile, another user's, or a link, folder, socket or device.
NO_STRAY = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV})
STRAY = re.compile(r"\.quantkit-[0-9a-f]{16}\.tmp")
PROBE = re.compile(r"\.quantkit-[0-9a-f]{16}\.probe")
PROBE_S = 120.0  # longer than anybody waits for what others see

_SUM_LINE = re.compile(rb"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}  # coreutils sha256sum


def preflight(folder: Path, needed: int) -> None:
    """Check that `needed` bytes fit on the disk of `folder`, which need not exist; nothing is created.

    Blocks that files inside the folder already occupy count as there: a job to be resumed needs only its rest.
    Raises ResourceError with the numbers.
    """
    with explained(folder, needed):
        allocated = 0 if folder.is_symlink() else sum(allocated_bytes(p.lstat()) for p in folder.rglob("*"))
        missing, free = max(needed - allocated, 0), free_bytes(folder)
    if missing > free:
        place = shown(folder.parent)
        message = f"not enough disk at {place}: {missing:,} bytes needed, {free:,} free ({missing - free:,} short)"
        raise ResourceError(message, hint="free some space or choose another disk with -o", path=place)


def open_regular(path: Path) -> File:
    """Open a regular file for reading. Raises InputError when it is missing, unreadable or something else.

    Symbolic links are followed, but for a path below a folder that is held open; a pipe or device is refused without
    waiting for it.
    """
    try:
        anchored = isinstance(path, Anchored)
        fd = open_at(path, os.O_RDONLY) if anchored else os.open(path, os.O_RDONLY | SAFE | NO_WAIT)
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {error.strerror}", path=shown(path)) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(f"cannot read {shown(path)}: not a regular file", path=shown(path))
    return File(fd, path)


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 (hex) of a file, read once in 4 MiB pieces; `on_bytes` is told the length of each.

    Raises InputError when it cannot be read.
    """
    file = open_regular(path)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_BYTES))
    try:
        while count := readv(file.fd, [buffer]):
            digest.update(buffer[:count])
            if on_bytes is not None:
                on_bytes(count)
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {error.strerror}", path=shown(path)) from error
    finally:
        os.close(file.fd)
    return digest.hexdigest()


def holds(path: Path, nbytes: int, sha256: str) -> bool:
    """Whether `path` is a regular file of this size and hash."""
    try:
        facts = look(path) if isinstance(path, Anchored) else path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size == nbytes and hash_file(path) == sha256


def write_small(path: Path, data: bytes, *, overwrite: bool, ops: Ops | None = None) -> None:
    """Write a file at once: readers see all of it or what was there before, also after a power loss.

    Missing folders are made. Without `overwrite`, a file with the same bytes is left as it is and anything else at
    `path` raises ExistsError. With it, a symbolic link at `path` is replaced, not followed. What a killed process
    left is removed. Raises NotWritableError and ResourceError.
    """
    disk = Disk(ops or from_environment())
    with explained(path.parent, len(data)):
        disk.make_folders(path.parent)
        _sweep(disk, path.parent)
        for attempt in range(ATTEMPTS):
            try:
                _write_beside(disk, path, data, overwrite)
            except FileNotFoundError:  # swept by another process, on a file system without locks
                if attempt == ATTEMPTS - 1:
                    raise
            except FileExistsError:
                if not holds(path, len(data), hashlib.sha256(data).hexdigest()):
                    raise exists(path) from None
                return
            else:
                return


@contextmanager
def probe_file(folder: Path) -> Iterator[tuple[Path, str]]:
    """A small file with a text that nobody else knows, for other machines to look for, while the context is open.

    It needs a name, so a killed process leaves it; the next probe takes away those that are too old to be in use, by
    the clock of the file system.
    """
    text = os.urandom(16).hex()
    path = folder / f".quantkit-{text[:16]}.probe"
    write_small(path, text.encode(), overwrite=False)
    disk = Disk(from_environment())
    try:
        _sweep_probes(disk, path)
        yield path, text
    finally:
        with explained(folder, 0):
            disk.remove(path)


def _sweep_probes(disk: Disk, own: Path) -> None:
    """Remove probes that nobody asks for any more: much older than our own."""
    with suppress(OSError):
        now = look(own).st_mtime
        for path in own.parent.iterdir():
            if PROBE.fullmatch(path.name):
                with suppress(OSError):  # gone meanwhile, or another user's
                    if now - look(path).st_mtime > PROBE_S:
                        disk.remove(path)


def require_small(path: Path, *, ops: Ops | None = None) -> None:
    """Raise what `write_small` with `overwrite` would raise for a place that takes no file: for before long work.

    Missing folders are made.
    """
    disk = Disk(ops or from_environment())
    with explained(path.parent, 0):
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        disk.make_folders(path.parent)
        name = path.parent / TEMPORARY.format(os.urandom(8).hex())
        try:
            temporary = disk.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileNotFoundError as error:  # the folder is there, and takes none: /proc
            what, hint = f"cannot write {shown(path)}: {shown(path.parent)} takes no files", "choose another folder"
            raise NotWritableError(what, hint=hint, path=shown(path)) from error
        os.close(temporary.fd)
        disk.remove(temporary.path)


def open_log(path: Path) -> IO[str]:
    """Open a log for appending lines of UTF-8 text; each line is in the file when it ends. Missing folders are made.
    Raises NotWritableError."""
    with explained(path.parent, 0):
        Disk(from_environment()).make_folders(path.parent)
        return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)


def exists(path: Path) -> ExistsError:
    """The error for something else at the place of an output."""
    what = "is a symbolic link to nowhere" if path.is_symlink() and not path.exists() else "exists and differs"
    message = f"{shown(path)} {what}"
    return ExistsError(message, hint="choose another output with -o, or replace it with --force", path=shown(path))


def update_sums(
    folder: Path, entries: Mapping[str, str], *, drop: Collection[str] = (), ops: Ops | None = None
) -> None:
    """Merge {file name: SHA-256 hex} into folder/SHA256SUMS, which `sha256sum -c` reads. Names are relative.

    Lines are sorted by name; names to `drop` go, other names and lines that are not sums stay. Concurrent calls wait
    for each other where the file system has locks; elsewhere one may miss the other's lines, which a rerun adds.
    Raises BusyError after 30 s of waiting, NotWritableError and ResourceError.
    """
    disk = Disk(ops or from_environment())
    path = folder / SUMS
    with explained(folder, sum(len(name) + 67 for name in entries)):
        disk.make_folders(folder)
        guard = _guard(disk, folder)
        try:
            _wait(disk, guard)
            before = _read_sums(path)
            after = _merged(before, entries, drop)
            if after != before:
                write_small(path, after, overwrite=True, ops=disk.ops)
        finally:
            os.close(guard.fd)
            if not FOLDERS_OPEN:
                with suppress(OSError):  # another process waits for it
                    disk.remove(guard.path)


def _guard(disk: Disk, folder: Path) -> File:
    """What is locked while SHA256SUMS is written: the folder; a file in it where folders cannot be opened."""
    if FOLDERS_OPEN:
        return File(disk.run(folder, os.open, folder, os.O_RDONLY | DIRECTORY | SAFE), folder)
    return disk.open(folder / GUARD, os.O_RDWR | os.O_CREAT)


def remove_file(path: Path, *, ops: Ops | None = None) -> None:
    """Remove a file, durably, where there is one. Raises NotWritableError, ResourceError."""
    disk = Disk(ops or from_environment())
    with explained(path.parent, 0):
        disk.remove(path)
        disk.sync_folder(path.parent)


def sums_after(folder: Path, entries: Mapping[str, str], *, drop: Collection[str] = ()) -> bytes:
    """What `update_sums` would leave in folder/SHA256SUMS."""
    with explained(folder, 0):
        return _merged(_read_sums(folder / SUMS), entries, drop)


def _write_beside(disk: Disk, path: Path, data: bytes, overwrite: bool) -> None:
    temporary = disk.open(path.parent / TEMPORARY.format(os.urandom(8).hex()), os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with ExitStack() as held:
        held.callback(disk.remove, temporary.path)
        with ExitStack() as opened:
            opened.callback(os.close, temporary.fd)
            disk.lock(temporary)  # tells _sweep that this file is in use
            disk.write(temporary, memoryview(data), 0)
            disk.sync(temporary)
            if not MOVES_OPEN_FILES:
                opened.close()
            disk.move(temporary.path, path, overwrite=overwrite)
            disk.sync_folder(path.parent)


def write_through(disk: Disk, part: Path, path: Path, data: bytes) -> None:
    """Write a small file at `part`, in a folder that may be taken away, and give it the name `path`, replacing what is
    there. Raises FileNotFoundError when `part` has gone meanwhile, OSError."""
    disk.remove(part)  # of a run that was killed here
    file = disk.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        disk.write(file, memoryview(data), 0)
        disk.sync(file)
    finally:
        os.close(file.fd)
    disk.move(part, path, overwrite=True)
    disk.sync_folder(path.parent)


def _sweep(disk: Disk, folder: Path) -> None:
    """Remove temporary files whose writers are dead: nobody holds their lock.

    What has such a name and is nothing that `_write_beside` makes stays where it is.
    """
    for path in folder.iterdir():
        if not STRAY.fullmatch(path.name):
            continue
        try:
            stray = disk.open(path, os.O_RDWR)
        except OSError as error:
            if error.errno in NO_STRAY:
                continue
            raise
        try:
            dead = is_own(stray) and is_mine(os.fstat(stray.fd)) and disk.lock(stray)
            if dead and MOVES_OPEN_FILES:
                disk.remove(path)
        finally:
            os.close(stray.fd)
        if dead and not MOVES_OPEN_FILES:
            with suppress(OSError):  # whoever writes it has it open, and it stays
                disk.remove(path)


def _wait(disk: Disk, guard: File) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while not disk.lock(guard):
        if time.monotonic() > deadline:
            raise BusyError(f"{shown(guard.path)} is locked by another process", path=shown(guard.path))
        time.sleep(0.01)


def _read_sums(path: Path) -> bytes:
    """The bytes of SHA256SUMS, b"" where there is none. Raises NotWritableError for a link, a pipe, a giant."""
    file = _open_sums(path)
    if file is None:
        return b""
    try:
        with os.fdopen(os.dup(file.fd), "rb") as stream:
            return stream.read(MAX_SUMS_BYTES)
    finally:
        os.close(file.fd)


def _open_sums(path: Path) -> File | None:
    try:
        fd = open_at(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _no_sums(path) from error
        raise
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_SUMS_BYTES:
        os.close(fd)
        raise _no_sums(path)
    return File(fd, path)


def _no_sums(path: Path) -> NotWritableError:
    what = f"{shown(path)} is not a checksum file: a link, a folder, a pipe, or too large"
    return NotWritableError(what, hint="move it away", path=shown(path))


def require_sums(folder: Path) -> None:
    """Raise NotWritableError, before any work, when what has the name SHA256SUMS in `folder` cannot be continued."""
    with explained(folder, 0), suppress(NotADirectoryError):
        file = _open_sums(folder / SUMS)
        if file is not None:
            os.close(file.fd)


def read_sums(folder: Path) -> dict[bytes, list[str]] | None:
    """What folder/SHA256SUMS says: the hashes of each file name, as written. None where there is no such file.

    Raises NotWritableError for something else in its place.
    """
    with explained(folder, 0):
        file = _open_sums(folder / SUMS)
        if file is None:
            return None
        os.close(file.fd)
        found: dict[bytes, list[str]] = {}
        for line in _read_sums(folder / SUMS).split(b"\n"):
            match = _SUM_LINE.fullmatch(line)
            if match:
                name = _unescaped(match[3]) if match[1] else match[3]
                found.setdefault(name, []).append(match[2].decode("ascii"))
        return found


def _merged(before: bytes, entries: Mapping[str, str], drop: Collection[str]) -> bytes:
    sums: dict[bytes, bytes] = {}
    others: list[bytes] = []
    for line in before.split(b"\n"):
        match = _SUM_LINE.fullmatch(line)
        if match:
            sums[match[3] if match[1] else _escaped(match[3])] = match[2]
        elif line:
            others.append(line)
    gone = {_escaped(os.fsencode(name)) for name in drop}
    sums = {name: sha256 for name, sha256 in sums.items() if name not in gone}
    sums |= {_escaped(os.fsencode(name)): sha256.encode("ascii") for name, sha256 in entries.items()}
    lines = [b"%b%b  %b" % (b"\\" if b"\\" in name else b"", sha256, name) for name, sha256 in sorted(sums.items())]
    return b"".join(line + b"\n" for line in [*lines, *others])


def _unescaped(name: bytes) -> bytes:
    back = {escape: plain for plain, escape in _ESCAPES.items()}
    return re.sub(rb"\\[\\nr]", lambda match: back[match[0]], name)


def _escaped(name: bytes) -> bytes:
    return re.sub(rb"[\\\n\r]", lambda match: _ESCAPES[match[0]], name)
