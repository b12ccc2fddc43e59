"""Next-token distributions of two models on the same contexts: KL divergence and agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantkit.tensors import F32


@dataclass(frozen=True)
class Divergence:
    """KL divergence (nats) of a model from its reference over `contexts` contexts, and how often top tokens agree.

    A quarter of the contexts is above `upper_quartile`, which one undecided router does not move.
    """

    contexts: int
    mean: float
    standard_error: float
    upper_quartile: float
    largest: float
    agreement: float


@dataclass(frozen=True)
class TopTokens:
    """The likeliest tokens of a distribution, int64 (k,), and their natural log-probabilities (k,)."""

    ids: NDArray[np.int64]
    log_probabilities: F32


# The mean KL divergence above which a file counts as broken rather than quantized, by bits per weight. Published
# figures for sound files lie at least five times lower (0.0014 at 8.5 bits, 0.03 at 4.9, 0.45 at 3).
BROKEN_ABOVE = ((8.0, 0.05), (6.0, 0.15), (5.0, 0.3), (4.0, 0.6), (3.0, 1.5), (2.2, 3.0))


def broken_above(bits_per_weight: float) -> float | None:
    """Limit for a file of this size; None below 2.2 bits, where no limit tells broken from coarse."""
    for bits, limit in BROKEN_ABOVE:
        if bits_per_weight >= bits:
            return limit
    return None


def divergence(reference: F32, other: F32) -> Divergence:
    """Compare log-probabilities (contexts, vocabulary), natural logarithm, of `other` with those of `reference`."""
    p = reference.astype(np.float64)
    q = other.astype(np.float64)
    return _summary((np.exp(p) * (p - q)).sum(axis=1), p.argmax(axis=1) == q.argmax(axis=1))


def _summary(kl: NDArray[np.float64], same: NDArray[np.bool_]) -> Divergence:
    count = len(kl)
    return Divergence(
        contexts=count,
        mean=float(kl.mean()),
        standard_error=float(kl.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0,
        upper_quartile=float(np.quantile(kl, 0.75)),
        largest=float(kl.max()),
        agreement=float(same.mean()),
    )


def top_divergence(reference: F32, found: Sequence[TopTokens]) -> Divergence:
    """Compare distributions of which only the likeliest tokens are known with whole ones, (contexts, vocabulary).

    Of each: the KL divergence among these tokens, as if there were no others, and that of their share of the whole.
    With all tokens known it is that of the distributions; an error of any size shows in it, however flat they are.
    """
    kl, same = [], []
    for whole, top in zip(reference.astype(np.float64), found, strict=True):
        p, q = whole[top.ids], top.log_probabilities.astype(np.float64)
        known_p, known_q = min(np.exp(p).sum(), 1.0), min(np.exp(q).sum(), 1.0)
        inside = np.exp(p - np.log(known_p))
        among = (inside * ((p - np.log(known_p)) - (q - np.log(known_q)))).sum()
        kl.append(among + _share_divergence(known_p, known_q))
        same.append(whole.argmax() == top.ids[q.argmax()])
    return _summary(np.array(kl), np.array(same))


def _share_divergence(p: float, q: float) -> float:
    """KL divergence of two events of probability p and q."""
    rest_p, rest_q = max(1 - p, 0.0), max(1 - q, 1e-9)
    return float(p * np.log(p / q) + (rest_p * np.log(rest_p / rest_q) if rest_p > 1e-6 else 0.0))


def log_softmax(logits: F32) -> F32:
    """Natural log-probabilities of logits along the last axis, summed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)
