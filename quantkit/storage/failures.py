"""OSError to quantkit's errors, with the path, the bytes needed and the bytes free."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantkit.errors import NotWritableError, QuantkitError, ResourceError

# The file system refuses this name or place: another place, or permission, would do.
REFUSED = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EEXIST, errno.ENOENT, errno.EXDEV, errno.ETXTBSY, errno.ENOTEMPTY, errno.EILSEQ,
})  # fmt: skip

HINTS = {
    errno.ENOSPC: "free some space or choose another disk with -o; the same command resumes",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another disk with -o",
    errno.EFBIG: "the file is larger than the limit (ulimit -f) or than the file system allows",
    errno.EIO: "the disk reports an error: check it before trying again",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter output name with -o",
    errno.ENOENT: "another process removed it while it was in use; try again",
    errno.EISDIR: "the output is a folder: choose another name with -o",
    errno.EXDEV: "the output must lie on the same file system as its job folder",
}


def shown(path: Path | str | bytes) -> str:
    """A path as printable text: bytes that are not UTF-8 and control characters become escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def nearest_folder(path: Path) -> Path:
    """The deepest existing folder at or above `path`."""
    above = (path, *path.parents)
    return next((p for p in above if os.path.isdir(p)), Path("/"))  # noqa: PTH112 - Path raises for names too long


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write at `folder`, which need not exist yet. Quotas are not seen."""
    return shutil.disk_usage(nearest_folder(folder.absolute())).free


def explain(error: OSError, folder: Path, needed: int) -> QuantkitError:
    """The quantkit error for an OSError met while writing `needed` bytes in `folder`."""
    path = shown(error.filename if error.filename is not None else folder)
    reason = error.strerror or type(error).__name__
    hint = HINTS.get(error.errno or 0)
    if error.errno in REFUSED:
        hint = hint or "choose another output folder with -o, or correct its permissions"
        return NotWritableError(f"cannot write {path}: {reason}", hint=hint, path=path)
    try:
        free = f"{free_bytes(folder):,}"
    except OSError:
        free = "unknown"
    message = f"cannot write {path}: {reason} ({needed:,} bytes needed, {free} free)"
    return ResourceError(message, hint=hint, path=path)


@contextmanager
def explained(folder: Path, needed: int) -> Iterator[None]:
    """Turn every OSError inside into NotWritableError or ResourceError."""
    try:
        yield
    except OSError as error:
        raise explain(error, folder, needed) from error
