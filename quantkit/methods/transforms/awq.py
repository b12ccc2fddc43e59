"""AWQ: channels with large activations are scaled up before rounding, and down again where they are made
(arXiv 2306.00978).

Differs from the reference implementation (llm-awq) in these points: the loss is trace(E H E^T) of the consumers'
errors E with the Hessian H of what they read, instead of the output of the surrounding module, so that no forward pass
is needed; whatever method will round the weights is in the loop; and doing nothing is one of the candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field

import numpy as np
import torch
from torch import Tensor

from quantkit.methods import base
from quantkit.methods.base import Layer, Method
from quantkit.methods.columns.grids import lookup
from quantkit.methods.columns.pieces import pieces, round_nearest
from quantkit.methods.settings import Run, Settings
from quantkit.methods.transforms.base import Folded, Transform
from quantkit.methods.transforms.folding import F64, SiteWeights, per_channel
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

RATIOS = tuple(step / 20 for step in range(1, 20))
SAMPLE_ROWS = 256  # of a consumer, evenly spaced: enough to rank candidates
SMALLEST = 1e-4  # of a scale, as in the reference
CLIP_SHARES = tuple(1 - step / 20 for step in range(11))  # down to half of the range


@record
class Quantizer:
    """How the consumers will be rounded. `targets` are by consumer; one without a target (a router) is not rounded."""

    method: Method
    targets: Mapping[str, Target]
    settings: Settings = field(default_factory=Settings)


@record
class Scaling:
    """Scales for `fold`, float32 (channels,), all 1 where nothing helps; the loss with them and without.

    `ratio` is the exponent of the activations, None for no scaling; `duo` says that weights counted too.
    """

    scale: F32
    loss: float
    before: float
    ratio: float | None = None
    duo: bool = False


def scales(folded: Folded, run: Run) -> F32:
    """The scales of least loss where consumers are rounded to nearest."""
    assert folded.hessian is not None, folded.weights.site
    quantizer = Quantizer(base.get("rtn"), folded.targets)
    return search_scales(folded.weights, folded.magnitudes, folded.hessian, quantizer, run).scale


def search_scales(weights: SiteWeights, magnitudes: F64, hessian: Tensor, quantizer: Quantizer, run: Run) -> Scaling:
    """The scales of least loss among 39: none, or x^r / w^(1 - r) or x^r for 19 ratios r each.

    `magnitudes` is the mean |x| of what the consumers read, float64 (cols,), `hessian` X^T X (cols, cols). Costs 39
    roundings of at most 256 rows of every consumer.
    """
    identity = np.ones(weights.channels, np.float32)
    before = _loss(weights, identity, hessian, quantizer, run)
    best = Scaling(identity, before, before)
    for ratio, duo, scale in _candidates(weights, magnitudes, quantizer.targets):
        loss = _loss(weights, scale, hessian, quantizer, run)
        if loss < best.loss:
            best = Scaling(scale, loss, before, ratio, duo)
    return best


def clip_weights(weight: F32, hessian: Tensor, target: Target, run: Run) -> F32:
    """The weight (rows, cols) with every span clipped to the share of its range that rounds best, a new array.

    A span's loss is e H e^T with the block of the Hessian that belongs to it, against the weight as it was. Rows are
    independent. For methods that round to nearest: `gptq` looks for shares by itself. A target whose grid spans the
    whole matrix is left alone.
    """
    if not target.span:
        return weight.copy()
    spans = run(
        lambda piece: _clip_span(
            np.ascontiguousarray(weight[:, slice(*piece)]), hessian[slice(*piece), slice(*piece)], target
        ),
        list(pieces(0, weight.shape[1], target.span)),
    )
    return np.concatenate(spans, axis=1)


def _clip_span(own: F32, block: Tensor, target: Target) -> F32:
    block = block.to("cpu", torch.float32)
    clipped, least = own.copy(), np.full(len(own), np.inf, np.float32)
    peaks = np.abs(own).max(axis=1, keepdims=True)
    for share in CLIP_SHARES:
        tried = np.clip(own, -peaks * np.float32(share), peaks * np.float32(share))
        _, values = round_nearest(tried, lookup(target.fit(tried, None), len(own)))
        error = torch.from_numpy(values - own)
        loss = ((error @ block) * error).sum(dim=1).numpy()
        better = loss < least
        clipped[better] = tried[better]
        least = np.where(better, loss, least)
    return clipped


def _candidates(
    weights: SiteWeights, magnitudes: F64, targets: Mapping[str, Target]
) -> Iterator[tuple[float, bool, F32]]:
    x = per_channel(weights, magnitudes)
    w = per_channel(weights, _relative_magnitudes(weights, targets))
    for ratio in RATIOS:
        for duo in (True, False):
            scale = x**ratio / (w ** (1 - ratio) + SMALLEST) if duo else x**ratio
            scale = np.maximum(scale, SMALLEST)
            yield ratio, duo, (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)


def _relative_magnitudes(weights: SiteWeights, targets: Mapping[str, Target]) -> F64:
    """Mean over all rows of |w| / largest |w| of its span, (cols,), of the consumers that are rounded."""
    total, rows = np.zeros(weights.cols), 0
    for name, target in targets.items():
        magnitude = np.abs(weights.consumers[name].astype(np.float64))
        spans = magnitude.reshape(len(magnitude), -1, target.span or weights.cols)
        largest = np.maximum(spans.max(axis=2, keepdims=True), np.finfo(np.float32).tiny)
        total += (spans / largest).reshape(magnitude.shape).sum(axis=0)
        rows += len(magnitude)
    return total / max(rows, 1)


def _loss(weights: SiteWeights, scale: F32, hessian: Tensor, quantizer: Quantizer, run: Run) -> float:
    """trace(E H E^T) of sampled rows of all consumers, rounded with their columns multiplied by the scale."""
    spread = scale[weights.channel_of]
    inverse = torch.from_numpy(1 / spread).to(hessian.device)
    scaled = hessian * inverse[:, None] * inverse
    total = 0.0
    for name, target in quantizer.targets.items():
        weight = weights.consumers[name]
        rows = weight[:: -(-len(weight) // SAMPLE_ROWS)] * spread
        importance = scaled.diagonal().to("cpu", torch.float32).numpy()
        found = quantizer.method.quantize(Layer(name, rows, scaled, importance), target, quantizer.settings, run)
        error = torch.from_numpy(found.values() - rows).to(hessian.device, hessian.dtype)
        total += run(lambda e: float(((e @ scaled) * e).sum(dtype=torch.float64)), [error])[0]
    return total


TRANSFORM = Transform("awq", scales, needs_hessian=True, clips=True)
