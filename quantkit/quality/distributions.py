"""Next-token distributions of two models on the same contexts: KL divergence and agreement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.tensors import F32


@dataclass(frozen=True)
class Divergence:
    """KL divergence (nats) of a model from its reference over `contexts` contexts, and how often top tokens agree."""

    contexts: int
    mean: float
    standard_error: float
    largest: float
    agreement: float


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
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    count = len(kl)
    return Divergence(
        contexts=count,
        mean=float(kl.mean()),
        standard_error=float(kl.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0,
        largest=float(kl.max()),
        agreement=float((p.argmax(axis=1) == q.argmax(axis=1)).mean()),
    )


def log_softmax(logits: F32) -> F32:
    """Natural log-probabilities of logits along the last axis, summed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)
