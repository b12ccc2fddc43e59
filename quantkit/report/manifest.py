"""The manifest: what an artifact is, where it came from, and how to check it. JSON with a schema name.

The manifest is the commit record of an artifact: it is written last, and an artifact without one is not published. It
is sealed as `report.sealed` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import InputError
from quantkit.filenames import is_file_name
from quantkit.records import record
from quantkit.report.records import FileRecord, ManifestRecord, TensorRecord
from quantkit.report.sealed import (
    MAX_RECORD_BYTES,
    MAX_RECORD_VALUES,
    SUFFIX,
    SealedRecord,
    checked,
    facts_of,
    origin_of,
)
from quantkit.untrusted import parse_json_object, read_bounded, shown

SPLIT_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}", re.DOTALL)
HINT = "the manifest is damaged or of another version: convert again, or verify without it"
CHECKPOINT_MANIFEST = f"model{SUFFIX}"


@record(kw_only=True)
class Manifest(SealedRecord):
    """All fields of a manifest. Its facts: tool, model, size report, checks, warnings, versions, timings."""

    recipe: Mapping[str, Any]
    tensors: tuple[TensorRecord, ...]
    tokenizer_sha256: str | None

    SCHEMA = "quantkit.manifest/1"

    def own(self) -> dict[str, Any]:
        return {
            "recipe": dict(self.recipe),
            "source": self.origin,
            "artifact": [f.as_json() for f in self.artifact],
            "tokenizer_sha256": self.tokenizer_sha256,
            **self.facts,
            "tensors": [t.as_json() for t in self.tensors],
        }

    def path(self, first: Path) -> Path:
        return manifest_path(first)

    @property
    def replaced(self) -> tuple[FileRecord, ...]:
        return msgspec.convert(self.facts.get("replaced") or (), tuple[FileRecord, ...])


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of a file set lies: that of its first file, with another ending.

    model.gguf -> model.manifest.json; model-00001-of-00003.gguf -> model-00001-of-00003.manifest.json, so that a
    split artifact and a whole one, or one split otherwise, never share a manifest; the shards of a checkpoint folder,
    which is one artifact however it is cut -> model.manifest.json.
    """
    if artifact.suffix == ".safetensors" or not artifact.suffix:
        return artifact.with_name(CHECKPOINT_MANIFEST)
    return artifact.with_name(f"{artifact.name.removesuffix(artifact.suffix)}{SUFFIX}")


def find_manifest(artifact: Path) -> Path:
    """The manifest that is there for a file, else where it would lie.

    Earlier versions gave a split artifact the name of a whole one: model.manifest.json.
    """
    path = manifest_path(artifact)
    split = SPLIT_NAME.fullmatch(artifact.name.removesuffix(artifact.suffix))
    older = artifact.with_name(f"{split['stem']}{SUFFIX}") if split else path
    return older if not path.exists() and older.exists() and artifact.name in _names(older) else path


def _names(path: Path) -> set[str]:
    try:
        return {file.name for file in read_manifest(path).artifact}
    except InputError:
        return set()


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest. Raises InputError naming the key when it is not one of this schema."""
    raw = read_bounded(path, MAX_RECORD_BYTES)
    return parse_manifest(parse_json_object(raw, path, values=MAX_RECORD_VALUES), path)


def parse_manifest(body: Any, path: Path, *, draft: bool = False) -> Manifest:
    """A manifest from parsed JSON; `path` is where it came from, for messages. Raises InputError.

    A `draft` names no files yet, and has no hashes of tensors.
    """
    record = checked(body if isinstance(body, dict) else {}, path, Manifest.SCHEMA, ManifestRecord, HINT)
    wrong = None if draft else _unfinished(record)
    if wrong:
        raise InputError(f"{shown(path.name)}: {wrong}", path=str(path), hint=HINT)
    return Manifest(
        plan_digest=record.plan_digest,
        recipe=dict(body["recipe"]),
        source=origin_of(body),
        source_files=record.source.files,
        artifact=record.artifact,
        tensors=record.tensors,
        tokenizer_sha256=record.tokenizer_sha256,
        facts=facts_of(body, "recipe", "artifact", "tokenizer_sha256", "tensors"),
        read=body,
    )


def _unfinished(record: ManifestRecord) -> str | None:
    """What keeps a record from being that of a published artifact."""
    bad = [file.name for file in record.artifact if not is_file_name(file.name)]
    if bad or not record.artifact:
        return f'artifact: "{shown(bad[0])}" is no file name' if bad else "artifact: no file is named"
    if len({file.name for file in record.artifact}) < len(record.artifact):
        return "artifact: a file is named twice"
    unhashed = [t.name for t in record.tensors if not t.sha256 or t.file >= len(record.artifact)]
    return f'tensors: "{shown(unhashed[0])}" has no hash or no file' if unhashed else None
