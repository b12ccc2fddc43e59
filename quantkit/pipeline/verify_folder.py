"""What verify is given: an artifact, or the folder of a release with all of its artifacts; and signatures.

signature   every file is one that the key signed; of a folder none was added, none is gone
release     release.json has its seal; every file is there as it says, and no other; SHA256SUMS says the same
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, UsageError
from quantkit.events import Sink, ignore
from quantkit.formats.gguf.file import shard_paths
from quantkit.pipeline.folder import finished_in
from quantkit.pipeline.release_files import files_in
from quantkit.pipeline.signing import SIGNATURE, check_signature
from quantkit.pipeline.verify import verify_artifact
from quantkit.plan.carried import CONFIG
from quantkit.quality.checks.base import STANDARD, Check, Verification, VerifyOptions
from quantkit.report.manifest import find_manifest, read_manifest
from quantkit.report.release import RELEASE, read_release
from quantkit.storage import SUMS, hash_file, read_sums
from quantkit.untrusted import listed, require_path, shown

AGAIN = "release the folder again, or get it again from where it was published"


def verify(
    artifact: Path | str,
    *,
    against: Path | str | None = None,
    adapters: Sequence[str] = (),
    options: VerifyOptions = STANDARD,
    signed_by: Path | None = None,
    emit: Sink = ignore,
) -> Verification:
    """Look at a published artifact, or at a folder of GGUF files with all that is in it. Without `against` nothing is
    compared with a source; `adapters` are those that were merged into it. With `signed_by` the files have to be
    signed with the key of which it is the public part.

    Raises InputError for a file that does not parse, UnsupportedError for an engine that is unknown, or for an engine
    or the library of signatures where it is missing.
    """
    artifact = Path(artifact)
    require_path(artifact)
    first = [] if signed_by is None or not artifact.exists() else [_signature(artifact, signed_by)]
    if any(not check.ok for check in first):
        return Verification(tuple(first))  # what nobody signed is not opened
    if artifact.is_dir():
        first += release_check(artifact)
    if not _holds_gguf(artifact):
        seen = verify_artifact(artifact, against=against, adapters=adapters, options=options, emit=emit)
        return replace(seen, checks=(*first, *seen.checks))
    checks = list(first)
    for one in finished_in(artifact):
        asked = replace(options, engine=None, say=None) if one.encodes or one.adapts else options
        seen = verify_artifact(one.place, against=against, adapters=adapters, options=asked, emit=emit)
        checks += [replace(c, detail=f"{one.label}: {c.detail}".removesuffix(": ")) for c in seen.checks]
    return Verification(tuple(checks))


def require_gateable_artifact(artifact: Path) -> None:
    """Raise UsageError for a folder of GGUF files, whose gates are asked of one by one: before any of them is read."""
    if _holds_gguf(artifact):
        first = next(one.first for one in finished_in(artifact) if one.gguf)
        what = f"--gate measures one artifact, and {shown(artifact)} is a folder of them"
        hint = f"name one, {shown(first)}; or leave --gate out, and give all of them to quantkit eval --gate"
        raise UsageError(what, path=str(artifact), key="gate", hint=hint)


def _holds_gguf(folder: Path) -> bool:
    """Whether it is a folder of GGUF files with manifests, and no checkpoint."""
    if not folder.is_dir() or os.path.lexists(folder / CONFIG):
        return False
    return any(one.gguf for one in finished_in(folder))


def _signature(artifact: Path, public_key: Path) -> Check:
    """Whether all files of a folder are signed, or all of an artifact and its manifest."""
    try:
        if artifact.is_dir():
            names = [name for name in files_in(artifact)[0] if name != SIGNATURE]
            return check_signature(artifact, public_key, names, whole=True)
        manifest = find_manifest(artifact)
        if manifest.is_file():
            names = [*(file.name for file in read_manifest(manifest).artifact), manifest.name]
        else:
            names = [path.name for path in shard_paths(artifact)]
        missing = [name for name in names if not (artifact.parent / name).is_file()]
    except InputError as error:
        if error.path == str(public_key):
            raise
        return Check("signature", False, error.message)
    if artifact.name not in names or missing:
        what = f"{listed(missing) or shown(artifact.name)} is missing, or no file of this artifact"
        return Check("signature", False, what)
    return check_signature(artifact.parent, public_key, names, whole=False)


def release_check(folder: Path) -> list[Check]:
    """What the release.json of a folder says against what is there; nothing where there is none."""
    path = folder / RELEASE
    if not path.is_file():
        return []
    try:
        wrong = next(_wrong(folder, read_release(path)), None)
    except InputError as error:
        wrong = error.message
    return [Check("release", wrong is None, wrong or "", hint="" if wrong is None else AGAIN)]


def _wrong(folder: Path, body: Mapping[str, Any]) -> Iterator[str]:
    """What differs. Files of artifacts are hashed when these are looked at: here their manifests are compared."""
    said = {str(file.get("name")): (file.get("bytes"), file.get("sha256")) for file in _listed_in(body)}
    known = {file.name: file for one in finished_in(folder) for file in one.manifest.artifact}
    there = set(files_in(folder)[0]) - {RELEASE, SUMS, SIGNATURE}
    if said.keys() != there:
        gone, more = sorted(said.keys() - there), sorted(there - said.keys())
        yield f"{listed(gone)} is not there" if gone else f"{listed(more)} is not in {RELEASE}"
        return
    for name, (nbytes, sha256) in said.items():
        file = known.get(name)
        found = (file.nbytes, file.sha256) if file else ((folder / name).stat().st_size, hash_file(folder / name))
        if found != (nbytes, sha256):
            yield f"{shown(name)} is not the file that {RELEASE} says"
    sums = read_sums(folder) or {}
    own = (0, hash_file(folder / RELEASE))
    for name, (_, sha256) in {**said, RELEASE: own}.items():
        if sums.get(os.fsencode(name)) != [sha256]:
            yield f"{SUMS} has not the line of {shown(name)}"


def _listed_in(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for one in body["artifacts"]:
        files = one.get("files")
        for file in [*(files if isinstance(files, list) else []), one.get("manifest")]:
            if isinstance(file, Mapping):
                yield file
    yield from body["files"]
