"""What a method is: weights, statistics and a target's grid in, codes out.

A method is one module in this package that defines `METHOD`; the registry finds it by file name. It knows a target
only through `Target`: how many columns share what is fitted, and a function that fits a Grid to them. So one method
serves every quantization type and every scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quantkit.discovery import defined, require_known
from quantkit.errors import InputError, NonFiniteError
from quantkit.methods import method_names
from quantkit.methods.settings import Run, Settings
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32


@record
class Layer:
    """A weight, float32 (rows = out, cols = in), and what is known of its inputs X.

    `hessian` is X^T X (cols, cols) in float32 or float64, times any positive constant; a token may count more than once
    in it (`calibration.walk.reach`). `importance` is float32 (cols,), for methods that need no more. `prepared` is what
    `Method.prepare` has made of the Hessian, so that layers that read the same inputs share it. `outputs` are blocks on
    the diagonal of G = sum of g g^T, g the gradients at what the layer gives, each float32 symmetric, together as many
    rows as the weight; none where G is not known, or says nothing. `name` is for messages.
    """

    name: str
    weight: F32
    hessian: Tensor | None = None
    importance: F32 | None = None
    prepared: Prepared | None = None
    outputs: tuple[Tensor, ...] = ()


class Seen(StrEnum):
    """Which tokens a layer's statistics are of.

    OWN      those that it read itself
    SHRUNK   its own and, because it is an expert that few tokens reached, the layer's mean
    MEAN     the layer's mean: no token reached this expert
    NOTHING  none, or they were not asked for: the layer is rounded to nearest
    """

    OWN = "own"
    SHRUNK = "shrunk"
    MEAN = "mean"
    NOTHING = "nothing"


@record
class Report:
    """What a method did, for the manifest.

    `loss` is trace(E H E^T) of the errors E, H with its damping; trace(G E H E^T), G of mean diagonal one with its own,
    where rows are `fed` back, too. `rounding_loss` is the same for rounding to nearest on the grid of the plain fit.
    Both are None without a Hessian. `damping` is what was used, `tried` what failed before; `dead` counts columns whose
    input is always zero, which are rounded to nearest. `flips` counts codes that coordinate descent changed. `seen`
    says what the statistics are of, `tokens` how many the layer read itself. `encoded` says that the target's own
    encoder rounded it, as it does what a method cannot.
    """

    loss: float | None = None
    rounding_loss: float | None = None
    damping: float | None = None
    tried: tuple[float, ...] = ()
    dead: int = 0
    flips: int = 0
    seen: Seen = Seen.OWN
    tokens: int | None = None
    encoded: bool = False
    fed: bool = False


@record
class Rounded:
    """Codes int16 (rows, cols) and the grid of the whole matrix, counted as the target's `fit` counts.

    `order` is None, or int32 (cols,): column j of `codes` is then column order[j] of the weight.
    """

    codes: Codes
    grid: Grid
    order: NDArray[np.int32] | None = None
    report: Report = field(default_factory=Report)

    def values(self) -> F32:
        """The decoded weight, float32 (rows, cols), columns in the order of the weight."""
        rows, cols = self.codes.shape
        decoded = self.grid.values(self.codes.reshape(len(self.grid.scale), -1)).reshape(rows, cols)
        if self.order is None:
            return decoded
        weight = np.empty_like(decoded)
        weight[:, self.order] = decoded
        return weight


@record
class Method:
    """How codes are chosen. `needs_hessian` says whether it works without one; `encodes` that it rounds as the target's
    own encoder does, whose bytes files then hold. Both are written as plain words in METHOD: plans read them there.
    `feeds_rows` says that it knows what to do with `Layer.outputs`.

    quantize(layer, target, settings, run) -> Rounded. prepare(layer, target, settings, run) -> what depends on the
    layer's Hessian and the target's span alone, for the `prepared` of this layer and others with the same inputs,
    target and settings; None for methods that prepare nothing. Raises UnsupportedError for a target it cannot serve,
    NonFiniteError and NumericError for weights and statistics it cannot work with; all name the tensor.
    """

    name: str
    quantize: Callable[[Layer, Target, Settings, Run], Rounded]
    needs_hessian: bool = False
    prepare: Callable[[Layer, Target, Settings, Run], Prepared] | None = None
    encodes: bool = False
    feeds_rows: bool = False


def require_weight(layer: Layer, target: Target) -> None:
    """Raise InputError for a weight whose rows do not divide into spans, NonFiniteError for one that is not finite."""
    cols = layer.weight.shape[1]
    if target.span and cols % target.span:
        raise InputError(
            f"{layer.name}: rows of {cols:,} weights do not divide into {target.span}",
            tensor=layer.name,
            hint="use a type or group size that divides the row",
        )
    if not np.isfinite(layer.weight).all():
        index = int(np.isfinite(layer.weight).argmin())
        message = f"{layer.name}: weight {layer.weight.flat[index]:g} at index {index} is not finite"
        raise NonFiniteError(message, index=index, tensor=layer.name, hint="the checkpoint is damaged: fetch it again")


@contextmanager
def naming(tensor: str) -> Iterator[None]:
    """Say which tensor it is about when a fit finds no finite scale."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{tensor}: {error.message}", tensor=tensor, hint=error.hint) from error


@cache
def get(name: str) -> Method:
    """The method called `name`. Raises UnsupportedError with the nearest name."""
    require_known("method", name, method_names())
    method = defined("quantkit.methods", name, "METHOD")
    assert isinstance(method, Method)
    return method


@record
class Factor:
    """M, float32 (cols, cols), unit upper triangular (what is below the diagonal is meaningless), and D (cols,), on the
    CPU.

    Both belong to H divided by its mean diagonal, plus `damping` on the diagonal; `scale` is that mean.
    `tried` are the dampings in the order they were tried, the last one being `damping`; `dead` are the columns of H
    that are zero.
    """

    mixing: Tensor
    pivots: F32
    scale: float
    damping: float
    tried: tuple[float, ...]
    dead: tuple[int, ...]


@record
class Damped:
    """The factored matrix in stored order: `hessian`, float32 (cols, cols) on the CPU, / `scale` + `damping` on the
    diagonal. Read in pieces, so that the Hessian itself serves and is not held twice."""

    hessian: Tensor
    scale: float
    damping: float

    def product(self, errors: Tensor, start: int, stop: int) -> Tensor:
        """errors (rows, cols) times columns [start, stop) of the matrix, float32 (rows, stop - start)."""
        found = errors @ self.hessian[:, start:stop]
        return found.div_(self.scale).add_(errors[:, start:stop], alpha=self.damping)

    def corner(self, start: int, stop: int) -> F32:
        """The block of the matrix that belongs to columns [start, stop)."""
        block = self.hessian[start:stop, start:stop] / self.scale
        block.diagonal().add_(self.damping)
        values: F32 = block.contiguous().numpy()
        return values


@record
class Prepared:
    """What a sweep needs of a Hessian: the order of the columns, the factor in visited order and, for coordinate
    descent, the factored matrix."""

    columns: Columns
    factor: Factor
    damped: Damped | None = None


Indices = NDArray[np.int64]


@record
class Columns:
    """Both are int64 (cols,): stored column j is column stored[j] of the weight; the p-th column to be visited is
    stored column visited[p]."""

    stored: Indices
    visited: Indices

    @property
    def permuted(self) -> bool:
        return not np.array_equal(self.stored, np.arange(self.stored.size))
