"""Places for records that a command writes beside its result, looked at before any work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from quantkit.errors import ExistsError, NotWritableError
from quantkit.untrusted import shown

APPENDING = ("--summary", "--append")


def require_takes_file(path: Path, option: str) -> None:
    """Raise NotWritableError for what takes no file: a folder, a name too long, something in what is no folder; and
    for options that put a new file in the place, a device."""
    why = None
    try:
        path.lstat()
        if path.is_dir():
            why = os.strerror(errno.EISDIR)
        elif option not in APPENDING and path.exists() and not path.is_file():
            why = "no regular file"
    except FileNotFoundError:
        pass  # folders are made
    except OSError as error:
        why = error.strerror
    if why:
        what = f"cannot write {shown(path)}: {why}"
        raise NotWritableError(what, path=str(path), hint=f"choose another name with {option}")


def require_own_start(path: Path, option: str, start: bytes, kind: str) -> None:
    """Raise ExistsError for a file with something else in it than what `option` writes."""
    if not os.path.isfile(path):  # noqa: PTH113 - as above
        return
    with path.open("rb") as file:
        found = file.read(len(start))
    if found and found != start:
        hint = f"choose another name with {option}"
        raise ExistsError(f"{shown(path)} is there and is no {kind}", path=str(path), hint=hint)
