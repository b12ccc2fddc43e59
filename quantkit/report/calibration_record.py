"""The record beside a file of calibration: what was run on what, and how to check it. JSON with a schema name.

Sealed as `report.sealed` says: only a record that this user made, and nobody changed, speaks for the file beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.records import record
from quantkit.report.records import CalibrationFields, FileRecord
from quantkit.report.sealed import (
    MAX_RECORD_BYTES,
    MAX_RECORD_VALUES,
    SUFFIX,
    SealedRecord,
    checked,
    facts_of,
    origin_of,
)
from quantkit.untrusted import parse_json_object, read_bounded

HINT = "the record is damaged or of another version: calibrate again with --force"


@record(kw_only=True)
class CalibrationRecord(SealedRecord):
    """A record of one file. Its facts: kind, data, coverage, warnings, versions, timings."""

    @property
    def file(self) -> FileRecord:
        [file] = self.artifact
        return file

    SCHEMA = "quantkit.calibration/1"

    def own(self) -> dict[str, Any]:
        return {
            "file": self.file.as_json(),
            "source": self.origin,
            **self.facts,
        }

    def path(self, first: Path) -> Path:
        return record_path(first)


def record_path(file: Path) -> Path:
    """Where the record of a file lies: x.safetensors -> x.safetensors.manifest.json."""
    return file.with_name(f"{file.name}{SUFFIX}")


def read_record(path: Path) -> CalibrationRecord:
    """Parse a record. Raises InputError naming the key when it is not one of this schema."""
    body = parse_json_object(read_bounded(path, MAX_RECORD_BYTES), path, values=MAX_RECORD_VALUES, finite=True)
    record = checked(body, path, CalibrationRecord.SCHEMA, CalibrationFields, HINT)
    return CalibrationRecord(
        plan_digest=record.plan_digest,
        source=origin_of(body),
        source_files=record.source.files,
        artifact=(record.file,),
        facts=facts_of(body, "file"),
        read=body,
    )
