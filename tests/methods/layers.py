"""Weights with inputs as layers of a model have them, and every target that methods can round to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from quantkit.methods.base import Layer
from quantkit.qtypes import base as qtypes
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.qtypes.target import Target, type_target

TYPES = tuple(name for name in qtypes.names() if qtypes.get(name).widen is None and type_target(qtypes.get(name)).feeds)
SCHEMES = {
    "int4-g128": Integers(4, 128),
    "int4-g32-full-range": Integers(4, 32, "full-range"),
    "int3-g64-asymmetric": Integers(3, 64, "asymmetric", lowest_zero=1),
    "int8-row": Integers(8),
    "llm-int8": RowInt8(),
    "fp8-tensor": Float8("tensor"),
    "fp8-channel": Float8("channel"),
    "fp8-tile": Float8("block"),
}
TARGETS: dict[str, Callable[[int], Target]] = {
    **{name: lambda cols, name=name: type_target(qtypes.get(name)) for name in TYPES},
    **{name: lambda cols, scheme=scheme: scheme.target(cols) for name, scheme in SCHEMES.items()},
}


def inputs(cols: int, tokens: int = 1024, seed: int = 0) -> np.ndarray:
    """Activations float32 (tokens, cols): correlated, of falling variance, with a few channels that stick out."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((cols, cols)) * np.exp(-4 * np.arange(cols) / cols)[:, None] / np.sqrt(cols)
    x = rng.standard_normal((tokens, cols)) @ mixing * np.exp(rng.standard_normal(cols) / 2)
    x[:, rng.integers(0, cols, 3)] *= 8
    return x.astype(np.float32)


def layer(rows: int = 40, cols: int = 512, seed: int = 0) -> Layer:
    """A layer with the Hessian of such activations."""
    x = inputs(cols, seed=seed)
    weight = np.random.default_rng(seed + 1).standard_normal((rows, cols)).astype(np.float32) / 50
    return Layer("block.proj.weight", weight, torch.from_numpy(x.T @ x))


def loss(weight: np.ndarray, rounded: np.ndarray, hessian: torch.Tensor, damping: float = 0.0) -> np.ndarray:
    """e H e^T of every row in float64, with `damping` of the mean diagonal on the diagonal of H."""
    h = hessian.double().numpy().copy()
    h[np.diag_indices_from(h)] += damping * h.diagonal().mean()
    e = weight.astype(np.float64) - rounded
    return np.einsum("ri,ij,rj->r", e, h, e, optimize=True)
