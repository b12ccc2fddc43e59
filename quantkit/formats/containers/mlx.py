"""Checkpoints of MLX, which Macs run: affine integers.

For a linear layer of weight [out, in], b bits and groups of g columns:

    .weight   U32 [out, in * b / 32]   a stream of codes from the lowest bit on
    .scales   [out, in / g]            in the type of the model
    .biases   [out, in / g]

    W = scale * code + bias
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.base import (
    Container,
    Headers,
    LayoutOf,
    Reading,
    StoredOutline,
    WriteLayout,
    Writing,
    Written,
)
from quantkit.formats.containers.packed import (
    FLOATS,
    WORD_BITS,
    Entry,
    PackedTensor,
    Tensors,
    pack_words,
    packed,
    scales_of,
    take,
    take_matrix,
    unpack_words,
    values_of,
    word_count,
)
from quantkit.formats.containers.settings import choice, integer
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.affine import Affine
from quantkit.qtypes.schemes.base import Quantized, ScaleDtype, Traits, group_count
from quantkit.records import record
from quantkit.untrusted import shown

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (16, 32, 64, 128)
WRITTEN_GROUPS = (32, 64, 128)  # of MLX's kernels


@record
class MLXLayout:
    """How MLX stores a layer: its bits and groups, and the type of scales and biases."""

    scheme: Affine

    @cached_property
    def traits(self) -> Traits:
        return replace(self.scheme.traits, format="mlx", inputs=self.scheme.group)

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The tensors of the layer `module` of weight (rows, cols). Raises UnsupportedError for what MLX has not."""
        bits, group, dtype = self.scheme.bits, self.scheme.group, self.scheme.scale_dtype
        for value, known, key in ((bits, BITS, "bits"), (group, WRITTEN_GROUPS, "group")):
            if value not in known:
                what = f"MLX checkpoints have no {key} of {value}"
                raise UnsupportedError(what, tensor=module, hint=f"use {', '.join(map(str, known))}", key=key)
        groups = group_count(cols, group)
        return (
            Entry(f"{module}.weight", "U32", (rows, word_count(cols, bits))),
            Entry(f"{module}.scales", dtype, (rows, groups)),
            Entry(f"{module}.biases", dtype, (rows, groups)),
        )

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """The tensors of `entries`, filled."""
        weight, scales, biases = self.entries(module, *quantized.codes.shape)
        grid = quantized.grid
        assert quantized.order is None, "MLX has groups side by side"
        assert grid.offset is not None, self
        words = pack_words(quantized.codes, self.scheme.bits).view(np.uint32)
        return packed(weight, words), packed(scales, grid.scale), packed(biases, grid.offset)

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of the layer `module`, the inverse of `pack`. Raises InputError for damaged tensors."""
        bits = self.scheme.bits
        scale = scales_of(take_matrix(tensors, f"{module}.scales", FLOATS))
        bias = scales_of(take(tensors, f"{module}.biases", FLOATS, scale.shape))
        rows, cols = scale.shape[0], scale.shape[1] * self.scheme.group
        words = take(tensors, f"{module}.weight", ("U32",), (rows, word_count(cols, bits)))
        codes = unpack_words(values_of(words).view("<i4"), bits, cols).astype(np.int16)
        return Quantized(codes, Grid(scale, bias, 0, self.scheme.qmax))

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer."""
        found = headers.info("weight", ("U32",))
        if len(found.shape) == 3:
            what = f'tensor "{shown(found.name)}" is a stack of experts as MLX makes it, which is not read'
            raise UnsupportedError(what, tensor=found.name, hint="start from the original checkpoint")
        (rows, words), bits = headers.info("weight", ("U32",), 2).shape, self.scheme.bits
        cols = words * WORD_BITS // bits
        groups = headers.groups(cols, self.scheme.group)
        weight = headers.part("weight", ("U32",), (rows, word_count(cols, bits)), 0)
        scales = (headers.part(name, FLOATS, (rows, groups), 0) for name in ("scales", "biases"))
        return StoredOutline(self, rows, cols, (weight, *scales))


def choose(weights: Weights, dtype: ScaleDtype) -> MLXLayout:
    """The layout of these weights; scales and biases have the type of the model."""
    if weights.symmetry != "asymmetric":
        hint = 'use symmetry = "asymmetric"'
        raise UnsupportedError("MLX checkpoints have a bias in each group", hint=hint, key="symmetry")
    return MLXLayout(Affine(weights.bits, weights.group, dtype))


def _config(written: Written) -> dict[str, dict[str, Any]]:
    """What most layers have, then the layers that differ by name. mlx-lm says it twice: under its own key, and under
    the one by which the Hub finds quantized models."""
    count: dict[WriteLayout, int] = {}
    for layout in written.layouts.values():
        count[layout] = count.get(layout, 0) + 1
    most = max(count, key=count.__getitem__)
    said = {**_said(most), **{name: _said(it) for name, it in written.layouts.items() if it != most}}
    return {"quantization": said, "quantization_config": said}


def _said(layout: WriteLayout) -> dict[str, Any]:
    return {"group_size": layout.traits.group, "bits": layout.traits.bits, "mode": "affine"}


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """Settings of all modules, and those of some by name; false leaves one as it was."""
    layout = _layout(quantization)
    own = {name: _layout({**quantization, **said}) for name, said in quantization.items() if isinstance(said, dict)}
    return lambda module: own.get(module, layout)


def _layout(quantization: Mapping[str, Any]) -> MLXLayout:
    choice(quantization, "mode", ("affine",), "affine")
    return MLXLayout(Affine(integer(quantization, "bits", BITS), integer(quantization, "group_size", GROUPS)))


CONTAINER = Container(
    "mlx",
    Writing(types=("int",), choose=choose, config=_config, mixed=True),
    Reading(
        layouts,
        components=("scales", "biases", "weight"),
        vague=("group_size",),
        untold=(
            (".biases", "MLX",
             'config.json lacks its "quantization", which says bits and group_size: fetch it again'),
        ),
    ),
)  # fmt: skip
