"""Which source this is: what its files look like from outside, and their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.jsontext import utf8
from quantkit.records import record
from quantkit.report.records import FileRecord
from quantkit.source import Checkpoint
from quantkit.source.folder import FolderCheckpoint
from quantkit.storage import hash_file

if TYPE_CHECKING:
    from quantkit.source.adapter import Adapter


def stored_kind(found: Checkpoint) -> str:
    """The kind of a source as it lies there, before it was turned back or merged with adapters."""
    if isinstance(found, FolderCheckpoint):  # as most are: the others are not imported for it
        return found.kind
    from quantkit.source.merged import MergedCheckpoint
    from quantkit.source.restored import RestoredCheckpoint

    base = found.base if isinstance(found, MergedCheckpoint) else found
    return base.source.kind if isinstance(base, RestoredCheckpoint) else base.kind


def _adapters(found: Checkpoint) -> Sequence[Adapter]:
    if isinstance(found, FolderCheckpoint):
        return ()
    from quantkit.source.adapter_model import AdapterCheckpoint
    from quantkit.source.merged import MergedCheckpoint

    if isinstance(found, AdapterCheckpoint):
        return (found.adapter,)
    return found.adapters if isinstance(found, MergedCheckpoint) else ()


@record
class Origin:
    """A source as records name it, and as it looks now: asked once, however often it is used. `hashing` waits for the
    hashes of its files, by name, where they are in the making."""

    checkpoint: Checkpoint
    hashing: Callable[[], Mapping[str, str]] | None = None

    def facts(self) -> dict[str, Any]:
        """A record's word on the source."""
        found = self.checkpoint
        said = {"kind": stored_kind(found), "name": found.name, "repo": found.repo, "commit": found.commit}
        adapters = _adapters(found)
        return {**said, "adapters": [adapter.facts() for adapter in adapters]} if adapters else said

    @cached_property
    def files(self) -> tuple[FileRecord, ...]:
        """All source files with hashes. Reads every byte of them that nobody has read for this."""
        made = self.hashing() if self.hashing else {f.name: hash_file(Path(f.path)) for f in self.checkpoint.files()}
        return self.records(made)

    def records(self, hashes: Mapping[str, str]) -> tuple[FileRecord, ...]:
        """Known hashes of the source files as records, by name."""
        files = sorted(self.checkpoint.files(), key=lambda file: file.name)
        return tuple(FileRecord(f.name, f.nbytes, hashes[f.name]) for f in files)

    @cached_property
    def stat(self) -> str:
        """What the files look like from outside: names, sizes, places and times of change, or their commit on the Hub.

        The time of modification can be put back, that of the last change cannot.
        """
        files = self.checkpoint.files()
        away = [f"{f.name} {f.nbytes} {self.checkpoint.commit}" for f in files if f.opened and f.opened.is_distant]
        stats = [(f.name, Path(f.path).stat()) for f in files if not (f.opened and f.opened.is_distant)]
        lines = (f"{name} {s.st_size} {s.st_dev} {s.st_ino} {s.st_mtime_ns} {s.st_ctime_ns}" for name, s in stats)
        return utf8("\n".join([*lines, *away])).decode()

    def job_digest(self, *plan: str) -> str:
        """Identity of the work at hand: what stands for the plan, and the source as it is now."""
        return hashlib.sha256(utf8("\n".join([*plan, self.stat]))).hexdigest()
