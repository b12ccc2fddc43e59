"""Figures of a benchmark, and what they say: is the smaller file faster here, and if not, why not.

Every reason is read off the measurements. Generating a token reads all weights once, whatever the batch: a machine
that waits for memory takes as long for eight sequences as for one, and time goes with the bytes of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from quantkit.records import record
from quantkit.report.text import size
from quantkit.units import counted

FASTER = 1.05  # from here on a file counts as faster
BOUND = 0.6  # of the batch: where so much more time is taken for it, arithmetic decides and not memory
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@record
class Run:
    """A process: seconds to load, of the prompt of each sequence and of each step of all; bytes at its peak."""

    load_seconds: float
    prompt_seconds: tuple[float, ...]
    step_seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def step(self) -> float:
        return sum(self.step_seconds) / len(self.step_seconds)


@record
class Batch:
    """So many sequences at a time: all runs of them."""

    batch: int
    prompt: int
    runs: tuple[Run, ...]

    @property
    def prompt_per_s(self) -> float:
        """Tokens of prompt that are read in a second, median over runs."""
        return median(self.prompt * len(run.prompt_seconds) / sum(run.prompt_seconds) for run in self.runs)

    @property
    def first_token(self) -> float:
        """Seconds until a prompt has been read and the first token is known, median."""
        return median(seconds for run in self.runs for seconds in run.prompt_seconds)

    @property
    def per_s(self) -> float:
        """Tokens that are written in a second, of all sequences together, median over runs."""
        return median(self.batch / run.step for run in self.runs)

    def latency(self, share: float) -> float:
        """Seconds that so large a share of the steps stays within."""
        steps = sorted(seconds for run in self.runs for seconds in run.step_seconds)
        return steps[min(ceil(share * len(steps)), len(steps)) - 1]

    @property
    def peak_bytes(self) -> int:
        return max(run.peak_bytes for run in self.runs)

    @property
    def load_seconds(self) -> float:
        return median(run.load_seconds for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "prompt_tokens_per_s": self.prompt_per_s,
            "first_token_seconds": self.first_token,
            "tokens_per_s": self.per_s,
            "latency_p50_seconds": self.latency(0.5),
            "latency_p95_seconds": self.latency(0.95),
            "peak_bytes": self.peak_bytes,
            "load_seconds": self.load_seconds,
            "runs_tokens_per_s": [self.batch / run.step for run in self.runs],
        }


@record
class Model:
    """A file: its role, its bytes, its weights, the bytes of each type, and what was measured of it."""

    role: str
    name: str
    path: str
    nbytes: int
    weights: int
    types: Mapping[str, int]
    batches: tuple[Batch, ...] = ()

    def with_batches(self, batches: tuple[Batch, ...]) -> Model:
        return replace(self, batches=batches)

    def bytes_per_token(self, batch: Batch) -> float:
        """Bytes of weights that are read for each token that is written."""
        return sum(self.types.values()) / batch.batch

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "name": self.name,
            "path": self.path,
            "bytes": self.nbytes,
            "weights": self.weights,
            "types": dict(self.types),
            "batches": [{**b.as_json(), "bytes_per_token": self.bytes_per_token(b)} for b in self.batches],
        }


@record
class Verdict:
    """How an artifact compares with the original at a batch: ratios of speeds, the median over pairs of runs and those
    of the slowest and the fastest pair; whether it is faster, and if not, why."""

    batch: int
    prompt_ratio: float
    ratio: float
    low: float
    high: float
    faster: bool
    why: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "prompt_ratio": self.prompt_ratio,
            "ratio": self.ratio,
            "ratio_low": self.low,
            "ratio_high": self.high,
            "faster": self.faster,
            "why": list(self.why),
        }


def judged(artifact: Model, original: Model) -> tuple[Verdict, ...]:
    """The two beside each other, batch by batch."""
    return tuple(_verdict(artifact, original, at) for at in range(len(artifact.batches)))


def _verdict(artifact: Model, original: Model, at: int) -> Verdict:
    ours, theirs = artifact.batches[at], original.batches[at]
    ratios = sorted(b.step / a.step for a, b in zip(ours.runs, theirs.runs, strict=True))
    ratio, low, high = median(ratios), ratios[0], ratios[-1]
    why = () if ratio >= FASTER else tuple(_reasons(artifact, original, at, (low, high)))
    return Verdict(ours.batch, ours.prompt_per_s / theirs.prompt_per_s, ratio, low, high, ratio >= FASTER, why)


def _reasons(artifact: Model, original: Model, at: int, spread: tuple[float, float]) -> Iterator[str]:
    """What the measurements say of a smaller file that is not faster."""
    ours, theirs = artifact.batches[at], original.batches[at]
    if artifact.nbytes >= original.nbytes:
        yield f"it is no smaller: {size(artifact.nbytes)}, the original {size(original.nbytes)}"
        return
    low, high = spread
    if low < 1 / FASTER and high >= FASTER:
        yield f"the runs do not agree ({low:.2f}x to {high:.2f}x): the machine was busy with something else"
    rates = [sum(m.types.values()) / median(r.step for r in b.runs) for m, b in ((artifact, ours), (original, theirs))]
    slower, first = _growth(artifact, at)
    if first is not None and slower > BOUND * ours.batch / first:
        yield (
            f"arithmetic decides: a step of {counted(ours.batch, 'sequence')} "
            f"takes {slower:.1f} times one of {first}, so that "
            "bytes of weights do not"
        )
    elif rates[0] < rates[1]:
        yield (
            f"unpacking {_largest(artifact)} costs more than its bytes save: {size(rates[0])}/s of weights are read "
            f"here, {size(rates[1])}/s of {_largest(original)}"
        )
    cache = cache_bytes()
    if cache and sum(original.types.values()) <= cache:
        whole = size(sum(original.types.values()))
        yield f"the model is too small to wait for memory: the original's {whole} fit into the {size(cache)} of cache"


def _growth(model: Model, at: int) -> tuple[float, int | None]:
    """How many times as long a step takes as one of the smallest batch, and that; None where it is the smallest."""
    first = min(model.batches, key=lambda b: b.batch)
    here = model.batches[at]
    if first.batch == here.batch:
        return 1.0, None
    return median(r.step for r in here.runs) / median(r.step for r in first.runs), first.batch


def _largest(model: Model) -> str:
    """The type that most bytes of a file are in."""
    return max(model.types, key=lambda name: model.types[name])


def cache_bytes() -> int:
    """The last level of this machine's cache, 0 where the system does not say."""
    found = 0
    for path in sorted(CACHES.glob("index*/size")):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        number, unit = (text[:-1], UNITS.get(text[-1:], 0)) if not text.isdigit() else (text, 1)
        if number.isdigit():
            found = max(found, int(number) * unit)
    return found
