"""The record beside a file of calibration: what was run on what, and how to check it. JSON with a schema name.

It is sealed as manifests are (`report.manifest`): only a record that this user made, and nobody changed, speaks for the
file beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.report.manifest import SEALS, encode_sealed, identity, made_with
from quantkit.report.records import FileRecord
from quantkit.untrusted import parse_json_object, read_bounded, shown

SCHEMA = "quantkit.calibration/1"
MAX_RECORD_BYTES = 256 << 20
MAX_RECORD_VALUES = 1 << 23
HINT = "the record is damaged or of another version: calibrate again with --force"


@dataclass(frozen=True)
class CalibrationRecord:
    """What `file` is. `plan_digest` stands for data, options and versions; together with the hashes of
    `source_files` it decides the bytes. `facts` are only shown: data, coverage, warnings, versions, timings. `read` is
    the JSON object that it was read from, None for a record that is being made."""

    plan_digest: str
    file: FileRecord
    source: Mapping[str, Any]
    source_files: tuple[FileRecord, ...]
    facts: Mapping[str, Any]
    read: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def identity(self) -> str:
        """SHA-256 over the plan and the source hashes: equal identity, equal bytes."""
        return identity(self.plan_digest, self.source_files)

    def encode(self, key: bytes) -> bytes:
        """The record as UTF-8 JSON with stable key order, sealed; `key` is that of the user who makes it."""
        body = {
            "schema": SCHEMA,
            "identity": self.identity,
            "plan_digest": self.plan_digest,
            "file": self.file.as_json(),
            "source": {**self.source, "files": [f.as_json() for f in self.source_files]},
            **self.facts,
        }
        return encode_sealed(body, key)

    def made_with(self, key: bytes) -> bool:
        """Whether a user with this key made the record, and nobody changed it since."""
        return made_with(self.read or {}, key)


def record_path(file: Path) -> Path:
    """Where the record of a file lies: x.safetensors -> x.safetensors.manifest.json."""
    return file.with_name(f"{file.name}.manifest.json")


def read_record(path: Path) -> CalibrationRecord:
    """Parse a record. Raises InputError naming the key when it is not one of this schema."""
    body = parse_json_object(read_bounded(path, MAX_RECORD_BYTES), path, values=MAX_RECORD_VALUES, finite=True)
    if body.get("schema") != SCHEMA:
        what = f'{shown(path.name)}: schema is {shown(repr(body.get("schema")))}, expected "{SCHEMA}"'
        raise InputError(what, path=str(path), key="schema", hint=HINT)
    try:
        known = {"schema", "identity", "plan_digest", "file", "source", *SEALS}
        facts = {key: value for key, value in body.items() if key not in known}
        _require_facts(facts)
        return CalibrationRecord(
            plan_digest=str(body["plan_digest"]),
            file=_file(body["file"]),
            source={key: value for key, value in body["source"].items() if key != "files"},
            source_files=tuple(_file(found) for found in body["source"]["files"]),
            facts=facts,
            read=body,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{shown(path.name)}: missing or malformed field {shown(str(error))}"
        raise InputError(what, path=str(path), hint=HINT) from error


def _require_facts(facts: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError unless the facts are what summaries show."""
    coverage = facts["coverage"]
    numbers = [coverage[key] for key in ("samples", "tokens", "unique_percent", "experts", "expert_percent")]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise ValueError("coverage")
    if not all(isinstance(name, str) for name in coverage["rare"]) or not {"kind", "data", "warnings"} <= set(facts):
        raise ValueError("rare, kind, data or warnings")


def _file(found: Mapping[str, Any]) -> FileRecord:
    name, nbytes, sha256 = found["name"], found["bytes"], found["sha256"]
    if not isinstance(name, str) or not isinstance(sha256, str) or type(nbytes) is not int or nbytes < 0:
        raise ValueError("a file's name, bytes or sha256")
    return FileRecord(name, nbytes, sha256)
