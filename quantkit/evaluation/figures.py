"""From numbers for every token to numbers for people: means with their uncertainty, quantiles, slices, worst passages.

Tokens of one document are not independent, documents are. So a standard error is that of a ratio of sums over
clusters (Cochran, Sampling Techniques, 6.3): documents, or windows where there are fewer than `DOCUMENTS` documents.
Differences between models are those of the same tokens, in pairs: what a text is like by itself cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.passages import Bin, Passage, histogram, worst_passages
from quantkit.evaluation.scores import F64, Scores, WeightError
from quantkit.records import record
from quantkit.units import counted

DOCUMENTS = 8  # fewer are too few to be the clusters
QUANTILES = {"median": 0.5, "90": 0.9, "95": 0.95, "99": 0.99, "99.9": 0.999}
CONFIDENCE = 0.95  # of one-sided bounds
Z = 1.6448536269514722  # its quantile of the normal distribution
SMALL_T = (
    inf,
    6.314,
    2.920,
    2.353,
    2.132,
    2.015,
    1.943,
    1.895,
    1.860,
    1.833,
    1.812,
)  # Student's, by degrees of freedom
RESAMPLES = 400
FURTHEST = 5  # weights that are named, whatever their error
RARE, COMMON = 2, 20  # how often the right token occurs in the text


@record
class Estimate:
    """A mean with its standard error over clusters, and its one-sided bounds at 95 %: it is below `high` with 95 %
    confidence, and above `low` with as much. Without two clusters there is neither (`error` None)."""

    value: float
    error: float | None
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        bounds = {"low": self.low, "high": self.high} if self.error is not None else {"low": None, "high": None}
        return {"value": self.value, "standard_error": self.error, **bounds}


@record
class Slice:
    """Some of the tokens: `of` says by what they were chosen, `name` which. Perplexity is relative to the original."""

    of: str
    name: str
    tokens: int
    kl: Estimate
    top1: float
    ppl_ratio: float


@record
class Report:
    """How far one model is from its reference. `kl` in nats, `quantiles` of it by name with "max", `top1` the share of
    tokens at which both put the same first, `right_change` the root mean square change of the right token's
    probability. `errors` are relative errors of hidden states by block. `clusters` of `unit` are what errors are over.
    `weights` are all tensors beside the original's, None where they differ on purpose. `histogram` counts tokens by
    their divergence.
    """

    name: str
    tokens: int
    unit: str
    clusters: int
    perplexity: Estimate
    reference_perplexity: Estimate
    ratio: Estimate
    kl: Estimate
    quantiles: dict[str, float]
    top1: Estimate
    right_change: Estimate
    accuracy: float
    reference_accuracy: float
    errors: tuple[tuple[str, float], ...]
    slices: tuple[Slice, ...]
    worst: tuple[Passage, ...]
    weights: tuple[WeightError, ...] | None = None
    histogram: tuple[Bin, ...] = ()

    @property
    def damaged(self) -> list[WeightError]:
        """Weights that are not the original's, as far as their types can say; the worst first."""
        return sorted((e for e in self.weights or () if e.wrong), key=lambda e: (-e.relative, e.tensor))

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tokens": self.tokens,
            "clusters": self.clusters,
            "cluster": self.unit,
            "perplexity": self.perplexity.as_json(),
            "reference_perplexity": self.reference_perplexity.as_json(),
            "perplexity_ratio": self.ratio.as_json(),
            "kl": self.kl.as_json(),
            "kl_quantiles": self.quantiles,
            "top1_agreement": self.top1.as_json(),
            "right_token_rms_change": self.right_change.as_json(),
            "accuracy": self.accuracy,
            "reference_accuracy": self.reference_accuracy,
            "blocks": [{"block": name, "relative_error": error} for name, error in self.errors],
            "slices": [
                {
                    "by": s.of,
                    "slice": s.name,
                    "tokens": s.tokens,
                    "kl": s.kl.as_json(),
                    "top1_agreement": s.top1,
                    "perplexity_ratio": s.ppl_ratio,
                }
                for s in self.slices
            ],
            "worst": [passage.as_json() for passage in self.worst],
            "kl_histogram": [each.as_json() for each in self.histogram],
            "weights": None if self.weights is None else self._weights_json(self.weights),
        }

    def _weights_json(self, weights: tuple[WeightError, ...]) -> dict[str, Any]:
        furthest = sorted(weights, key=lambda e: (-e.relative, e.tensor))[:FURTHEST]
        return {
            "compared": len(weights),
            "furthest": [{"tensor": e.tensor, "type": e.type, "relative_error": e.relative} for e in furthest],
            "damaged": [{"tensor": e.tensor, "type": e.type, "why": e.wrong} for e in self.damaged],
        }


def clusters_of(corpus: Corpus) -> tuple[NDArray[np.int64], str]:
    """The cluster of every token, numbered from 0, and what clusters are: "document" or "window"."""
    _, documents = np.unique(corpus.document, return_inverse=True)
    if documents.max(initial=0) + 1 >= DOCUMENTS:
        return documents.astype(np.int64), "document"
    _, windows = np.unique(corpus.window, return_inverse=True)
    return windows.astype(np.int64), "window"


def student(freedom: int) -> float:
    """Student's quantile at 95 %, one-sided (Abramowitz and Stegun 26.7.5 beyond the table)."""
    if freedom < len(SMALL_T):
        return SMALL_T[freedom]
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)


def estimate(values: F64, clusters: NDArray[np.int64]) -> Estimate:
    """The mean of `values` (t,), whose clusters are independent, and its standard error."""
    mean = float(values.mean())
    _, clusters = np.unique(clusters, return_inverse=True)
    counts = np.bincount(clusters).astype(np.float64)
    if len(counts) < 2:
        return Estimate(mean, None, -inf, inf)
    residuals = np.bincount(clusters, values) - mean * counts
    error = sqrt(len(counts) / (len(counts) - 1) * float(residuals @ residuals)) / len(values)
    reach = student(len(counts) - 1) * error
    return Estimate(mean, error, mean - reach, mean + reach)


def share(hits: NDArray[np.bool_], clusters: NDArray[np.int64]) -> Estimate:
    """A share with its error. Bounds are no tighter than Wilson's: a perfect score of few tokens proves little."""
    found = estimate(hits.astype(np.float64), clusters)
    if found.error is None:
        return found
    low, high = wilson(found.value, len(hits))
    return Estimate(found.value, found.error, max(0.0, min(found.low, low)), min(1.0, max(found.high, high)))


def wilson(share: float, count: int) -> tuple[float, float]:
    """One-sided bounds at 95 % of a share of `count` independent cases (Wilson, 1927)."""
    middle = share + Z * Z / (2 * count)
    reach = Z * sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    low, high = ((middle + sign * reach) / (1 + Z * Z / count) for sign in (-1, 1))
    return max(0.0, low) if share else 0.0, min(1.0, high) if share < 1 else 1.0


def exponential(found: Estimate) -> Estimate:
    """exp of an estimate: the error to first order, the bounds exactly."""
    value = _exp(found.value)
    if found.error is None:
        return Estimate(value, None, 0.0, inf)
    return Estimate(value, value * found.error, _exp(found.low), _exp(found.high))


def _exp(value: float) -> float:
    """exp, finite for a model that is sure of the wrong tokens as well."""
    return exp(min(value, 300.0))


def root(found: Estimate) -> Estimate:
    """The root of an estimate of a mean of squares."""
    value = sqrt(found.value)
    if found.error is None:
        return Estimate(value, None, 0.0, inf)
    error = found.error / (2 * value) if value else 0.0
    return Estimate(value, error, sqrt(max(found.low, 0.0)), sqrt(max(found.high, 0.0)))


def upper_quantile(values: F64, clusters: NDArray[np.int64], at: float) -> float:
    """The bound that a quantile is below with 95 % confidence: by resampling clusters, always the same resamples."""
    order = np.argsort(values, kind="stable")
    ranked, owners = values[order], clusters[order]
    count = int(clusters.max()) + 1
    random = np.random.default_rng(count)
    found = []
    for _ in range(RESAMPLES):
        weights = np.bincount(random.integers(0, count, count), minlength=count)[owners].cumsum()
        found.append(ranked[np.searchsorted(weights, at * weights[-1])] if weights[-1] else 0.0)
    return float(np.quantile(found, CONFIDENCE))


def summarize(scores: Scores, corpus: Corpus, text: Callable[[list[int]], str] | None = None) -> Report:
    """The figures of one model. `text` turns tokens into what the worst passages show; without it they are empty."""
    clusters, unit = clusters_of(corpus)
    change = np.exp(scores.other) - np.exp(scores.reference)
    return Report(
        name=scores.name,
        tokens=corpus.tokens,
        unit=unit,
        clusters=int(clusters.max()) + 1,
        perplexity=exponential(estimate(-scores.other, clusters)),
        reference_perplexity=exponential(estimate(-scores.reference, clusters)),
        ratio=exponential(estimate(scores.reference - scores.other, clusters)),
        kl=estimate(scores.kl, clusters),
        quantiles={
            **{n: float(np.quantile(scores.kl, q)) for n, q in QUANTILES.items()},
            "max": float(scores.kl.max()),
        },
        top1=share(scores.agree, clusters),
        right_change=root(estimate(change * change, clusters)),
        accuracy=float(scores.other_right.mean()),
        reference_accuracy=float(scores.right.mean()),
        errors=scores.errors,
        slices=tuple(_slices(scores, corpus, clusters)),
        worst=worst_passages(scores, corpus, text),
        weights=scores.weights,
        histogram=histogram(scores.kl),
    )


def _slices(scores: Scores, corpus: Corpus, clusters: NDArray[np.int64]) -> list[Slice]:
    """By how often the right token occurs in the text, by the reference's confidence, by place in the window."""
    counts = np.bincount(corpus.target)[corpus.target]
    sure, place, window = scores.confidence, corpus.position, corpus.cut.window
    chosen = [
        ("frequency", f"right token occurs {RARE} times or less", counts <= RARE),
        ("frequency", f"{RARE + 1} to {COMMON} times", (counts > RARE) & (counts <= COMMON)),
        ("frequency", f"more than {COMMON} times", counts > COMMON),
        ("confidence", "original below 50 % sure", sure < 0.5),
        ("confidence", "50 to 90 %", (sure >= 0.5) & (sure < 0.9)),
        ("confidence", "90 % and more", sure >= 0.9),
        ("position", f"first quarter of {counted(window, 'token')}", place < window // 4),
        ("position", "second and third quarter", (place >= window // 4) & (place < window - window // 4)),
        ("position", "last quarter", place >= window - window // 4),
    ]
    return [_slice(scores, clusters, *each) for each in chosen if each[2].any()]


def _slice(scores: Scores, clusters: NDArray[np.int64], of: str, name: str, mask: NDArray[np.bool_]) -> Slice:
    ratio = _exp(float((scores.reference - scores.other)[mask].mean()))
    kl = estimate(scores.kl[mask], clusters[mask])
    return Slice(of, name, int(mask.sum()), kl, float(scores.agree[mask].mean()), ratio)
