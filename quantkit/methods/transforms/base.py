"""What a transform is: the weights of a fold and what they read in, scales for its channels out.

A transform is one module in this package that defines `TRANSFORM`; it is found by file name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache

from torch import Tensor

from quantkit.discovery import defined, require_known
from quantkit.methods.settings import Run
from quantkit.methods.transforms import transform_names
from quantkit.methods.transforms.folding import F64, SiteWeights
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32


@record
class Folded:
    """A fold whose scales are looked for, and what its consumers read.

    `magnitudes` is the mean |x|, float64 (cols,), `peaks` the largest |x|, float32 (cols,), `hessian` X^T X (cols,
    cols), in which tokens may count more than once, None for transforms that need none. `targets` are by consumer: what
    each will be rounded to; one without a target (a router) is not rounded. `alpha` is how much moves, as the recipe
    says.
    """

    weights: SiteWeights
    magnitudes: F64
    peaks: F32
    hessian: Tensor | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)
    alpha: float = 0.5


@record
class Transform:
    """How far scales move.

    scales(folded, run) -> float32 (channels,), by which the producer is divided and the consumers are multiplied.
    `needs_hessian` says whether it works without one, `clips` whether rounding to nearest may clip weights afterwards,
    `norms` that it moves scales only into norms.
    """

    name: str
    scales: Callable[[Folded, Run], F32]
    needs_hessian: bool = False
    clips: bool = False
    norms: bool = False


@cache
def get(name: str) -> Transform:
    """The transform called `name`. Raises UnsupportedError with the nearest name."""
    require_known("transform", name, transform_names())
    transform = defined("quantkit.methods.transforms", name, "TRANSFORM")
    assert isinstance(transform, Transform)
    return transform
