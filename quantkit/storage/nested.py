"""Files one folder below the others of an artifact, such as additional_chat_templates/tools.jinja.

Such a folder is opened, and its files are reached through its descriptor: what somebody puts in its place, a symbolic
link above all, is neither followed nor written to. It is made just before the first file in it gets its name, and goes
when the last one that an older artifact had there is gone.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from quantkit.errors import NotWritableError
from quantkit.filenames import is_file_name
from quantkit.storage.claim import JOURNAL
from quantkit.storage.disk import Disk, File, anchored, mkdir, rmdir
from quantkit.storage.failures import shown
from quantkit.storage.journal import PartFile

NO_FOLDER = frozenset({errno.ENOTDIR, errno.ELOOP})
NOT_EMPTY = frozenset({errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


def part_name(number: int, name: str) -> str:
    """The name of file `number` in a run folder, which has no folders."""
    return f"nested-{number}" if "/" in name else name


def require_names(files: Sequence[PartFile]) -> None:
    """Raise ValueError for files of a job whose names do not stay below one folder, or in each other's way."""
    parts = [part_name(number, file.name) for number, file in enumerate(files)]
    names = {file.name for file in files}
    stays = all(is_file_name(name) if "/" in name else name not in ("", ".", "..") for name in names)
    distinct = len(names) == len(set(parts)) == len(files) and JOURNAL not in parts
    if not (stays and distinct) or any(file.nbytes < 0 for file in files):
        raise ValueError(f"not distinct file names and sizes: {files}")


@contextmanager
def placed(disk: Disk, root: Path, name: str, *, make: bool = False) -> Iterator[Path | None]:
    """The path of `name` below `root`: of FOLDER/FILE one that goes through the descriptor of the folder.

    With `make` a missing folder is made, durably, and what is none raises NotWritableError; else both give None.
    """
    folder, _, leaf = name.rpartition("/")
    if not folder:
        yield root / leaf
        return
    file = _made(disk, root / folder) if make else _opened(disk, root / folder)
    try:
        yield None if file is None else anchored(file, leaf)
    finally:
        if file is not None:
            file.close()


def remove_all(disk: Disk, root: Path, names: Sequence[str]) -> None:
    """Remove files below `root`, durably and in this order, and folders of theirs that are empty then."""
    for name in names:
        with placed(disk, root, name) as path:
            if path is not None:
                disk.remove(path)
    for folder in dict.fromkeys(name.rpartition("/")[0] for name in names):
        if folder:
            _tidy(disk, root / folder)
    if names:
        disk.sync_folder(root)


def _tidy(disk: Disk, folder: Path) -> None:
    file = _opened(disk, folder)
    if file is None:
        return
    try:
        disk.sync_open_folder(file)
    finally:
        file.close()
    try:
        disk.run(folder, rmdir, folder)
    except OSError as error:
        if error.errno not in NOT_EMPTY:
            raise


def _opened(disk: Disk, folder: Path) -> File | None:
    try:
        return disk.open_folder(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        return None


def _made(disk: Disk, folder: Path) -> File:
    with suppress(FileExistsError):
        disk.run(folder, mkdir, folder, 0o777)
        disk.sync_folder(folder.parent)
    try:
        return disk.open_folder(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        what = f"cannot write into {shown(folder)}: it is a link, or no folder"
        hint = "look at it, and move it away; or choose another output with -o"
        raise NotWritableError(what, hint=hint, path=shown(folder)) from error
