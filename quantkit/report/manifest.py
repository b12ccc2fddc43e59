"""The manifest: what an artifact is, where it came from, and how to check it. JSON with a schema name.

The manifest is the commit record of an artifact: it is written last, and an artifact without one is not published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import InputError

SCHEMA = "quantkit.manifest/1"
MAX_MANIFEST_BYTES = 256 << 20


@dataclass(frozen=True)
class FileRecord:
    """A file by name, size and SHA-256 (lower-case hex)."""

    name: str
    nbytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.nbytes, "sha256": self.sha256}


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of the artifact; `offset` is absolute in file number `file`, `shape` in checkpoint order."""

    name: str
    qtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    nbytes: int
    sha256: str
    fallback_from: str | None = None

    def as_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "name": self.name,
            "type": self.qtype,
            "shape": list(self.shape),
            "file": self.file,
            "offset": self.offset,
            "bytes": self.nbytes,
            "sha256": self.sha256,
        }
        if self.fallback_from:
            record["fallback_from"] = self.fallback_from
        return record


@dataclass(frozen=True)
class Manifest:
    """All fields of a manifest. `facts` holds the parts nothing in quantkit reads back, as plain JSON:
    tool, versions, size report, timings, checks, warnings."""

    plan_digest: str
    recipe: Mapping[str, Any]
    source: Mapping[str, Any]
    source_files: tuple[FileRecord, ...]
    artifact: tuple[FileRecord, ...]
    tensors: tuple[TensorRecord, ...]
    tokenizer_sha256: str | None
    facts: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """SHA-256 over the plan and the source hashes: equal identity, equal bytes."""
        return identity(self.plan_digest, self.source_files)

    def encode(self) -> bytes:
        """The manifest as UTF-8 JSON with stable key order."""
        body = {
            "schema": SCHEMA,
            "identity": self.identity,
            "plan_digest": self.plan_digest,
            "recipe": dict(self.recipe),
            "source": {**self.source, "files": [f.as_json() for f in self.source_files]},
            "artifact": [f.as_json() for f in self.artifact],
            "tokenizer_sha256": self.tokenizer_sha256,
            **self.facts,
            "tensors": [t.as_json() for t in self.tensors],
        }
        return (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()


def identity(plan_digest: str, source_files: Sequence[FileRecord]) -> str:
    """Hex SHA-256 of the plan digest and the sorted source files (name, size, hash)."""
    lines = [plan_digest, *sorted(f"{f.sha256} {f.nbytes} {f.name}" for f in source_files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact lies: model.gguf -> model.manifest.json, for a split one without numbers."""
    stem = artifact.name.removesuffix(artifact.suffix)
    head, _, tail = stem.rpartition("-of-")
    if head and tail.isdigit() and head[-6:-5] == "-" and head[-5:].isdigit():
        stem = head[:-6]
    return artifact.with_name(f"{stem}.manifest.json")


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest. Raises InputError naming the key when it is not one of this schema."""
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InputError(f"{path.name} is larger than any manifest", path=str(path))
        body = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the manifest {path.name}: {error}", path=str(path)) from error
    return parse_manifest(body, path)


def parse_manifest(body: Any, path: Path) -> Manifest:
    """A manifest from parsed JSON; `path` is where it came from, for messages."""
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA:
        raise InputError(f'{path.name}: schema is {schema!r}, expected "{SCHEMA}"', path=str(path), key="schema")
    try:
        return _parse(body)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path.name}: missing or malformed field {error}", path=str(path)) from error


def _parse(body: dict[str, Any]) -> Manifest:
    known = {"schema", "identity", "plan_digest", "recipe", "source", "artifact", "tokenizer_sha256", "tensors"}
    return Manifest(
        plan_digest=str(body["plan_digest"]),
        recipe=dict(body["recipe"]),
        source={k: v for k, v in body["source"].items() if k != "files"},
        source_files=tuple(_file(f) for f in body["source"]["files"]),
        artifact=tuple(_file(f) for f in body["artifact"]),
        tensors=tuple(_tensor(t) for t in body["tensors"]),
        tokenizer_sha256=body["tokenizer_sha256"],
        facts={k: v for k, v in body.items() if k not in known},
    )


def _file(record: Mapping[str, Any]) -> FileRecord:
    return FileRecord(str(record["name"]), int(record["bytes"]), str(record["sha256"]))


def _tensor(record: Mapping[str, Any]) -> TensorRecord:
    return TensorRecord(
        name=str(record["name"]),
        qtype=str(record["type"]),
        shape=tuple(int(n) for n in record["shape"]),
        file=int(record["file"]),
        offset=int(record["offset"]),
        nbytes=int(record["bytes"]),
        sha256=str(record["sha256"]),
        fallback_from=record.get("fallback_from"),
    )
