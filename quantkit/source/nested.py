"""Files one folder below a checkpoint's: further chat templates, and configurations of sentence-transformers' modules.

additional_chat_templates/tools.jinja      transformers: a template by the name of "tools"
1_Pooling/config.json                      sentence-transformers: modules.json names the folder
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from quantkit.errors import InputError
from quantkit.filenames import ADDITIONAL, MAX_TEMPLATES, is_file_name
from quantkit.untrusted import shown

MODULE = re.compile(r"[0-9]{1,2}_[A-Za-z0-9_]{1,60}")
MODULE_CONFIG = "config.json"
PATTERNS = (f"{ADDITIONAL}*.jinja", f"[0-9]*_*/{MODULE_CONFIG}")  # what a download asks the Hub for
MAX_NESTED_BYTES = 4 << 20  # the longest known template has 18 kB
MAX_MODULES = 64
MAX_LISTED = 10_000


def is_nested(name: str) -> bool:
    """Whether `name` is that of a file in a folder which belongs to the checkpoint."""
    folder, _, file = name.rpartition("/")
    known = file.endswith(".jinja") if f"{folder}/" == ADDITIONAL else file == MODULE_CONFIG
    return known and is_nested_folder(folder) and is_file_name(name)


def is_nested_folder(name: str) -> bool:
    """Whether a folder of this name may hold files that belong to the checkpoint."""
    return f"{name}/" == ADDITIONAL or MODULE.fullmatch(name) is not None


def list_nested(root: Path, folders: Iterable[str]) -> tuple[set[str], list[str]]:
    """The files in folders of `root` that belong to the checkpoint; those beside them that stay behind, sorted.

    `folders` are names in `root` for which `is_nested_folder` is true. Raises InputError for more files than any
    checkpoint has.
    """
    found: set[str] = set()
    left: list[str] = []
    for folder in folders:
        for name in _files(root, folder):
            if is_nested(name):
                found.add(name)
            elif not name.rpartition("/")[2].startswith("."):
                left.append(name)
    for what, most, many in (
        ("chat templates", MAX_TEMPLATES, sum(name.startswith(ADDITIONAL) for name in found)),
        ("modules", MAX_MODULES, sum(not name.startswith(ADDITIONAL) for name in found)),
    ):
        if many > most:
            text = f"{shown(root)} has {many:,} {what} in folders, at most {most} are read"
            raise InputError(text, path=str(root), hint="remove those that the model does not need")
    return found, sorted(left)


def _files(root: Path, folder: str) -> list[str]:
    """Names of the regular files in a folder; none where it is no folder, or cannot be read."""
    names: list[str] = []
    with suppress(NotADirectoryError, FileNotFoundError), os.scandir(root / folder) as entries:
        for entry in entries:
            if len(names) == MAX_LISTED:
                what = f"{shown(root / folder)} has more than {MAX_LISTED:,} files"
                raise InputError(what, path=str(root / folder), hint="give the folder of one checkpoint")
            if entry.is_file():
                names.append(f"{folder}/{entry.name}")
    return sorted(names)
