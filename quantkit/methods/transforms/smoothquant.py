"""SmoothQuant: outliers of activations moved into weights, for schemes that round both (arXiv 2211.10438)."""

from __future__ import annotations

import numpy as np

from quantkit.methods.settings import Run
from quantkit.methods.transforms.base import Folded, Transform
from quantkit.methods.transforms.folding import SiteWeights
from quantkit.tensors import F32

FLOOR = 1e-5  # smallest magnitude that counts, as in the reference implementation


def scales(folded: Folded, run: Run) -> F32:
    """The scales for the recipe's alpha."""
    return smoothing_scales(folded.weights, folded.peaks, folded.alpha)


def smoothing_scales(weights: SiteWeights, peaks: F32, alpha: float = 0.5) -> F32:
    """max|X|^alpha / max|W|^(1 - alpha) per channel, float32 (channels,).

    `peaks` are the largest magnitudes that the consumers read, (cols,). With alpha 0.5 activations and weights end
    up with equal peaks, with 1 all outliers move into the weights. Folding divides the producer's channels by these.
    """
    channel = weights.channel_of
    largest = np.max([np.abs(weight).max(axis=0) for weight in weights.consumers.values()], axis=0)
    x, w = (np.full(weights.channels, FLOOR) for _ in range(2))
    np.maximum.at(x, channel, peaks.astype(np.float64))
    np.maximum.at(w, channel, largest.astype(np.float64))
    return np.maximum(x**alpha / w ** (1 - alpha), FLOOR).astype(np.float32)


TRANSFORM = Transform("smoothquant", scales, norms=True)
