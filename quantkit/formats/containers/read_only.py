"""How other tools store weights that quantkit reads and never writes.

ScaledFloat8   FP8 of AutoFP8, Mistral, DeepSeek and ModelOpt: `weight` F8_E4M3, and `weight_scale` or
               `weight_scale_inv` with one scale for all, per row, or per block of 128 x 128;  W = weight * scale
ModelOptFP4    NVFP4 of ModelOpt: `weight` U8 [out, in / 2], the even element in the low half byte, `weight_scale`
               F8_E4M3 [out, in / 16], `weight_scale_2` F32 of one element;  W = level * (weight_scale * weight_scale_2)
MLXLayout      affine integers of MLX: `weight` U32 [out, in * bits / 32], a stream of codes from the lowest bit on,
               `scales` and `biases` [out, in / group];  W = scale * code + bias
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers import table
from quantkit.formats.containers.compressed_tensors import CompressedLayout
from quantkit.formats.containers.packed import (
    FLOATS,
    Tensors,
    scales_of,
    take,
    take_matrix,
    unpack_words,
    values_of,
    word_count,
)
from quantkit.formats.containers.table import Layout
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import Quantized
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.microscaling import LEVELS, NVFP4
from quantkit.qtypes.schemes.minifloat import BYTE_VALUES, Float8, Strategy, to_codes
from quantkit.untrusted import shown

MLX_BITS = (2, 3, 4, 5, 6, 8)
MLX_GROUPS = (16, 32, 64, 128)


@dataclass(frozen=True)
class ScaledFloat8:
    """FP8 weights whose scales are in the tensor `scale` of their module."""

    scheme: Float8
    scale: str

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of a module, blocks at the edges cut off. Raises InputError."""
        weight = take_matrix(tensors, f"{module}.weight", ("F8_E4M3",))
        rows, cols = weight.entry.shape
        shape = self.scheme.scale_shape(rows, cols)
        found = scales_of(take(tensors, f"{module}.{self.scale}", FLOATS))
        if found.size != shape[0] * shape[1]:
            what = f'"{shown(module)}" has {found.size} scales, expected {shape[0]} x {shape[1]}'
            raise InputError(what, tensor=f"{module}.{self.scale}", hint="the checkpoint is damaged: fetch it again")
        return Quantized(to_codes(values_of(weight)), self.scheme.grid(found.reshape(shape), rows, cols))


@dataclass(frozen=True)
class ModelOptFP4:
    """NVFP4 weights as ModelOpt stores them."""

    @property
    def scheme(self) -> NVFP4:
        return NVFP4()

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of a module. Raises InputError."""
        raw = values_of(take_matrix(tensors, f"{module}.weight", ("U8",)))
        rows, cols = raw.shape[0], raw.shape[1] * 2
        expected = (rows, cols // self.scheme.group)
        scale = BYTE_VALUES[values_of(take(tensors, f"{module}.weight_scale", ("F8_E4M3",), expected))]
        factor = scales_of(take(tensors, f"{module}.weight_scale_2", ("F32",))).reshape(-1)[0]
        if np.isnan(scale).any():
            name = f"{module}.weight_scale"
            what = f'"{shown(name)}" holds a scale that is not a number'
            raise InputError(what, tensor=name, hint="the checkpoint is damaged: fetch it again")
        codes = np.stack([raw & 15, raw >> 4], axis=2).reshape(rows, cols)
        grid = Grid(scale * factor, None, 0, LEVELS.size - 1, levels=LEVELS)
        return Quantized(codes.astype(np.int16), grid)


@dataclass(frozen=True)
class MLXLayout:
    """Affine integers of MLX: `bits` per code, a scale and a bias for every `group` columns."""

    bits: int
    group: int

    @property
    def scheme(self) -> Integers:
        return Integers(self.bits, self.group, "asymmetric")

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of a module. Raises InputError."""
        scale = scales_of(take_matrix(tensors, f"{module}.scales", FLOATS))
        bias = scales_of(take(tensors, f"{module}.biases", FLOATS, scale.shape))
        rows, cols = scale.shape[0], scale.shape[1] * self.group
        words = take(tensors, f"{module}.weight", ("U32",), (rows, word_count(cols, self.bits)))
        codes = unpack_words(values_of(words).view("<i4"), self.bits, cols).astype(np.int16)
        return Quantized(codes, Grid(scale, bias, 0, (1 << self.bits) - 1))


@dataclass(frozen=True)
class ScaledFloats:
    """ScaledFloat8 or ModelOptFP4, whichever the tensors of a module show: writers mix them."""

    def exact(self, dtype: str, rows: int, scales: tuple[int, ...], name: str) -> ScaledFloat8 | ModelOptFP4:
        """The layout of a weight of `rows` rows stored as `dtype`, with scales of this shape in the tensor `name`."""
        if dtype == "U8":
            return ModelOptFP4()
        row_wise = scales[:1] == (rows,) and prod(scales) == rows
        strategy: Strategy = "tensor" if prod(scales) == 1 else "channel" if row_wise else "block"
        return ScaledFloat8(Float8(strategy), name)


@dataclass(frozen=True)
class PresetLayout:
    """A layout that a compressed-tensors checkpoint gives by name, where versions of that package differ in groups."""

    layout: CompressedLayout

    @property
    def scheme(self) -> object:
        return self.layout.scheme

    def exact(self, cols: int, groups: int) -> CompressedLayout:
        """With the size of groups that the scales of a row of `cols` weights show."""
        scheme = self.layout.scheme
        if not isinstance(scheme, Integers) or groups < 1 or cols % groups:
            return self.layout
        return replace(self.layout, scheme=replace(scheme, group=-1 if groups == 1 else cols // groups))


ReadLayout = Layout | ScaledFloat8 | ModelOptFP4 | MLXLayout
SaidLayout = ReadLayout | ScaledFloats | PresetLayout


def unpack(layout: ReadLayout, module: str, tensors: Tensors) -> Quantized:
    """The codes and grid of a module in any layout that is read. Raises InputError for damaged tensors."""
    if isinstance(layout, ScaledFloat8 | ModelOptFP4 | MLXLayout):
        return layout.unpack(module, tensors)
    return table.of(layout).unpack(layout, module, tensors)
