"""The parts of a manifest as types: what msgspec checks when one is read, and what JSON Schemas are made from.

Fields that are not listed here may follow within a schema version; they are kept and sealed, and mean nothing to
this version.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=4096)]


class FileRecord(Struct, frozen=True, rename={"nbytes": "bytes"}):
    """A file by name, size and SHA-256 (lower-case hex). Of a source in folders the name is a relative path."""

    name: Name
    nbytes: Count
    sha256: Sha256

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.nbytes, "sha256": self.sha256}


class TensorRecord(Struct, frozen=True, rename={"nbytes": "bytes", "qtype": "type"}):
    """A tensor of the artifact; `offset` is absolute in file number `file`, `shape` in checkpoint order.

    `sha256` is "" in the draft of an artifact that is not published yet.
    """

    name: str
    qtype: str
    shape: tuple[Count, ...]
    file: Count
    offset: Count
    nbytes: Count
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$", max_length=64)]
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


class RecipeRecord(Struct, frozen=True):
    """What was asked for: the recipe's name and the options that changed it."""

    name: str


class AdapterRecord(Struct, frozen=True):
    """A LoRA adapter that was merged into the weights, or written as a file; products were multiplied by `scales`."""

    name: str
    base: str | None
    sha256: Sha256
    rank: Count
    alpha: float
    scales: tuple[float, ...]
    modules: Count
    saved: Count


class SourceRecord(Struct, frozen=True):
    """Where the weights came from. `repo` and `commit` are those of the Hub."""

    kind: str
    name: str
    repo: str | None
    commit: str | None
    files: Annotated[tuple[FileRecord, ...], Meta(min_length=1)]
    adapters: tuple[AdapterRecord, ...] = ()


class ToolRecord(Struct, frozen=True):
    """What made the artifact; `numerics` is raised whenever the same plan gives other bytes."""

    name: str
    version: str
    numerics: Count


class TypeRecord(Struct, frozen=True, rename={"nbytes": "bytes"}):
    """The tensors of one type."""

    type: str
    tensors: Count
    weights: Count
    nbytes: Count
    code_bytes: Count
    scale_bytes: Count


class SizeRecord(Struct, frozen=True, rename={"nbytes": "bytes"}):
    """Where the bytes of an artifact are."""

    nbytes: Count
    code_bytes: Count
    scale_bytes: Count
    header_bytes: Count
    padding_bytes: Count
    weights: Count
    bits_per_weight: Annotated[float, Meta(ge=0, le=1e9)]
    source_bytes: Positive
    ratio: Annotated[float, Meta(ge=0, le=1e9)]
    types: tuple[TypeRecord, ...]


class CheckRecord(Struct, frozen=True):
    """The outcome of one look that was taken before the artifact got its name."""

    check: str
    ok: bool | None
    detail: str


class WarningRecord(Struct, frozen=True):
    """Something that a user should know of the artifact."""

    code: str
    message: str


class CoverageRecord(Struct, frozen=True):
    """What the data of a calibration reached, as summaries show it."""

    samples: Count
    tokens: Count
    unique_percent: float
    experts: Count
    expert_percent: float
    rare: tuple[str, ...]


class MethodRecord(Struct, frozen=True):
    """How the values of a checkpoint for servers were chosen."""

    name: str
    transform: str | None
    alpha: float
    damping: float | None
    order: str | None
    passes: int | None


class ManifestRecord(Struct, frozen=True, kw_only=True):
    """A whole manifest, schema quantkit.manifest/1.

    `seal` is the SHA-256 over the canonical JSON of everything but itself; `own_seal` is an HMAC-SHA256 that only
    the user who made the artifact can check. Both are missing in manifests of versions before the seal, and empty
    in the draft of an artifact that is not published yet.
    """

    schema: str
    identity: Sha256
    plan_digest: Sha256
    recipe: RecipeRecord
    source: SourceRecord
    artifact: tuple[FileRecord, ...]
    tokenizer_sha256: Sha256 | None
    tool: ToolRecord
    model: dict[str, str | int]
    size: SizeRecord
    checks: tuple[CheckRecord, ...]
    warnings: tuple[WarningRecord, ...]
    versions: dict[str, str]
    platform: str
    timings: dict[str, float]
    tensors: tuple[TensorRecord, ...]
    method: MethodRecord | None = None
    calibration: dict[str, Any] | None = None
    layers: tuple[dict[str, Any], ...] | None = None
    preserved: tuple[dict[str, Any], ...] | None = None
    replaced: tuple[FileRecord, ...] = ()
    seal: Sha256 | None = None
    own_seal: Sha256 | None = None


class CalibrationFields(Struct, frozen=True, kw_only=True):
    """What is checked of a record beside a file of calibration, schema quantkit.calibration/1."""

    plan_digest: Sha256
    file: FileRecord
    source: SourceRecord
    kind: str
    data: dict[str, Any]
    coverage: CoverageRecord
    warnings: tuple[WarningRecord, ...]
