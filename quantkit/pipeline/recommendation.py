"""What recommend is asked, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.errors import ResourceError
from quantkit.pipeline.given import Coercion, coerce, given_names, given_paths, given_text
from quantkit.pipeline.measured import Measurement
from quantkit.records import record
from quantkit.report.text import size

QUANTIZE, KEEP, NO_ROOM = "quantize", "do not quantize", "does not fit"

COERCED: dict[str, Coercion] = {
    "source": given_text, "consumers": given_names, "records": given_paths,
}  # fmt: skip


@record
class RecommendRequest:
    """The options of `quantkit recommend`. `memory` is a size or a device, None: this machine's; `context` are tokens
    of each of `slots` texts at a time. `records` are further places of measurements, `beside` says to look beside the
    source, too."""

    source: str
    workload: str = "chat"
    memory: str | None = None
    context: str | None = None
    kv_type: str = "f16"
    driver: str = "memory"
    slots: int = 1
    consumers: tuple[str, ...] = ()
    tp: int = 1
    records: tuple[Path, ...] = ()
    beside: bool = True
    offline: bool = False
    pre: str | None = None

    def __post_init__(self) -> None:
        coerce(self, COERCED)


@record
class Needs:
    """Bytes that serving takes, and of what: weights to the byte, the cache of keys and values, and overhead."""

    weights: int
    cache: int
    overhead: int

    @property
    def nbytes(self) -> int:
        return self.weights + self.cache + self.overhead

    @property
    def words(self) -> str:
        parts = f"{size(self.weights)} weights + {size(self.cache)} cache + {size(self.overhead)} overhead"
        return f"{parts} = {size(self.nbytes)}"

    def as_json(self) -> dict[str, int]:
        return {
            "weights": self.weights,
            "cache": self.cache,
            "overhead": self.overhead,
            "bytes": self.nbytes,
        }


@record
class Choice:
    """A recipe that can be made of the source; `bits` is its rung, 0 below or beside the ladder."""

    recipe: str
    bits: int
    nbytes: int
    bits_per_weight: float
    needs: Needs
    fits: bool
    text: bool
    measured: Measurement | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "bits": self.bits,
            "file_bytes": self.nbytes,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "needs": self.needs.as_json(),
            "fits": self.fits,
            "needs_text": self.text,
            "measured": self.measured.as_json() if self.measured else None,
        }


@record
class Reason:
    """Why, and where that is from."""

    why: str
    source: str

    def as_json(self) -> dict[str, str]:
        return {"why": self.why, "source": self.source}


@record
class Recommendation:
    """The answer. `chosen` is None where nothing is quantized or nothing that the workload allows fits; `wanted` is
    what the rules alone would take. Where that does not fit, `largest` is the largest of all recipes that fits, None
    where none does, and `smallest` the smallest of all."""

    source: str
    verdict: str
    request: RecommendRequest
    memory_bytes: int
    of_machine: bool
    context: int
    cache_words: str
    original: Needs
    original_bits: float  # of a weight, as the source stores it
    gate: str
    ladder: tuple[Choice, ...]
    wanted: Choice | None
    chosen: Choice | None
    largest: Choice | None
    smallest: Choice | None
    reasons: tuple[Reason, ...]
    calib: bool

    @property
    def next(self) -> tuple[Choice, ...]:
        """What to try when the gate fails: the rungs above that fit."""
        start = self.chosen
        return tuple(c for c in self.ladder if start and c.bits > start.bits and c.fits)

    def as_json(self) -> dict[str, Any]:
        request = self.request
        return {
            "source": self.source,
            "verdict": self.verdict,
            "workload": request.workload,
            "driver": request.driver,
            "memory_bytes": self.memory_bytes,
            "memory_of_machine": self.of_machine,
            "context": self.context,
            "slots": request.slots,
            "kv_type": request.kv_type,
            "cache": self.cache_words,
            "gate": self.gate,
            "recipe": self.chosen.recipe if self.chosen else None,
            "calibrate": self.calib,
            "original": {**self.original.as_json(), "fits": self.original.nbytes <= self.memory_bytes},
            "wanted": self.wanted.as_json() if self.wanted else None,
            "chosen": self.chosen.as_json() if self.chosen else None,
            "next": [choice.recipe for choice in self.next],
            "largest": self.largest.as_json() if self.largest else None,
            "ladder": [choice.as_json() for choice in self.ladder],
            "reasons": [reason.as_json() for reason in self.reasons],
        }

    def require(self) -> None:
        """Raise ResourceError where nothing fits at all."""
        if self.verdict == NO_ROOM and self.largest is None:
            what = f"does not fit: nothing fits in {size(self.memory_bytes)}"
            if self.smallest is not None:
                what += f", the smallest, {self.smallest.recipe}, needs {self.smallest.needs.words}"
            hint = "a shorter --context, --kv q8_0, fewer --slots, more memory, or a smaller model"
            raise ResourceError(what, hint=hint)
