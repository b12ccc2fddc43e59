"""The key with which a user's quantkit tells its own work: journals and manifests carry a seal made with it.

32 random bytes in a file that only the user may read: in the state folder, else in the cache folder, else in a folder
of her own under /tmp. Who can write into the folder of an output, but not into these, cannot make work that quantkit
takes for its own. Without any such place the key lives as long as the process: nothing of an earlier run is believed
then, and what is there is checked or done again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from quantkit.platforms import NOFOLLOW, SAFE, is_mine, user_ids, user_label
from quantkit.storage.disk import Disk, anchored, open_at
from quantkit.storage.faults import from_environment

KEY_BYTES = 32
KEY_FILE = "seal.key"


def user_key() -> bytes:
    """The key of this user, made when there is none yet; one for this process where it cannot be kept."""
    return _key(tuple(_places()))


def _places() -> Iterator[Path]:
    """Folders that may keep the key, the best first."""
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE", "")
    folders = (("LOCALAPPDATA", "AppData/Local"),) if user_ids() is None else ()
    for variable, below in (*folders, ("XDG_STATE_HOME", ".local/state"), ("XDG_CACHE_HOME", ".cache")):
        given = os.environ.get(variable, "")
        folder = Path(given) if given else Path(home) / below
        if folder.is_absolute() and (given or Path(home).is_dir()):
            yield folder / "quantkit"
    if user_ids() is not None:
        yield Path("/tmp") / f"quantkit-{user_label()}"


@cache
def _key(places: tuple[Path, ...]) -> bytes:
    for folder in places:
        with suppress(OSError):
            found = _read(folder)
            if found is not None:
                return found
    for folder in places:
        with suppress(OSError):
            _make(folder)
            found = _read(folder)
            if found is not None:
                return found
    return os.urandom(KEY_BYTES)


def _read(folder: Path) -> bytes | None:
    """The key in a folder, None where there is none that only this user could have put there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        at = Disk().open_folder(folder)
        try:
            fd = open_at(anchored(at, KEY_FILE), os.O_RDONLY)
            try:
                facts = (at.facts(), os.fstat(fd))
                private = stat.S_ISREG(facts[1].st_mode)
                mine = all(map(is_mine, facts))
                if user_ids() is not None:  # else modes say nothing: the folder is one of the user's own
                    mine = mine and not any(f.st_mode & 0o022 for f in facts)
                    private = private and not facts[1].st_mode & 0o077
                key = os.read(fd, KEY_BYTES + 1)
            finally:
                os.close(fd)
        finally:
            at.close()
        return key if mine and private and len(key) == KEY_BYTES else None
    return None


def _make(folder: Path) -> None:
    """Put a new key into a folder, unless there is one."""
    disk = Disk(from_environment())
    disk.make_folders(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)  # noqa: PTH102 - the mode must hold from the first moment
    temporary = folder / f"{KEY_FILE}.{os.urandom(8).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | SAFE, 0o600)
    try:
        try:
            os.write(fd, os.urandom(KEY_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        with suppress(FileExistsError):
            disk.move(temporary, folder / KEY_FILE, overwrite=False)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
