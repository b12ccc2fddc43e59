"""Whether an engine computes what a file says, by how far it is from our own run of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quantkit.quality.checks.base import Check
from quantkit.quality.engines import LLAMA_CPP
from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.evaluation.scores import F64

ARITHMETIC = 2.0  # times what rounded inputs cost in our own run an engine may be from that


class Far(Protocol):
    """How far an engine is from the source, which is told and not judged."""

    @property
    def words(self) -> str: ...

    def as_json(self) -> dict[str, Any]: ...


@record
class Measure:
    """A distance of two runs: `key` in records, `words` before and `of` behind its figure. Up to `same` is what caches
    in float16, tables and products in another order may cost, and `arithmetic` times what rounded inputs cost."""

    key: str
    words: str
    of: str
    same: float
    arithmetic: float = ARITHMETIC


def upper(distances: F64) -> float:
    """The upper quartile: single tokens go elsewhere where a router of a mixture is undecided."""
    return float(np.quantile(distances, 0.75))


def judged(measure: Measure, near: F64, arithmetic: Callable[[], F64], far: Far) -> Check:
    """The look at llama.cpp: `near` is its distance from our run of the same weights, `arithmetic` finds out what
    rounded inputs cost there, which is asked only where `near` is more than the same."""
    found, limit = upper(near), measure.same
    data = {**far.as_json(), f"own_{measure.key}": found, f"own_{measure.key}_max": float(near.max())}
    if found > measure.same:
        cost = upper(arithmetic())
        limit = max(measure.same, measure.arithmetic * cost)
        data[f"arithmetic_{measure.key}"] = cost
    data[f"own_{measure.key}_limit"] = limit
    own = f"{measure.words} {found:.2g} to {measure.of}, of which at most {limit:.2g} is arithmetic"
    if not found <= limit:
        return Check(LLAMA_CPP, False, f"llama.cpp computes something else than the file says: {own}", data)
    return Check(LLAMA_CPP, True, f"{own}; {far.words}", data)
