"""Scales folded into weights, and the proof that the function stayed the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from quantkit.errors import InputError, VerificationError
from quantkit.families.folds import Fold
from quantkit.qtypes.schemes.base import ScaleDtype
from quantkit.records import record
from quantkit.tensors import F32

TOLERANCE = 1e-5  # of the largest output: float32 weights are rounded once more, by 6e-8 each
PROBES = 16

F64 = NDArray[np.float64]


@record
class SiteWeights:
    """The tensors of a site. `producer` is float32 (channels,) for a norm, else (rows, in), the last rows being the
    channels; an optional `bias` has as many values; `consumers` are (out, cols) by name.

    `head` is the size of a head where the site has `heads`: cols are then heads of that size, and the channels fewer
    heads, each read by as many consecutive query heads as fit.
    """

    site: Fold
    producer: F32
    consumers: Mapping[str, F32]
    bias: F32 | None = None
    head: int = 0

    def __post_init__(self) -> None:
        widths = {weight.shape[1] for weight in self.consumers.values()}
        if len(widths) != 1 or (not self.site.heads and next(iter(widths)) > len(self.producer)):
            message = f"{self.site.producer} has {len(self.producer)} rows, its readers {sorted(widths)} columns"
            raise InputError(message, tensor=self.site.producer, hint="the checkpoint does not fit its family")

    @property
    def cols(self) -> int:
        weight = next(iter(self.consumers.values()))
        return int(weight.shape[1])

    @property
    def channel_of(self) -> NDArray[np.int64]:
        """The channel that each consumer column reads, counted from the first channel, int64 (cols,)."""
        column = np.arange(self.cols)
        if not self.site.heads:
            return column
        shared = self.queries_per_value
        return column // self.head // shared * self.head + column % self.head

    @property
    def queries_per_value(self) -> int:
        """How many query heads read a value head: for a fused projection q + 2 kv = rows with q = cols."""
        rows = len(self.producer)
        values = rows if rows <= self.cols else (rows - self.cols) // 2
        if self.head <= 0 or self.cols % self.head or values % self.head or self.cols % values:
            message = f"{self.site.producer}: {rows} rows and {self.cols} columns make no heads of {self.head}"
            raise InputError(message, tensor=self.site.producer, hint="the checkpoint does not fit its config.json")
        return self.cols // values

    @property
    def channels(self) -> int:
        return int(self.channel_of.max()) + 1


def per_channel(weights: SiteWeights, columns: F64) -> F64:
    """A statistic of the consumers' columns (cols,) as the mean over the columns that read a channel, (channels,)."""
    channel = weights.channel_of
    return np.bincount(channel, columns) / np.bincount(channel)


def fold(weights: SiteWeights, scale: F32, stored: ScaleDtype = "F32") -> SiteWeights:
    """Divide the channels of the producer by scale (channels,) and multiply the columns that read them.

    Computed in float64 and rounded once. What stays a vector, a norm or a bias, is rounded to the type in which it
    is `stored`, and the scales are then what that makes of them: storing it costs nothing. Raises InputError for
    scales that are not positive numbers, and VerificationError if the function changed by more than rounding
    (`check_fold`).
    """
    if scale.shape != (weights.channels,) or not (np.isfinite(scale).all() and (scale > 0).all()):
        message = f"scales of {weights.site.producer} must be {weights.channels} positive numbers"
        raise InputError(message, tensor=weights.site.producer)
    exact = scale.astype(np.float64)
    producer, bias = weights.producer.astype(np.float64), weights.bias
    first = len(producer) - weights.channels
    if weights.site.norm:
        vector, exact = _divided(weights.producer, exact, float(weights.site.centered), stored)
        producer = vector.astype(np.float64)
        if bias is not None:  # the same scales for both: powers of two, which both can hold
            bias = as_stored((bias / exact).astype(np.float32), stored)
    else:
        if bias is not None:
            divided, exact = _divided(bias[first:], exact, 0.0, stored)
            bias = np.concatenate([bias[:first], divided])
        producer[first:] /= exact[:, None]
    spread = exact[weights.channel_of]
    consumers = {name: (weight * spread).astype(np.float32) for name, weight in weights.consumers.items()}
    folded = SiteWeights(weights.site, producer.astype(np.float32), consumers, bias, weights.head)
    check_fold(weights, folded)
    return folded


def _divided(vector: F32, scale: F64, one: float, stored: ScaleDtype) -> tuple[F32, F64]:
    """(vector + one) / scale - one as it will be stored, and the scales that this comes to.

    A zero stays zero with any scale; where a quotient has no place in the type, the number stays as it is.
    """
    old = vector.astype(np.float64) + one
    divided = as_stored((old / scale - one).astype(np.float32), stored)
    found = divided.astype(np.float64) + one
    possible = (np.sign(found) == np.sign(old)) & np.isfinite(found)
    divided = np.where(possible, divided, vector)
    exact = np.divide(old, found, out=np.array(scale), where=(found != 0) & possible)
    return divided, np.where(possible, exact, 1.0)


def as_stored(values: F32, dtype: ScaleDtype) -> F32:
    """Values (any shape) rounded to a type, as float32; infinite where it cannot hold them."""
    kind = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[dtype]
    rounded: F32 = torch.from_numpy(np.ascontiguousarray(values)).to(kind).to(torch.float32).numpy()
    return rounded


def check_fold(before: SiteWeights, after: SiteWeights) -> None:
    """Run the same inputs through both and compare what the consumers give, in float64.

    Inputs are PROBES fixed pseudo-random vectors; what acts on a linear's channels in between (a gate, attention's
    mean) is a random factor. Raises VerificationError beyond TOLERANCE of the largest output.
    """
    for name, expected in _outputs(before).items():
        found = _outputs(after)[name]
        largest = float(np.abs(expected).max())
        change = float(np.abs(found - expected).max())
        if not change <= TOLERANCE * largest:
            message = f"folding scales into {before.site.producer} changes what {name} gives by {change / largest:.1e}"
            raise VerificationError(message, tensor=name, hint="leave this transform out, and report a bug")


def _outputs(weights: SiteWeights) -> dict[str, F64]:
    rng = np.random.default_rng(0)
    producer = weights.producer.astype(np.float64)
    if weights.site.norm:
        made = rng.standard_normal((PROBES, len(producer))) * (producer + float(weights.site.centered))
    else:
        made = rng.standard_normal((PROBES, producer.shape[1])) @ producer.T
    made = (made if weights.bias is None else made + weights.bias)[:, -weights.channels :]
    read = made[:, weights.channel_of] * rng.standard_normal((PROBES, weights.cols))
    return {name: read @ weight.T.astype(np.float64) for name, weight in weights.consumers.items()}
