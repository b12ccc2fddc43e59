"""What calibrate prints, and the record beside the file that it writes."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from quantkit.schemas.files import File, JsonScalar, Published, Warned


class Coverage(TypedDict):
    """How much text, and what it reached."""

    samples: int
    tokens: int
    repeated: int
    unique_percent: float
    tokens_per_column: float
    experts: int
    expert_percent: float
    rare: int
    expert_tokens: dict[str, list[int]]


class Calibrate(TypedDict):
    """Of calibrate; what would be done with --dry-run."""

    kind: str
    file: NotRequired[Published]
    manifest: NotRequired[str]
    identity: NotRequired[str]
    built: NotRequired[bool]
    data: NotRequired[dict[str, Any]]
    warnings: NotRequired[list[Warned]]
    coverage: NotRequired[dict[str, Any]]
    would_write: NotRequired[str]
    samples: NotRequired[int]
    seqlen: NotRequired[int]
    tokens: NotRequired[int]
    hessian: NotRequired[bool]
    memory_bytes: NotRequired[int]
    disk_bytes: NotRequired[int]
    activations: NotRequired[dict[str, JsonScalar]]


class Calibration(TypedDict):
    """The manifest beside a file of calibrate."""

    identity: str
    plan_digest: str
    file: File
    source: dict[str, Any]
    kind: str
    hessian: bool
    coverage: dict[str, Any]
    warnings: list[Warned]
    tool: dict[str, Any]
    versions: dict[str, str | None]
    platform: str
    timings: dict[str, float]
    data: dict[str, Any]
