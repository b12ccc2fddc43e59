"""release.json, what is read of a folder of artifacts by programs that deploy; and what release prints."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from quantkit.schemas.evaluation import Estimate


class Quality(TypedDict):
    """What was measured of an artifact against the original; where convert's gates were judged, `kl` alone. `held_out`
    is False where the text is one that it was calibrated on, null where nobody knows."""

    kl: Estimate
    top1_agreement: Estimate | None
    perplexity_ratio: Estimate | None
    tokens: int
    data: str
    held_out: bool | None
    reference: str
    engine: str | None
    version: str


class JudgedGate(TypedDict):
    """A gate and what became of it, with the figures where they are known."""

    gate: str
    ok: bool
    by: str
    metric: str | None
    value: float | None
    bound: float | None
    limit: float | None
    how: str


class Gates(TypedDict):
    """All gates of an artifact."""

    verdict: Literal["passed", "failed", "not judged"]
    judged: list[JudgedGate]


class ReleasedFile(TypedDict):
    """A file of the folder, by its path in there."""

    name: str
    bytes: int
    sha256: str


class OtherFile(ReleasedFile):
    """A file that is no artifact's."""

    role: str


class CheckMade(TypedDict):
    """A look: `when` is "made" or "released"."""

    check: str
    ok: bool | None
    detail: str
    when: Literal["made", "released"]


class Consumer(TypedDict):
    """What a program makes of an artifact, by the table of consumers."""

    consumer: str
    ok: bool
    rule: NotRequired[str]
    module: NotRequired[str]
    reason: NotRequired[str]
    nearest: NotRequired[str]
    caveats: NotRequired[list[str]]


class ReleasedWarning(TypedDict):
    code: str
    message: str


class ReleasedArtifact(TypedDict):
    """An artifact. `files` are all of its files; `rollback_to` is the next in the order behind it; `quality` is null
    where it was not measured, `consumers` where nobody can say."""

    name: str
    kind: str
    container: str
    recipe: str
    identity: str
    plan_digest: str
    role: Literal["primary", "fallback", "encoder", "adapter", "other"]
    rollback_to: str | None
    encoder: str | None
    modelfile: str | None
    bytes: int
    bits_per_weight: float
    files: list[ReleasedFile]
    manifest: ReleasedFile
    verified: bool
    checks: list[CheckMade]
    quality: Quality | None
    gates: Gates
    consumers: list[Consumer] | None
    warnings: list[ReleasedWarning]


class Step(TypedDict):
    """A step of the lineage, see docs/release.md."""

    relation: str
    name: str
    repo: str | None
    commit: str | None
    sha256: str | None
    by: str


class License(TypedDict):
    """What the source's card says."""

    ids: list[str]
    name: str | None
    link: str | None


class Baseline(TypedDict):
    """What all are compared with: an artifact of floats in the folder, else the source."""

    kind: Literal["artifact", "source"]
    name: str
    repo: str | None
    commit: str | None


class ReleaseModel(TypedDict):
    """The model that was quantized."""

    name: str
    repo: str | None
    commit: str | None
    kind: str
    architecture: str
    weights: int
    files: list[ReleasedFile]


class Release(TypedDict):
    """release.json. `order` begins with the primary and rises in size; `not_before` is in UTC."""

    name: str
    model: ReleaseModel
    task: str | None
    license: License
    lineage: list[Step]
    datasets: list[str]
    primary: str
    fallback: list[str]
    order: list[str]
    baseline: Baseline
    not_before: str | None
    artifacts: list[ReleasedArtifact]
    files: list[OtherFile]
    tool: dict[str, Any]
    seal: str


class WrittenFile(TypedDict):
    """A file of a release: "new", "replaced" or "same"; with --dry-run what it would be. Bytes are null where they are
    not known before."""

    name: str
    state: Literal["new", "replaced", "same", "removed"]
    bytes: int | None


class ReleasedFolder(TypedDict):
    """A folder: what was written, and what its release.json says."""

    folder: str
    primary: str
    order: list[str]
    baseline: str
    not_before: str | None
    signed: bool
    files: list[WrittenFile]
    warnings: list[ReleasedWarning]


class Released(TypedDict):
    """Of release."""

    dry_run: bool
    releases: list[ReleasedFolder]
