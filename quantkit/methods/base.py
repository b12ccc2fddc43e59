"""What a method is: weights, statistics and a target's grid in, codes out.

A method is one module in this package that defines `METHOD`; the registry finds it by file name. It knows a target
only through `Target`: how many columns share what is fitted, and a function that fits a Grid to them. So one method
serves every quantization type and every scheme.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantkit.errors import InputError, NonFiniteError, UnsupportedError, did_you_mean
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.target import Target
from quantkit.tensors import F32

if TYPE_CHECKING:
    from quantkit.methods.columns.factor import Prepared

Item = TypeVar("Item")
Result = TypeVar("Result")


class Run(Protocol):
    """Does independent tasks, each on one thread whose torch is single-threaded, and gives results in order.

    `Workers.map` of quantkit.calibration is one. Tasks are cut independently of the number of threads, so that codes
    do not depend on it.
    """

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> list[Result]: ...


def in_turn(function: Callable[[Item], Result], items: Iterable[Item], /) -> list[Result]:
    """Do the tasks one after the other on the calling thread, whose torch is single-threaded meanwhile."""
    with single_threaded():
        return [function(item) for item in items]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch of the calling thread on one thread: what a matrix product gives depends on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Order(StrEnum):
    """In which order column feedback visits the columns.

    STORAGE     as they are stored
    WITHIN      spans by their largest diagonal, and columns by diagonal inside a span: nothing shows on disk (GAR)
    ACTIVATION  all columns by diagonal, on grids fitted to the original weights: nothing shows on disk either
    PERMUTED    all columns by diagonal, and spans are made of columns in that order: the file must hold the order
    """

    STORAGE = "storage"
    WITHIN = "within"
    ACTIVATION = "activation"
    PERMUTED = "permuted"


@dataclass(frozen=True)
class Settings:
    """What a user may choose; a method uses what concerns it.

    `damping` is the share of the Hessian's mean diagonal that is added to its diagonal. `static` fits all grids to
    the original weights, not to those that feedback has changed (ACTIVATION always does). `shares` are the shares of
    a span's range that are tried where a target does not search by itself; the first must be 1. `passes` is how
    often coordinate descent goes over all scales and codes afterwards.
    """

    damping: float = 0.03
    order: Order = Order.ACTIVATION
    static: bool = False
    shares: tuple[float, ...] = tuple(1 - step / 40 for step in range(3))
    passes: int = 4


DEFAULTS = Settings()


@dataclass(frozen=True)
class Layer:
    """A weight, float32 (rows = out, cols = in), and what is known of its inputs X.

    `hessian` is X^T X (cols, cols) in float32 or float64, times any positive constant; `importance` is float32
    (cols,), for methods that need no more. `prepared` is what `Method.prepare` has made of the Hessian, so that layers
    that read the same inputs share it. `name` is for messages.
    """

    name: str
    weight: F32
    hessian: Tensor | None = None
    importance: F32 | None = None
    prepared: Prepared | None = None


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


@dataclass(frozen=True)
class Report:
    """What a method did, for the manifest.

    `loss` is trace(E H E^T) of the errors E, H with its damping. `rounding_loss` is the same for rounding to nearest
    on the grid of the plain fit. Both are None without a Hessian. `damping` is what was used, `tried` what failed
    before; `dead` counts columns whose input is always zero, which are rounded to nearest. `flips` counts codes that
    coordinate descent changed. `seen` says what the statistics are of, `tokens` how many the layer read itself.
    """

    loss: float | None = None
    rounding_loss: float | None = None
    damping: float | None = None
    tried: tuple[float, ...] = ()
    dead: int = 0
    flips: int = 0
    seen: Seen = Seen.OWN
    tokens: int | None = None


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Method:
    """How codes are chosen. `needs_hessian` says whether it works without one.

    quantize(layer, target, settings, run) -> Rounded. prepare(layer, target, settings, run) -> what depends on the
    layer's Hessian and the target's span alone, for the `prepared` of this layer and others with the same inputs,
    target and settings; None for methods that prepare nothing. Raises UnsupportedError for a target it cannot serve,
    NonFiniteError and NumericError for weights and statistics it cannot work with; all name the tensor.
    """

    name: str
    quantize: Callable[[Layer, Target, Settings, Run], Rounded]
    needs_hessian: bool = False
    prepare: Callable[[Layer, Target, Settings, Run], Prepared] | None = None


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
def names() -> tuple[str, ...]:
    """Names of all methods, in alphabetical order: the modules of this package that define METHOD."""
    package = importlib.import_module("quantkit.methods")
    modules = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and m.name != "base"]
    return tuple(sorted(name for name in modules if hasattr(_module(name), "METHOD")))


@cache
def get(name: str) -> Method:
    """The method called `name`. Raises UnsupportedError with the nearest name."""
    if name not in names():
        message = f'unknown method "{name}"{did_you_mean(name, names())}'
        raise UnsupportedError(message, hint=f"known methods: {', '.join(names())}", key=name)
    method = _module(name).METHOD
    assert isinstance(method, Method)
    return method


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"quantkit.methods.{name}")
