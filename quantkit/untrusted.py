"""Files and JSON from outside: opened, bounded and shown safely, before anything believes what they say."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from quantkit.blocksums import BlockSums
from quantkit.errors import InputError, QuantkitError, ResourceError
from quantkit.jsontext import LongNumber
from quantkit.placeholders import HEAD_BYTES, placeholder
from quantkit.platforms import NO_WAIT, SAFE, open_unlinked, preadv
from quantkit.records import record
from quantkit.tensors import U8

SHOWN_CHARACTERS = 120
READ_BYTES = 1 << 30  # one system call reads at most 2 GiB - 4 KiB
INT_DIGITS = 308  # as many as a float holds: every integer read can be turned into one


def shown(text: str | bytes | os.PathLike[str], limit: int = SHOWN_CHARACTERS) -> str:
    """`text` fit for a terminal: control, bidirectional and undecodable characters escaped, long text cut."""
    plain = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else os.fspath(text)
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain[:limit])
    return safe if len(plain) <= limit else f"{safe}... ({len(plain):,} characters)"


def listed(names: list[str], limit: int = 5) -> str:
    """The first names of a list, safe to show, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(shown(name) for name in names[:limit]) + more


@record
class Stamp:
    """What tells one state of a file from another without reading it."""

    device: int
    inode: int
    nbytes: int
    mtime_ns: int
    ctime_ns: int = 0  # which no program can put back


class Kept(Protocol):
    """What is kept of a file that has several readers, so that it is read once."""

    def read(self, start: int, stop: int, fresh: Callable[[int, int], U8]) -> U8:
        """Bytes [start, stop), of which `fresh` reads those that are not there."""
        ...


@dataclass
class Watch:
    """The sums of a file while it is watched, and what is kept of it while somebody does, else None."""

    sums: BlockSums | None = None
    kept: Kept | None = None


class Elsewhere(Protocol):
    """The bytes of a file that lies on another machine, where they cannot change."""

    def read(self, start: int, stop: int) -> U8: ...

    def settle(self) -> None:
        """The header was read; whatever is read from now on are weights."""
        ...

    def close(self) -> None: ...


@record
class InputFile:
    """A regular file, opened once. Every read goes through this descriptor and is checked for its length.

    Reads copy (pread), they do not map: a file cut short while it is read is then an InputError, not a bus error.
    While it is watched, every byte that is read a second time must be what it was. Safe to share between threads.
    `handle` of a file on another machine fetches what is read; it has no descriptor.
    """

    path: Path
    stamp: Stamp
    handle: FileIO | Elsewhere
    watched: Watch = field(default_factory=Watch, compare=False)

    @property
    def nbytes(self) -> int:
        return self.stamp.nbytes

    def read(self, start: int, stop: int) -> U8:
        """Bytes [start, stop) as uint8 that nobody else holds. Raises InputError if the file has them no more."""
        self._require(start, stop)
        kept = self.watched.kept
        return self._compared(start, stop) if kept is None else kept.read(start, stop, self._compared)

    def read_apart(self, start: int, stop: int) -> U8:
        """The same from the file itself, whatever is kept of it."""
        self._require(start, stop)
        return self._compared(start, stop)

    def _require(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.nbytes:
            raise InputError(
                f"{shown(self.path)} has {self.nbytes:,} bytes, bytes {start:,} to {stop:,} were wanted",
                path=str(self.path),
                hint="the file is truncated: fetch it again",
            )

    def _compared(self, start: int, stop: int) -> U8:
        sums = self.watched.sums
        if sums is None:
            return self._read(start, stop)
        first, last = sums.around(start, stop, self.nbytes)
        data = self._read(first, last)
        if not sums.agree(first, data):
            self._raise_changed("bytes that were read before are others now")
        return data[start - first : stop - first]

    @contextmanager
    def watch(self, since: InputFile | None = None) -> Iterator[None]:
        """Compare what is read from now on with what was read of the same bytes, until the context ends. What was read
        `since` the same file was opened for the first time, and watched, counts."""
        self.watched.sums = BlockSums(self.nbytes) if since is None else since.watched.sums
        try:
            yield
        finally:
            self.watched.sums = None

    @property
    def is_distant(self) -> bool:
        """Whether it lies on another machine."""
        return not isinstance(self.handle, FileIO)

    def settle(self) -> None:
        """Say that its header was read: whatever is read of a distant file from now on are weights."""
        if not isinstance(self.handle, FileIO):
            self.handle.settle()

    @property
    def descriptor(self) -> int:
        """The number of the open file. Only of one on this machine."""
        assert isinstance(self.handle, FileIO), self.path
        return self.handle.fileno()

    def _read(self, start: int, stop: int) -> U8:
        if not isinstance(self.handle, FileIO):
            return self.handle.read(start, stop)
        out = np.empty(stop - start, np.uint8)
        done = 0
        try:
            while done < out.size:
                count = preadv(self.descriptor, [out.data[done : done + READ_BYTES]], start + done)
                if count == 0:
                    self._raise_changed(f"it ends at byte {start + done:,} now")
                done += count
        except OSError as error:
            raise _reading_error(self.path, error) from error
        return out

    def unchanged(self) -> None:
        """Raise InputError if the file, or what its path leads to, is not what was opened."""
        if not isinstance(self.handle, FileIO):
            return
        try:
            now, opened = _stamp(self.path.stat()), _stamp(os.fstat(self.descriptor))
        except OSError as error:
            raise _reading_error(self.path, error) from error
        for found in (opened, now):
            if found != self.stamp:
                self._raise_changed(f"size {self.stamp.nbytes:,} then, {found.nbytes:,} now")

    def _raise_changed(self, how: str) -> NoReturn:
        raise InputError(
            f"{shown(self.path)} changed while it was read: {how}",
            path=str(self.path),
            hint="run again when nothing else writes to it",
        )

    def close(self) -> None:
        self.handle.close()


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _reading_error(path: Path, error: OSError) -> QuantkitError:
    where = shown(path)
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return ResourceError(f"too many open files at {where}", path=str(path), hint="raise the limit: ulimit -n 4096")
    reasons = {
        errno.ENOENT: ("does not exist", "check the path"),
        errno.ELOOP: ("is a symbolic link that may not be followed here", "put the file itself there"),
        errno.EACCES: ("may not be read", "check its permissions"),
        errno.ENAMETOOLONG: ("is not a possible file name", "check the path"),
    }
    reason, hint = reasons.get(error.errno or 0, (f"cannot be read: {error.strerror}", "check the disk"))
    return InputError(f"{where} {reason}", path=str(path), hint=hint)


def require_path(path: Path) -> None:
    """Raise InputError for a path that the system does not even look up: too long a name, a loop, no permission.

    A path that merely leads nowhere passes: whoever opens it says so.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _reading_error(path, error) from error


def open_input(path: Path, *, follow: bool = True) -> InputFile:
    """Open a regular file for reading; with `follow` False a symbolic link as last component is refused.

    Raises InputError for a missing file, a folder, a pipe, a device or a socket, without blocking on any of them, and
    for a Git LFS pointer or a web page in the place of the file.
    """
    flags = os.O_RDONLY | SAFE | NO_WAIT
    try:
        descriptor = os.open(path, flags) if follow else open_unlinked(path, flags)
    except OSError as error:
        raise _reading_error(path, error) from error
    except ValueError as error:  # a NUL byte in the path
        raise InputError(
            f"{shown(path)} is not a possible file name", path=shown(path), hint="check the path"
        ) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        hint = "name the file" if stat.S_ISDIR(status.st_mode) else "copy the data to a file"
        raise InputError(f"{shown(path)} is {kind}, not a regular file", path=str(path), hint=hint)
    source = InputFile(path, _stamp(status), FileIO(descriptor))
    _require_itself(source)
    return source


def distant_input(path: Path, nbytes: int, elsewhere: Elsewhere) -> InputFile:
    """A file on another machine, of so many bytes; `path` is where it would lie here. Raises as `open_input`."""
    source = InputFile(path, Stamp(0, 0, nbytes, 0), elsewhere)
    _require_itself(source)
    return source


def _require_itself(source: InputFile) -> None:
    """Raise InputError, and close it, for a file in whose place lies what often lies there instead."""
    try:
        found = placeholder(source.path.name, source.read(0, min(source.nbytes, HEAD_BYTES)).tobytes())
    except QuantkitError:
        source.close()
        raise
    if found is not None:
        source.close()
        raise InputError(f"{shown(source.path)} {found[0]}", path=str(source.path), hint=found[1])


def read_all(source: InputFile, limit: int) -> bytes:
    """All bytes of an open file of at most `limit` bytes. Raises InputError for a larger one, before reading."""
    if source.nbytes > limit:
        what = f"{shown(source.path)} has {source.nbytes:,} bytes, at most {limit:,} are read"
        raise InputError(what, path=str(source.path), hint="this is not the file it is named after")
    return source.read(0, source.nbytes).tobytes()


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises InputError for a larger one, before reading."""
    source = open_input(path)
    try:
        return read_all(source, limit)
    finally:
        source.close()


def parse_json_object(
    raw: bytes,
    path: Path,
    *,
    values: int = 1 << 20,
    pairs: Callable[[list[tuple[str, Any]]], Any] = dict,
    finite: bool = False,
    digits: bool = False,
) -> dict[str, Any]:
    """Parse UTF-8 JSON whose top level is an object.

    `values` bounds the number of values before anything is built from them; `pairs` makes the result of each
    object, as in `json`. Numbers of any length are read: integers of more than 308 digits and numbers beyond the range
    of a float are infinite floats, so whoever uses a number checks its type and range there; with `digits` they
    remember how they were written, with `finite` there may be no infinity and no NaN. Raises InputError, naming the
    position, for anything that is not such JSON.
    """

    def broken(why: str) -> InputError:
        return InputError(f"{shown(path)}: {why}", path=str(path), hint="the file is damaged: fetch it again")

    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > values:
        raise broken(f"more than {values:,} JSON values")
    numbers = FINITE if finite else WRITTEN if digits else CARRIED
    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, **numbers)
    except UnicodeDecodeError as error:
        raise broken(f"not UTF-8 at byte {error.start:,}") from error
    except json.JSONDecodeError as error:
        raise broken(f"not valid JSON: {error.msg} at character {error.pos:,}") from error
    except ValueError as error:
        raise broken(f"not valid JSON: {error}") from error
    except RecursionError as error:
        raise broken("JSON nested too deeply") from error
    if not isinstance(parsed, dict):
        raise broken(f"expected a JSON object, found {type(parsed).__name__}")
    return parsed


def _integer(digits: str) -> int | float:
    """An integer of any length, in time that grows with its length.

    Nobody counts with more than 308 digits: such a number becomes an infinite float, as 1e400 does, which no use of a
    number takes. What is not used is not judged: transformers writes int(1e30) for "no limit".
    """
    return int(digits) if len(digits) <= INT_DIGITS else float(digits)


def _written(digits: str) -> int | float:
    found = _integer(digits) if digits.lstrip("-").isdecimal() else float(digits)
    return found if len(digits) <= INT_DIGITS and isfinite(found) else LongNumber(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"{shown(digits, 20)} is not finite")
    return value


CARRIED: dict[str, Any] = {"parse_int": _integer}
WRITTEN: dict[str, Any] = {"parse_int": _written, "parse_float": _written}
FINITE: dict[str, Any] = {
    "parse_int": lambda digits: int(digits) if len(digits) <= INT_DIGITS else _finite(digits),
    "parse_float": _finite,
    "parse_constant": _finite,
}


def encodable(text: str) -> bool:
    """Whether text is Unicode without halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, refusing duplicate names: parsers disagree on which of two counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        times = Counter(name for name, _ in pairs)
        raise ValueError(f"duplicate names: {listed([name for name in found if times[name] > 1])}")
    return found
