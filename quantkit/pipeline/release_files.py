"""The files of a folder that is released: which there are, what they are for, and what must not be among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantkit.errors import BusyError, ExistsError, InputError, UsageError, did_you_mean
from quantkit.filenames import WEIGHTS
from quantkit.pipeline.folder import Finished, jobs_in, manifests_in, unlisted
from quantkit.pipeline.signing import MAX_KEY, PRIVATE, SIGNATURE
from quantkit.report.bom import BOM, is_own_bom
from quantkit.report.card import CARD
from quantkit.report.release import RELEASE, read_release
from quantkit.report.sealed import SUFFIX
from quantkit.storage import SUMS, require_sums
from quantkit.untrusted import listed, shown

OWN = (CARD, BOM, RELEASE, SUMS, SIGNATURE)
MAX_FILES = 10_000
ROLES = (
    (re.compile(r"(.*/)?(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)[^/]*", re.IGNORECASE | re.DOTALL), "licence"),
    (re.compile(r".*\.(imatrix|dat)|.*imatrix[^/]*\.gguf", re.IGNORECASE | re.DOTALL), "calibration"),
    (re.compile(r"(.*[./-])?modelfile", re.IGNORECASE | re.DOTALL), "modelfile"),
)
FORCE = "move it away, or replace it with --force"


def files_in(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of all files in a folder, and the names of folders in it that hold artifacts of their own, which are left
    out; both sorted. What is hidden is no part of a folder.

    Raises InputError for links, for what is no file, and for names that others could not download.
    """
    found, own = list[str](), list[str]()
    for name, is_own in _walk(folder, ""):
        (own if is_own else found).append(name)
        if len(found) > MAX_FILES:
            raise InputError(f"{shown(folder)} has more than {MAX_FILES:,} files", path=str(folder))
    return sorted(found), sorted(own)


def _walk(folder: Path, below: str) -> Iterator[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = below + entry.name
            if not name.isprintable() or "\\" in name:
                hint = "rename it: not every system has such names"
                raise InputError(f"{shown(name)} is no name for a file that others download", path=name, hint=hint)
            if entry.is_file(follow_symlinks=False):
                yield name, False
            elif not entry.is_dir(follow_symlinks=False):
                kind = "a link" if entry.is_symlink() else "no file"
                hint = "put the file itself there, or move it away"
                raise InputError(f"{shown(entry.path)} is {kind}", path=entry.path, hint=hint)
            elif manifests_in(Path(entry.path)):
                yield name, True
            else:
                yield from _walk(Path(entry.path), f"{name}/")


def require_releasable(
    folder: Path, finished: Sequence[Finished], names: Sequence[str], include: Sequence[str], *, unfinished: bool
) -> None:
    """Raise what keeps a folder from being released whatever is in its artifacts: BusyError for work that is not
    finished, InputError for weights that no manifest lists and nobody asked for by name, for artifacts of different
    sources, and for private keys; UsageError for a name to include that is not there."""
    for name in include:
        if name not in names:
            what = f'--include "{shown(name)}" is no file of {shown(folder)}{did_you_mean(name, names)}'
            raise UsageError(what, key="include", hint="give its path in the folder")
    jobs = jobs_in(folder)
    if jobs and not unfinished:
        what = f"{shown(folder)} holds work that is not finished: {listed(jobs)}"
        hint = "run the same quantkit convert command again, remove it, or leave it out with --unfinished"
        raise BusyError(what, path=str(folder / jobs[0]), hint=hint)
    strange = [name for name in unlisted(folder, finished, names) if name not in include]
    if strange:
        what = f"{listed(strange)} has no manifest: nobody can say what it is"
        hint = f"move it away, or list it as it is with --include {strange[0]}"
        raise InputError(what, path=str(folder / strange[0]), hint=hint)
    _require_one_source(folder, finished)
    for name in names:
        _require_no_key(folder / name)


def _require_one_source(folder: Path, finished: Sequence[Finished]) -> None:
    first, *others = finished
    for one in others:
        if _weights_of(one) != _weights_of(first):
            names = f"{shown(first.label)} is of {_source(first)}, {shown(one.label)} of {_source(one)}"
            hint = "a release is of one model: give each a folder of its own"
            raise InputError(f"artifacts of different sources: {names}", path=str(folder), hint=hint)


def _weights_of(one: Finished) -> frozenset[str]:
    """Hashes of the source's weights: of side files another version of quantkit may list others."""
    files = one.manifest.source_files
    return frozenset(f.sha256 for f in files if f.name.endswith(WEIGHTS)) or frozenset(f.sha256 for f in files)


def _source(one: Finished) -> str:
    source, [first, *_] = one.manifest.source, sorted(_weights_of(one))
    return f"{shown(str(source.get('repo') or source.get('name')))} ({first[:8]})"


def _require_no_key(path: Path) -> None:
    """Raise InputError for a private key: whoever signs with it would publish it."""
    if path.stat().st_size > MAX_KEY:
        return
    with path.open("rb") as file:
        if PRIVATE in file.read(MAX_KEY):
            what = f"{shown(path)} is a private key, which would be published"
            raise InputError(what, path=str(path), hint="move it out of the folder")


def require_own_places(folder: Path, *, force: bool) -> None:
    """Raise ExistsError for a release.json or a bill of materials that quantkit did not write, or somebody edited,
    unless `force`; NotWritableError for a SHA256SUMS that cannot be continued."""
    require_sums(folder)
    if force:
        return
    path = folder / RELEASE
    if path.exists():
        try:
            read_release(path)
        except InputError as error:
            raise _edited(path) from error
    if (folder / BOM).exists() and not is_own_bom(folder / BOM):
        raise _edited(folder / BOM)


def _edited(path: Path) -> ExistsError:
    what = f"{shown(path)} is there and was written or edited by somebody"
    return ExistsError(what, path=str(path), hint=FORCE)


def role_of(name: str) -> str:
    """What a file that is no artifact's is for."""
    if name in (CARD, BOM):
        return "card" if name == CARD else "bom"
    if name.endswith(SUFFIX):
        return "record"
    return next((role for pattern, role in ROLES if pattern.fullmatch(name)), "other")
