"""Manifests and records of calibration: their bytes, their seals, and what is refused when one is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quantkit.errors import InputError
from quantkit.report.calibration_record import CalibrationRecord, read_record
from quantkit.report.manifest import Manifest, read_manifest
from quantkit.report.records import FileRecord, TensorRecord
from quantkit.report.sealed import SealedRecord

KEY = b"k" * 32
FILE = FileRecord("x.safetensors", 24, "a" * 64)
SIZE = {
    "bytes": 24, "code_bytes": 8, "scale_bytes": 0, "header_bytes": 16, "padding_bytes": 0, "weights": 4,
    "bits_per_weight": 48.0, "source_bytes": 8, "ratio": 3.0, "types": [],
}  # fmt: skip
SAID: dict[str, Any] = {
    "plan_digest": "b" * 64,
    "source": {"kind": "folder", "name": "m\udcff", "repo": None, "commit": None},
    "source_files": (FileRecord("weights", 8, "c" * 64),),
    "artifact": (FILE,),
}
MADE = {
    "warnings": [{"code": "w", "message": "ä"}],
    "versions": {"python": "3"},
    "platform": "Linux",
    "timings": {"seconds": float("nan")},
}
TOOL = {"name": "quantkit", "version": "1", "numerics": 1}
COVERAGE = {"samples": 1, "tokens": 2, "unique_percent": 100, "experts": 0, "expert_percent": 100.0, "rare": []}


@dataclass(frozen=True)
class Kind:
    """A kind of record: one of it, its reader, the SHA-256 of its bytes, and keys without which it is none."""

    record: SealedRecord
    read: Callable[[Path], SealedRecord]
    sha256: str
    needed: tuple[str, ...]


KINDS = {
    "manifest": Kind(
        Manifest(
            **SAID,
            recipe={"name": "q8_0"},
            tensors=(TensorRecord("t", "q8_0", (2, 2), 0, 16, 8, "d" * 64),),
            tokenizer_sha256=None,
            facts={"tool": TOOL, "model": {"family": "llama"}, "size": SIZE, "checks": [], **MADE, "timings": {}},
        ),
        read_manifest,
        "cb7e6aeb637ae40baa37318338738826e8116fd81ece59b2e4f67eb8fd949c30",
        ("plan_digest", "recipe", "source", "artifact", "tool", "size", "checks", "warnings", "tensors"),
    ),
    "calibration": Kind(
        CalibrationRecord(**SAID, facts={"kind": "statistics", "data": {}, "coverage": COVERAGE, **MADE}),
        read_record,
        "f1ab48ef078c562a2d99a4b35fea0b6c4098549059f05e22aea8f746d5d542b2",
        ("plan_digest", "file", "source", "kind", "data", "coverage", "warnings"),
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def written(folder: Path, body: object) -> Path:
    path = folder / "x.manifest.json"
    path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    return path


def test_bytes_and_seals(kind: Kind, tmp_path: Path) -> None:
    encoded = kind.record.encode(KEY)
    assert hashlib.sha256(encoded).hexdigest() == kind.sha256
    found = kind.read(written(tmp_path, encoded))
    assert found.encode(KEY) == encoded
    assert found.sealed
    assert found.made_with(KEY)
    assert not found.made_with(b"another")
    assert found.identity == kind.record.identity
    assert not kind.record.made_with(KEY)  # nobody has read it


def test_a_changed_value_breaks_both_seals(kind: Kind, tmp_path: Path) -> None:
    body = json.loads(kind.record.encode(KEY))
    found = kind.read(written(tmp_path, {**body, "platform": "Plan 9"}))
    assert found.sealed is False
    assert not found.made_with(KEY)
    assert kind.read(written(tmp_path, {k: v for k, v in body.items() if "seal" not in k})).sealed is None


def test_what_is_no_such_record_is_refused(kind: Kind, tmp_path: Path) -> None:
    body = json.loads(kind.record.encode(KEY))
    bad = [{**body, "schema": other} for other in ("quantkit.manifest/9", None, "quantkit.")]
    bad += [{k: v for k, v in body.items() if k != key} for key in kind.needed]
    bad += [{**body, key: None} for key in kind.needed]
    for each in bad:
        with pytest.raises(InputError) as caught:
            kind.read(written(tmp_path, each))
        assert caught.value.hint
        assert "x.manifest.json" in caught.value.message
