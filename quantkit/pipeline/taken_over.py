"""README.md of a checkpoint that was made without --card: the source's card, taken over as a file of the artifact.

A card of the artifact's own may take its place, and then the manifest says so: it is no longer among the files of the
artifact, and `replaced` holds what it was. Everything else of the manifest, and its identity, stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import InputError
from quantkit.pipeline.folder import Finished
from quantkit.report.card import CARD
from quantkit.report.records import FileRecord
from quantkit.storage import SUMS, hash_file, remove_file, user_key, write_small
from quantkit.untrusted import shown


def is_taken_over(folder: Path, finished: Sequence[Finished]) -> bool:
    """Whether README.md is, byte for byte, the source's card that was taken over for an artifact in this folder."""
    path = folder / CARD
    if path.is_symlink() or not path.is_file():
        return False
    cards = [file for one in finished for file in _cards(one) if file.nbytes == path.stat().st_size]
    return bool(cards) and hash_file(path) in {file.sha256 for file in cards}


def _cards(one: Finished) -> Iterator[FileRecord]:
    yield from (file for file in one.manifest.artifact if file.name == CARD)
    yield from one.manifest.replaced


def with_own_card(one: Finished) -> Finished:
    """An artifact as it is once a card of its own has the place of the source's, with the manifest that is to be
    written; itself where the source's is no file of it. Raises InputError for a manifest that was changed: nobody else
    would notice once it is sealed anew."""
    manifest = one.manifest
    at = next((number for number, file in enumerate(manifest.artifact) if file.name == CARD), None)
    if at is None:
        return one
    if manifest.sealed is False:
        what = f"{shown(one.manifest_path)} was changed: its seal is that of another text"
        raise InputError(what, path=str(one.manifest_path), hint="convert again")
    card = manifest.artifact[at]
    left = replace(
        manifest,
        artifact=tuple(file for file in manifest.artifact if file is not card),
        tensors=tuple(msgspec.structs.replace(t, file=t.file - (t.file > at)) for t in manifest.tensors),
        facts={**manifest.facts, "size": _less(manifest.facts["size"], card.nbytes), "replaced": [card.as_json()]},
    )
    key = user_key() if manifest.made_with(user_key()) else b""  # what another user made stays another user's
    return replace(one, manifest=left, rewritten=left.encode(key))


def _less(size: Mapping[str, Any], nbytes: int) -> dict[str, Any]:
    """A size report without a file that counted as header."""
    total = size["bytes"] - nbytes
    return {
        **size,
        "bytes": total,
        "header_bytes": size["header_bytes"] - nbytes,
        "bits_per_weight": round(8 * total / max(size["weights"], 1), 4),
        "ratio": round(total / max(size["source_bytes"], 1), 4),
    }


def write_over(folder: Path, contents: Mapping[str, bytes], sums: bytes) -> None:
    """Write files, manifests first, in the place of older ones, and last SHA256SUMS.

    Killed anywhere, the artifact verifies, and the same command goes on: without SHA256SUMS nobody asks whether its
    lines are those of the old or the new manifest, and README.md is the source's as long as it is not the new one.
    """
    remove_file(folder / SUMS)
    for name, data in contents.items():
        write_small(folder / name, data, overwrite=True)
    write_small(folder / SUMS, sums, overwrite=True)


def record_of(one: Finished) -> FileRecord:
    """The manifest of an artifact as a file: as it is there, or as it is to be written."""
    path = one.manifest_path
    if one.rewritten is None:
        return FileRecord(path.name, path.stat().st_size, hash_file(path))
    return FileRecord(path.name, len(one.rewritten), hashlib.sha256(one.rewritten).hexdigest())
