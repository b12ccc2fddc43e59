"""The manifest: what an artifact is, where it came from, and how to check it. JSON with a schema name.

The manifest is the commit record of an artifact: it is written last, and an artifact without one is not published.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.untrusted import parse_json_object, read_bounded, shown

SCHEMA = "quantkit.manifest/1"
MAX_MANIFEST_BYTES = 256 << 20
MAX_MANIFEST_VALUES = 1 << 23  # a dozen for each of the most tensors that a file may have
FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\0]{1,255}")  # joined to a folder: stays in it
HINT = "the manifest is damaged or of another version: convert again, or verify without it"


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
    """All fields of a manifest. `facts` holds the parts that are only shown, as plain JSON:
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
    raw = read_bounded(path, MAX_MANIFEST_BYTES)
    return parse_manifest(parse_json_object(raw, path, values=MAX_MANIFEST_VALUES), path)


def parse_manifest(body: Any, path: Path) -> Manifest:
    """A manifest from parsed JSON; `path` is where it came from, for messages. Raises InputError."""
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA:
        what = f'{path.name}: schema is {shown(repr(schema))}, expected "{SCHEMA}"'
        raise InputError(what, path=str(path), key="schema", hint=HINT)
    try:
        return _parse(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{path.name}: missing or malformed field {shown(str(error))}"
        raise InputError(what, path=str(path), hint=HINT) from error


def _parse(body: dict[str, Any]) -> Manifest:
    known = {"schema", "identity", "plan_digest", "recipe", "source", "artifact", "tokenizer_sha256", "tensors"}
    _require_size(body["size"], body["checks"])
    return Manifest(
        plan_digest=str(body["plan_digest"]),
        recipe=dict(body["recipe"]),
        source={k: v for k, v in body["source"].items() if k != "files"},
        source_files=tuple(_source_file(f) for f in body["source"]["files"]),
        artifact=tuple(_artifact_file(f) for f in body["artifact"]),
        tensors=tuple(_tensor(t) for t in body["tensors"]),
        tokenizer_sha256=body["tokenizer_sha256"],
        facts={k: v for k, v in body.items() if k not in known},
    )


def _require_size(size: Any, checks: Any) -> None:
    """Raise ValueError unless the size report and the checks are what summaries show."""
    types = size["types"]
    numbers = [size["source_bytes"], *(e[key] for e in types for key in ("tensors", "bytes"))]
    for number in numbers:
        _count(number)
    names = [isinstance(e["type"], str) for e in types]
    if not (isinstance(size["bits_per_weight"], (int, float)) and isinstance(checks, list) and all(names)):
        raise ValueError("size or checks")


def _source_file(record: Mapping[str, Any]) -> FileRecord:
    return FileRecord(str(record["name"]), _count(record["bytes"]), str(record["sha256"]))


def _artifact_file(record: Mapping[str, Any]) -> FileRecord:
    return FileRecord(_file_name(record["name"]), _count(record["bytes"]), str(record["sha256"]))


def _file_name(name: Any) -> str:
    """`name` if a file beside the manifest can have it. Raises ValueError for anything else, above all for paths."""
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file name")
    return name


def _count(value: Any) -> int:
    """`value` if it is a count of bytes or elements. Raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def _tensor(record: Mapping[str, Any]) -> TensorRecord:
    return TensorRecord(
        name=str(record["name"]),
        qtype=str(record["type"]),
        shape=tuple(_count(n) for n in record["shape"]),
        file=_count(record["file"]),
        offset=_count(record["offset"]),
        nbytes=_count(record["bytes"]),
        sha256=str(record["sha256"]),
        fallback_from=record.get("fallback_from"),
    )
