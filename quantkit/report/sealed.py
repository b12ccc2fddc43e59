"""Records beside finished files: what the files are, where they came from, and how to check them. JSON with two seals.

`seal` is a hash over everything else in a record: whoever changes a value by accident is noticed by everyone.
`own_seal` needs the key of the user who made the record: whoever changes a value on purpose, and computes `seal` anew,
is noticed by that user, who is then not told that her files are "already built".
"""

from __future__ import annotations

import hashlib
import hmac
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from quantkit.errors import InputError
from quantkit.jsontext import canonical_json, dump_json, utf8
from quantkit.records import record
from quantkit.report.records import FileRecord
from quantkit.untrusted import shown

F = TypeVar("F", bound=msgspec.Struct)

MAX_RECORD_BYTES = 256 << 20
MAX_RECORD_VALUES = 1 << 23  # a dozen for each of the most tensors that a file may have
SEALS = ("seal", "own_seal")
SUFFIX = ".manifest.json"
KEYS = frozenset({"schema", "identity", "plan_digest", "source", *SEALS})  # what is no fact in any record


@record(kw_only=True)
class SealedRecord(ABC):
    """What every record says. `plan_digest` stands for all but the source that decides the bytes of `artifact`.

    `facts` holds the parts that are only shown, as plain JSON: tool, versions, warnings, timings. `read` is the JSON
    object that the record was read from, None for one that is being made.
    """

    plan_digest: str
    source: Mapping[str, Any]
    source_files: tuple[FileRecord, ...]
    artifact: tuple[FileRecord, ...]
    facts: Mapping[str, Any]
    read: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    SCHEMA: ClassVar[str]

    @abstractmethod
    def own(self) -> dict[str, Any]:
        """What follows schema, identity and plan digest in the JSON object, in the order of its keys."""

    @abstractmethod
    def path(self, first: Path) -> Path:
        """Where the record of files of which `first` is the first lies."""

    @property
    def identity(self) -> str:
        """SHA-256 over the plan and the source hashes: equal identity, equal bytes."""
        return identity(self.plan_digest, self.source_files)

    @property
    def replaced(self) -> tuple[FileRecord, ...]:
        """Files of the source that were taken over, and in whose place the artifact has its own now."""
        return ()

    @property
    def origin(self) -> dict[str, Any]:
        """The source and its files as JSON."""
        return {**self.source, "files": [f.as_json() for f in self.source_files]}

    def encode(self, key: bytes = b"") -> bytes:
        """The record as UTF-8 JSON with stable key order, sealed; `key` is that of the user who makes it."""
        head = {"schema": self.SCHEMA, "identity": self.identity, "plan_digest": self.plan_digest}
        body = json.loads(dump_json({**head, **self.own()}))  # as whoever reads it will have it: NaN is null
        body["own_seal"] = own_seal(body, key)
        body["seal"] = seal(body)
        return (dump_json(body, indent=1) + "\n").encode()

    @property
    def sealed(self) -> bool | None:
        """Whether the seal that was read is that of the other fields. None where there are no seals: older versions."""
        body = dict(self.read or {})
        if not body.keys() & set(SEALS):
            return None
        stated = body.pop("seal", None)
        return bool(stated == seal(body))

    def made_with(self, key: bytes) -> bool:
        """Whether a user with this key made the record, and nobody changed it since."""
        read = self.read or {}
        stated = str(read.get("own_seal") or "")
        own = own_seal({name: value for name, value in read.items() if name not in SEALS}, key)
        return hmac.compare_digest(stated.encode("utf-8", "replace"), own.encode())


def seal(body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the canonical JSON of a record without its field `seal`."""
    return hashlib.sha256(canonical_json(body)).hexdigest()


def own_seal(body: Mapping[str, Any], key: bytes) -> str:
    """HMAC-SHA256 (hex) over the canonical JSON of a record without its seals."""
    return hmac.new(key, canonical_json(body), hashlib.sha256).hexdigest()


def identity(plan_digest: str, source_files: Sequence[FileRecord]) -> str:
    """Hex SHA-256 of the plan digest and the sorted source files (name, size, hash)."""
    lines = [plan_digest, *sorted(f"{f.sha256} {f.nbytes} {f.name}" for f in source_files)]
    return hashlib.sha256(utf8("\n".join(lines))).hexdigest()


def origin_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The source that a record names, without its files."""
    return {key: value for key, value in body["source"].items() if key != "files"}


def facts_of(body: Mapping[str, Any], *own: str) -> dict[str, Any]:
    """What is only shown of a record: all but the keys of every record and its `own`."""
    return {key: value for key, value in body.items() if key not in KEYS and key not in own}


def checked(body: Mapping[str, Any], path: Path, schema: str, fields: type[F], hint: str) -> F:
    """The typed fields of a record that was read from `path`. Raises InputError naming the key of what is wrong."""
    if body.get("schema") != schema:
        what = f'{shown(path.name)}: schema is {shown(repr(body.get("schema")))}, expected "{schema}"'
        raise InputError(what, path=str(path), key="schema", hint=hint)
    try:
        return msgspec.convert(body, fields)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        what = f"{shown(path.name)}: missing or malformed field: {shown(str(error))}"
        raise InputError(what, path=str(path), hint=hint) from error
