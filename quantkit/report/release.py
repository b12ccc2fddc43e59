"""release.json: what a deployer's program reads of a folder of artifacts. JSON with a schema name and a seal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.jsontext import dump_json
from quantkit.report.sealed import seal
from quantkit.untrusted import parse_json_object, read_bounded, shown

RELEASE = "release.json"
SCHEMA = "quantkit.release/1"
MAX_BYTES, MAX_VALUES = 64 << 20, 1 << 20


def encode_release(body: Mapping[str, Any]) -> bytes:
    """The file as UTF-8 JSON with the keys in their order and, last, a hash over everything else."""
    said = json.loads(dump_json({"schema": SCHEMA, **body}))  # as whoever reads it will have it
    said["seal"] = seal(said)
    return (dump_json(said, indent=1) + "\n").encode()


def read_release(path: Path) -> dict[str, Any]:
    """What a release.json says. Raises InputError for one that is of another schema, was changed, or lists no
    artifacts."""
    body = parse_json_object(read_bounded(path, MAX_BYTES), path, values=MAX_VALUES)
    hint = "write it anew with quantkit release --force"
    if body.get("schema") != SCHEMA:
        what = f'{shown(path)}: schema is {shown(repr(body.get("schema")))}, expected "{SCHEMA}"'
        raise InputError(what, path=str(path), key="schema", hint=hint)
    if body.get("seal") != seal({key: value for key, value in body.items() if key != "seal"}):
        what = f"{shown(path)} was changed: its seal is that of another text"
        raise InputError(what, path=str(path), key="seal", hint=hint)
    artifacts, files = body.get("artifacts"), body.get("files")
    if not all(isinstance(each, list) and all(isinstance(one, dict) for one in each) for each in (artifacts, files)):
        raise InputError(f"{shown(path)}: artifacts and files are no lists", path=str(path), hint=hint)
    return body
