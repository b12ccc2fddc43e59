"""Where weights come from, as outputs tell it."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Adapter(TypedDict):
    """A LoRA adapter; the products of its matrices are multiplied by scales."""

    name: str
    base: str | None
    sha256: str
    rank: int
    alpha: float
    scales: list[float]
    modules: int
    saved: int


class Source(TypedDict):
    """Where weights come from; repo and commit for those of the Hub; adapters that are merged into them."""

    kind: str
    name: str
    repo: str | None
    commit: str | None
    adapters: NotRequired[list[Adapter]]
