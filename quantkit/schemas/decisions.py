"""What is printed of decisions before work: which recipe, and the walk to the smallest artifact that passes."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from quantkit.schemas.evaluation import Gate


class Needs(TypedDict):
    """Bytes that serving takes, and of what."""

    weights: int
    cache: int
    overhead: int
    bytes: int


class OfOriginal(Needs):
    fits: bool


class Measured(TypedDict):
    """What a record beside the source says of a recipe; bounds are upper ones, at 95 %."""

    recipe: str
    bytes: int
    kl: float
    kl_high: float | None
    perplexity_ratio_high: float | None
    tokens: int
    record: str


class Choice(TypedDict):
    """A recipe for the source; `bits` is its rung on the ladder, 0 beside it."""

    recipe: str
    bits: int
    file_bytes: int
    bits_per_weight: float
    needs: Needs
    fits: bool
    needs_text: bool
    measured: Measured | None


class Reason(TypedDict):
    why: str
    source: str


class Recommend(TypedDict):
    """Of recommend: `wanted` is what the rules would take, `largest` the largest that fits where that does not."""

    source: str
    verdict: Literal["quantize", "do not quantize", "does not fit"]
    workload: str
    driver: str
    memory_bytes: int
    memory_of_machine: bool
    context: int
    slots: int
    kv_type: str
    cache: str
    gate: str
    recipe: str | None
    calibrate: bool
    original: OfOriginal
    wanted: Choice | None
    chosen: Choice | None
    next: list[str]
    largest: Choice | None
    ladder: list[Choice]
    reasons: list[Reason]


class TuneStep(TypedDict):
    """A recipe of the ladder; `ok` is null where nothing was judged, `skipped` says why."""

    recipe: str
    bytes: int
    ok: bool | None
    measured_before: bool
    gates: list[Gate]
    skipped: str | None


class Tune(TypedDict):
    """Of tune: every step by rising size, and what was published."""

    steps: list[TuneStep]
    artifact: dict[str, Any] | None
