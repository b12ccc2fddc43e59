"""Where an artifact goes: what is there, what may be replaced, what is in the way. Asked before any work."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from quantkit.errors import ExistsError, InputError, NotWritableError
from quantkit.plan.carried import CONFIG
from quantkit.report.manifest import CHECKPOINT_MANIFEST, Manifest, manifest_path, read_manifest
from quantkit.storage import hash_file, require_sums
from quantkit.untrusted import listed, require_path, shown

SUMS = "SHA256SUMS"
# What may lie in a checkpoint's folder besides it: nothing that a loader reads because of its name.
HARMLESS = re.compile(
    rf"\..*|{SUMS}|.*\.manifest\.json|.*\.(md|log|jsonl|ndjson|parquet|csv|png|jpg|svg|gguf|dat)|(LICENSE|NOTICE|COPYING)[^/]*",
    re.IGNORECASE | re.DOTALL,
)
LOADED_FOLDERS = re.compile(r"additional_chat_templates|[0-9]+_.*", re.DOTALL)


def names_of(targets: Sequence[Path]) -> list[str]:
    """The names of an artifact's files relative to its folder, which is that of the first: FILE or FOLDER/FILE."""
    return [target.relative_to(targets[0].parent).as_posix() for target in targets]


def is_behind_link(path: Path, name: str) -> bool:
    """Whether the folder of a file called FOLDER/FILE is a symbolic link, which quantkit neither makes nor follows."""
    return "/" in name and path.parent.is_symlink()


def require_writable_names(paths: Sequence[Path]) -> None:
    """Raise NotWritableError for a path that the system does not even look up, such as one with too long a name."""
    for path in paths:
        try:
            require_path(path)
        except InputError as error:
            hint = "choose another output with -o"
            raise NotWritableError(f"cannot write: {error.message}", path=error.path, hint=hint) from error


def require_places(groups: Iterable[Sequence[Path]]) -> None:
    """Raise NotWritableError for an output that no run could write: files, manifests and checksums of all artifacts.

    Nothing is created.
    """
    for targets in groups:
        manifest = manifest_path(targets[0])
        require_writable_names([*targets, manifest, manifest.with_name(SUMS)])
        for name, path in zip(names_of(targets), targets, strict=True):
            if "/" in name:
                _require_folder(path.parent)
        for path in (*targets, manifest):
            _require_replaceable(path)
        require_sums(manifest.parent)


def _require_replaceable(path: Path) -> None:
    """Raise NotWritableError for what a file is not renamed over: a folder, a pipe, a device."""
    with suppress(OSError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            what = f"cannot write {shown(path)}: it is {kind}"
            raise NotWritableError(what, path=str(path), hint="choose another output with -o")


def _require_folder(path: Path) -> None:
    """Raise NotWritableError for what is there and is no folder: a link to one, too, is not followed."""
    with suppress(OSError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            what = f"cannot write into {shown(path)}: it is a link, or no folder"
            raise NotWritableError(what, path=str(path), hint="move it away, or choose another output with -o")


def refuse_inputs(targets: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Raise ExistsError where an output is one of the inputs, by whatever name or link: not even --force means that."""
    found = {}
    for path in inputs:
        with suppress(OSError, ValueError):
            facts = path.stat()
            found[facts.st_dev, facts.st_ino] = path
    for target in targets:
        with suppress(OSError):
            facts = target.stat()
            source = found.get((facts.st_dev, facts.st_ino))
            if source is not None:
                what = f"{shown(target)} is an input of this command ({shown(source)}) and would be overwritten"
                raise ExistsError(what, path=str(target), hint="choose another output with -o")


def refuse_existing(targets: Sequence[Path], force: bool, why: Callable[[], str] | None = None) -> None:
    """Raise ExistsError when a target is there and may not be replaced, or its manifest is another artifact's.

    `why` says what differs.
    """
    for target in targets:
        if os.path.lexists(target) and not force:
            if target.is_symlink() and not target.exists():
                what = f"{shown(target)} is a symbolic link to nowhere"
            else:
                what = f"{shown(target)} exists and is not what this command would write"
                what += f": {why()}" if why is not None else ""
            hint = "choose another -o, or replace it with --force"
            raise ExistsError(what, path=str(target), hint=hint)
    older = older_manifest(targets)
    if older is not None and not _replaces(targets, older):
        path = manifest_path(targets[0])
        what = f"{shown(path)} is the manifest of {shown(older.artifact[0].name)}, another artifact"
        raise ExistsError(what, path=str(path), hint="choose another output name or folder with -o")


def _replaces(targets: Sequence[Path], older: Manifest) -> bool:
    """Whether an artifact takes the place of an older one: a checkpoint of a checkpoint, files of their namesakes."""
    if manifest_path(targets[0]).name == CHECKPOINT_MANIFEST and targets[0].suffix != ".gguf":
        return older.artifact[0].name.endswith(".safetensors")
    return {file.name for file in older.artifact} == set(names_of(targets))


def older_manifest(targets: Sequence[Path]) -> Manifest | None:
    """The manifest at the place of that of `targets`; None without one that can be read."""
    try:
        return read_manifest(manifest_path(targets[0]))
    except InputError:
        return None


def to_retire(targets: Sequence[Path]) -> tuple[str, ...]:
    """Names of what goes before `targets` get theirs, in this order: an older manifest and all that it alone lists.

    Of a checkpoint config.json goes first: without it nobody loads a folder that holds files of two models.
    """
    manifest = manifest_path(targets[0])
    older = older_manifest(targets)
    first = (manifest.name,) if targets[0].suffix == ".gguf" else (manifest.name, CONFIG)
    names = [name for name in first if os.path.lexists(manifest.with_name(name))]
    if older is None or targets[0].suffix == ".gguf":
        return tuple(names)
    new = set(names_of(targets))
    return (*names, *(name for name in _listed(manifest.parent, older) if name not in new and name not in names))


def _listed(folder: Path, older: Manifest) -> Iterator[str]:
    """The files that a manifest lists and that are still what it says."""
    for file in older.artifact:
        path = folder / file.name
        if is_behind_link(path, file.name):
            continue
        with suppress(OSError, InputError):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and facts.st_size == file.nbytes and hash_file(path) == file.sha256:
                yield file.name


def refuse_strangers(targets: Sequence[Path], known: Iterable[str] = ()) -> None:
    """Raise ExistsError, naming them, for files in a checkpoint's folder that a loader may read and nobody lists.

    `known` are names of files that will go or stay: those of an older artifact, those that a killed run has named.
    """
    if targets[0].suffix == ".gguf":
        return
    folder = targets[0].parent
    names = {*names_of(targets), *known}
    found = [name for name in strangers(folder) if name not in names]
    if found:
        what = f"{shown(folder)} holds files that no artifact lists and a loader may read: {listed(found)}"
        raise ExistsError(what, path=str(folder / found[0]), hint="move them away, or choose another folder with -o")


def strangers(folder: Path) -> list[str]:
    """Names in a checkpoint's folder that mean something to loaders, those in folders which they look into included."""
    found: list[str] = []
    for entry in _entries(folder):
        loaded = LOADED_FOLDERS.fullmatch(entry.name) is not None
        if loaded and entry.is_dir(follow_symlinks=False):
            found += _below(Path(entry.path))
        elif loaded if entry.is_dir() else not HARMLESS.fullmatch(entry.name):
            found.append(entry.name)
    return found


def _below(folder: Path) -> list[str]:
    return [f"{folder.name}/{entry.name}" for entry in _entries(folder) if not HARMLESS.fullmatch(entry.name)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
