"""Checkpoints of MLX, which Macs run: affine integers.

For a linear layer of weight [out, in], b bits and groups of g columns:

    .weight   U32 [out, in * b / 32]   a stream of codes from the lowest bit on
    .scales   [out, in / g]            in the type of the model
    .biases   [out, in / g]

    W = scale * code + bias
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.base import Container, Headers, LayoutOf, Reading, StoredOutline
from quantkit.formats.containers.packed import (
    FLOATS,
    WORD_BITS,
    Tensors,
    scales_of,
    take,
    take_matrix,
    unpack_words,
    values_of,
    word_count,
)
from quantkit.formats.containers.settings import choice, integer
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import Quantized, Traits
from quantkit.qtypes.schemes.integers import Integers
from quantkit.untrusted import shown

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (16, 32, 64, 128)


@dataclass(frozen=True)
class MLXLayout:
    """Affine integers of MLX: `bits` per code, a scale and a bias for every `group` columns."""

    bits: int
    group: int

    @property
    def scheme(self) -> Integers:
        return Integers(self.bits, self.group, "asymmetric")

    @property
    def traits(self) -> Traits:
        return self.scheme.traits

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of a module. Raises InputError."""
        scale = scales_of(take_matrix(tensors, f"{module}.scales", FLOATS))
        bias = scales_of(take(tensors, f"{module}.biases", FLOATS, scale.shape))
        rows, cols = scale.shape[0], scale.shape[1] * self.group
        words = take(tensors, f"{module}.weight", ("U32",), (rows, word_count(cols, self.bits)))
        codes = unpack_words(values_of(words).view("<i4"), self.bits, cols).astype(np.int16)
        return Quantized(codes, Grid(scale, bias, 0, (1 << self.bits) - 1))

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer."""
        found = headers.info("weight", ("U32",))
        if len(found.shape) == 3:
            what = f'tensor "{shown(found.name)}" is a stack of experts as MLX makes it, which is not read'
            raise UnsupportedError(what, tensor=found.name, hint="start from the original checkpoint")
        (rows, words), bits = headers.info("weight", ("U32",), 2).shape, self.bits
        cols = words * WORD_BITS // bits
        groups = headers.groups(cols, self.group)
        weight = headers.part("weight", ("U32",), (rows, word_count(cols, bits)), 0)
        scales = (headers.part(name, FLOATS, (rows, groups), 0) for name in ("scales", "biases"))
        return StoredOutline(self, rows, cols, (weight, *scales))


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """Settings of all modules, and those of some by name; false leaves one as it was."""
    layout = _layout(quantization)
    own = {name: _layout({**quantization, **said}) for name, said in quantization.items() if isinstance(said, dict)}
    return lambda module: own.get(module, layout)


def _layout(quantization: Mapping[str, Any]) -> MLXLayout:
    choice(quantization, "mode", ("affine",), "affine")
    return MLXLayout(integer(quantization, "bits", BITS), integer(quantization, "group_size", GROUPS))


CONTAINER = Container(
    "mlx",
    reading=Reading(
        layouts,
        components=("scales", "biases", "weight"),
        vague=("group_size",),
        untold=(
            (".biases", "MLX",
             'config.json lacks its "quantization", which says bits and group_size: fetch it again'),
        ),
    ),
)  # fmt: skip
