"""From what a recipe says of weights to the settings of a container, and back into a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.awq import AWQLayout
from quantkit.formats.containers.bitsandbytes import BitsandbytesLayout
from quantkit.formats.containers.bitsandbytes import Dtype as TorchDtype
from quantkit.formats.containers.compressed_tensors import CompressedLayout
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.plain import PlainLayout
from quantkit.formats.containers.table import Layout
from quantkit.plan.dtypes import Dtype
from quantkit.qtypes.schemes.base import Scheme
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.halves import Halves
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.recipes.servers import Weights
from quantkit.tensors import F32

TORCH: dict[Dtype, TorchDtype] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

# What each container holds: the types of weights, and the activations that go with them.
HOLDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gptq": (("int",), ("none",)),
    "awq": (("int",), ("none",)),
    "compressed-tensors": (("int", "fp8", "nvfp4", "mxfp4"), ("none", "dynamic", "static")),
    "bitsandbytes": (("nf4", "fp4", "int8-rows"), ("none",)),
    "fp8": (("fp8",), ("none", "dynamic")),
    "plain": (("bf16", "f16"), ("none",)),
}


@lru_cache(maxsize=256)  # a mixture of experts asks ten thousand times; equal layouts are then one object
def layout_of(container: str, weights: Weights, dtype: Dtype) -> Layout:
    """The settings of `container` for these weights in a model of `dtype`.

    Raises UnsupportedError for what the container does not hold; shapes and bits it checks itself.
    """
    types, activations = HOLDS[container]
    if weights.type not in types:
        others = [name for name, (held, _) in HOLDS.items() if weights.type in held]
        hint = f'use container = "{others[0]}", or weights of type {", ".join(types)}'
        raise UnsupportedError(f"{container} checkpoints have no weights of type {weights.type}", hint=hint, key="type")
    if weights.activations not in activations:
        what = f"{container} checkpoints do not say how activations are rounded"
        raise UnsupportedError(what, hint='use container = "compressed-tensors"', key="activations")
    if container == "gptq":
        lowest = 1 if weights.version == 1 else 0
        integers = Integers(weights.bits, weights.group, weights.symmetry, "F16", lowest_zero=lowest)
        return GPTQLayout(integers, weights.version, weights.act_order)
    if container == "awq":
        return AWQLayout(Integers(weights.bits, weights.group, weights.symmetry, "F16"))
    if container == "bitsandbytes":
        scheme = RowInt8() if weights.type == "int8-rows" else Codebook(_table(weights), weights.double)
        return BitsandbytesLayout(scheme, TORCH[dtype])
    if container == "fp8":
        return FP8Layout()
    if container == "plain":
        return PlainLayout(Halves("F16" if weights.type == "f16" else "BF16"))
    if weights.type == "int":
        return CompressedLayout(Integers(weights.bits, weights.group, weights.symmetry, dtype), weights.activations)
    if weights.type == "fp8":
        return CompressedLayout(Float8(weights.granularity, dtype), weights.activations)
    if weights.activations != "none":
        what = f"activations of {weights.type} are rounded at run time only by engines that want other scales"
        raise UnsupportedError(what, hint='use activations = "none"', key="activations")
    return CompressedLayout(NVFP4() if weights.type == "nvfp4" else MXFP4())


def _table(weights: Weights) -> Literal["nf4", "fp4"]:
    return "nf4" if weights.type == "nf4" else "fp4"


def short_type(layout: Layout) -> str:
    """A layout as one word for tables: "int4-g128", "fp8-channel", "nf4"."""
    scheme = layout.scheme
    if isinstance(scheme, Integers):
        group = "" if scheme.group == -1 else f"-g{scheme.group}"
        return f"int{scheme.bits}{group}{'' if scheme.symmetric else '-asym'}"
    if isinstance(scheme, RowInt8):
        return "int8"
    if isinstance(scheme, Codebook):
        return f"{scheme.table}{'-double' if scheme.double else ''}"
    if isinstance(scheme, Float8):
        return f"fp8-{scheme.strategy}"
    if isinstance(scheme, Halves):
        return scheme.dtype.lower()
    return type(scheme).__name__.lower()


def shares_scale(layout: Layout) -> bool:
    """Whether layers that engines fuse must have a scale in common."""
    return isinstance(layout.scheme, NVFP4)


def joint(layouts: Sequence[Layout], weights: Sequence[F32]) -> list[Scheme]:
    """The schemes of layers that share a scale, fitted to all of their weights."""
    largest = max(float(np.abs(weight).max()) for weight in weights) if shares_scale(layouts[0]) else 0.0
    return [
        replace(layout.scheme, largest=largest) if isinstance(layout.scheme, NVFP4) else layout.scheme
        for layout in layouts
    ]
