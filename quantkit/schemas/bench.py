"""What bench prints."""

from __future__ import annotations

from typing import TypedDict


class BenchBatch(TypedDict):
    """So many sequences at a time: medians over the runs, of the latency of steps quantiles over all of them."""

    batch: int
    prompt_tokens_per_s: float
    first_token_seconds: float
    tokens_per_s: float
    latency_p50_seconds: float
    latency_p95_seconds: float
    peak_bytes: int
    load_seconds: float
    runs_tokens_per_s: list[float]
    bytes_per_token: float


class BenchModel(TypedDict):
    """A file; `role` is artifact or original, `types` the bytes of each type."""

    role: str
    name: str
    path: str
    bytes: int
    weights: int
    types: dict[str, int]
    batches: list[BenchBatch]


class BenchCompared(TypedDict):
    """The artifact's speed relative to the original's at a batch; `why` it is not faster, by the measurements."""

    batch: int
    prompt_ratio: float
    ratio: float
    ratio_low: float
    ratio_high: float
    faster: bool
    why: list[str]


class Bench(TypedDict):
    """Of bench: speed, latency and memory of one model or two on this machine."""

    version: str
    kind: str
    engine: str
    engine_version: str
    threads: int
    prompt_tokens: int
    steps: int
    runs: int
    models: list[BenchModel]
    compared: list[BenchCompared]
    seconds: float
