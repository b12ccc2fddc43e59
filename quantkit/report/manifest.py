"""The manifest: what an artifact is, where it came from, and how to check it. JSON with a schema name.

The manifest is the commit record of an artifact: it is written last, and an artifact without one is not published.
It carries two seals. `seal` is a hash over everything else in it: whoever changes a value by accident is noticed by
everyone. `own_seal` needs the key of the user who made the artifact: whoever changes a value on purpose, and computes
`seal` anew, is noticed by that user, who is then not told that her artifact is "already built".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import InputError
from quantkit.filenames import is_file_name
from quantkit.jsontext import canonical_json, dump_json, utf8
from quantkit.report.records import FileRecord, ManifestRecord, TensorRecord
from quantkit.untrusted import parse_json_object, read_bounded, shown

__all__ = ["FileRecord", "Manifest", "TensorRecord", "identity", "manifest_path", "parse_manifest", "read_manifest"]

SCHEMA = "quantkit.manifest/1"
MAX_MANIFEST_BYTES = 256 << 20
MAX_MANIFEST_VALUES = 1 << 23  # a dozen for each of the most tensors that a file may have
SPLIT_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}", re.DOTALL)
HINT = "the manifest is damaged or of another version: convert again, or verify without it"
SEALS = ("seal", "own_seal")
CHECKPOINT_MANIFEST = "model.manifest.json"


@dataclass(frozen=True)
class Manifest:
    """All fields of a manifest. `facts` holds the parts that are only shown, as plain JSON:
    tool, versions, size report, timings, checks, warnings.

    `read` is the JSON object that it was read from, None for a manifest that is being made.
    """

    plan_digest: str
    recipe: Mapping[str, Any]
    source: Mapping[str, Any]
    source_files: tuple[FileRecord, ...]
    artifact: tuple[FileRecord, ...]
    tensors: tuple[TensorRecord, ...]
    tokenizer_sha256: str | None
    facts: Mapping[str, Any]
    read: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def identity(self) -> str:
        """SHA-256 over the plan and the source hashes: equal identity, equal bytes."""
        return identity(self.plan_digest, self.source_files)

    def encode(self, key: bytes = b"") -> bytes:
        """The manifest as UTF-8 JSON with stable key order, sealed; `key` is that of the user who makes it."""
        body: dict[str, Any] = {
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
        return encode_sealed(body, key)

    @property
    def sealed(self) -> bool | None:
        """Whether the seal that was read is that of the other fields. None where there are no seals: older versions."""
        body = dict(self.read or {})
        if not body.keys() & set(SEALS):
            return None
        stated = body.pop("seal", None)
        return bool(stated == seal(body))

    def made_with(self, key: bytes) -> bool:
        """Whether a user with this key made the manifest, and nobody changed it since."""
        return made_with(self.read or {}, key)


def encode_sealed(body: Mapping[str, Any], key: bytes) -> bytes:
    """A JSON object as UTF-8 with both seals, made with the user's `key`."""
    sealed = json.loads(dump_json(body))  # as whoever reads it will have it: NaN is null
    sealed["own_seal"] = own_seal(sealed, key)
    sealed["seal"] = seal(sealed)
    return (dump_json(sealed, indent=1) + "\n").encode()


def made_with(read: Mapping[str, Any], key: bytes) -> bool:
    """Whether a user with this key sealed an object that was read, and nobody changed it since."""
    body = {name: value for name, value in read.items() if name not in SEALS}
    stated = str(read.get("own_seal") or "")
    return hmac.compare_digest(stated.encode("utf-8", "replace"), own_seal(body, key).encode())


def seal(body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the canonical JSON of a manifest without its field `seal`."""
    return hashlib.sha256(canonical_json(body)).hexdigest()


def own_seal(body: Mapping[str, Any], key: bytes) -> str:
    """HMAC-SHA256 (hex) over the canonical JSON of a manifest without its seals."""
    return hmac.new(key, canonical_json(body), hashlib.sha256).hexdigest()


def identity(plan_digest: str, source_files: Sequence[FileRecord]) -> str:
    """Hex SHA-256 of the plan digest and the sorted source files (name, size, hash)."""
    lines = [plan_digest, *sorted(f"{f.sha256} {f.nbytes} {f.name}" for f in source_files)]
    return hashlib.sha256(utf8("\n".join(lines))).hexdigest()


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of a file set lies: that of its first file, with another ending.

    model.gguf -> model.manifest.json; model-00001-of-00003.gguf -> model-00001-of-00003.manifest.json, so that a
    split artifact and a whole one, or one split otherwise, never share a manifest; the shards of a checkpoint folder,
    which is one artifact however it is cut -> model.manifest.json.
    """
    if artifact.suffix == ".safetensors" or not artifact.suffix:
        return artifact.with_name(CHECKPOINT_MANIFEST)
    return artifact.with_name(f"{artifact.name.removesuffix(artifact.suffix)}.manifest.json")


def find_manifest(artifact: Path) -> Path:
    """The manifest that is there for a file, else where it would lie.

    Earlier versions gave a split artifact the name of a whole one: model.manifest.json.
    """
    path = manifest_path(artifact)
    split = SPLIT_NAME.fullmatch(artifact.name.removesuffix(artifact.suffix))
    older = artifact.with_name(f"{split['stem']}.manifest.json") if split else path
    return older if not path.exists() and older.exists() and artifact.name in _names(older) else path


def _names(path: Path) -> set[str]:
    try:
        return {file.name for file in read_manifest(path).artifact}
    except InputError:
        return set()


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest. Raises InputError naming the key when it is not one of this schema."""
    raw = read_bounded(path, MAX_MANIFEST_BYTES)
    return parse_manifest(parse_json_object(raw, path, values=MAX_MANIFEST_VALUES), path)


def parse_manifest(body: Any, path: Path, *, draft: bool = False) -> Manifest:
    """A manifest from parsed JSON; `path` is where it came from, for messages. Raises InputError.

    A `draft` names no files yet, and has no hashes of tensors.
    """
    schema = body.get("schema") if isinstance(body, dict) else None
    if schema != SCHEMA:
        what = f'{shown(path.name)}: schema is {shown(repr(schema))}, expected "{SCHEMA}"'
        raise InputError(what, path=str(path), key="schema", hint=HINT)
    try:
        record = msgspec.convert(body, ManifestRecord)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        what = f"{shown(path.name)}: missing or malformed field: {shown(str(error))}"
        raise InputError(what, path=str(path), hint=HINT) from error
    wrong = None if draft else _unfinished(record)
    if wrong:
        raise InputError(f"{shown(path.name)}: {wrong}", path=str(path), hint=HINT)
    known = {"schema", "identity", "plan_digest", "recipe", "source", "artifact", "tokenizer_sha256", "tensors", *SEALS}
    return Manifest(
        plan_digest=record.plan_digest,
        recipe=dict(body["recipe"]),
        source={k: v for k, v in body["source"].items() if k != "files"},
        source_files=record.source.files,
        artifact=record.artifact,
        tensors=record.tensors,
        tokenizer_sha256=record.tokenizer_sha256,
        facts={k: v for k, v in body.items() if k not in known},
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
