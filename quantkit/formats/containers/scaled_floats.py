"""FP8 and FP4 weights of writers who say little of them: their tensors show how scales are stored.

ScaledFloat8   FP8 of AutoFP8, Mistral, DeepSeek and ModelOpt: `weight` F8_E4M3, and `weight_scale` or
               `weight_scale_inv` with one scale for all, per row, or per block of 128 x 128;  W = weight * scale
ModelOptFP4    NVFP4 of ModelOpt: `weight` U8 [out, in / 2], the even element in the low half byte, `weight_scale`
               F8_E4M3 [out, in / 16], `weight_scale_2` F32 of one element;  W = level * (weight_scale * weight_scale_2)
"""

from __future__ import annotations

from fractions import Fraction
from math import prod

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.base import DAMAGED, Headers, ReadLayout, StoredOutline, StoredPart
from quantkit.formats.containers.packed import SCALES, Tensors, scales_of, take, take_matrix, values_of
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes import TILE
from quantkit.qtypes.schemes.base import Quantized, Traits
from quantkit.qtypes.schemes.microscaling import LEVELS, NVFP4, SCALE
from quantkit.qtypes.schemes.minifloat import BYTE_VALUES, Float8, Strategy, to_codes
from quantkit.records import record
from quantkit.tensors import U8, TensorInfo
from quantkit.untrusted import shown


def float8_outline(layout: ReadLayout, scheme: Float8, scale: str, headers: Headers) -> StoredOutline:
    """The tensors of FP8 weights whose scales are in the tensor `scale`."""
    rows, cols = headers.info("weight", ("F8_E4M3",), 2).shape
    weight = headers.part("weight", ("F8_E4M3",), (rows, cols), 0)
    tile = TILE if scheme.strategy == "block" else 1
    found = headers.scales(scale, scheme.scale_shape(rows, cols), Fraction(1, tile))
    return StoredOutline(layout, rows, cols, (weight, found), tile)


@record
class ScaledFloat8:
    """FP8 weights whose scales are in the tensor `scale` of their module."""

    scheme: Float8
    scale: str

    @property
    def traits(self) -> Traits:
        return self.scheme.traits

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of a module, blocks at the edges cut off. Raises InputError."""
        weight = take_matrix(tensors, f"{module}.weight", ("F8_E4M3",))
        rows, cols = weight.entry.shape
        shape = self.scheme.scale_shape(rows, cols)
        found = scales_of(take(tensors, f"{module}.{self.scale}", SCALES))
        if found.size != shape[0] * shape[1]:
            what = f'"{shown(module)}" has {found.size} scales, expected {shape[0]} x {shape[1]}'
            raise InputError(what, tensor=f"{module}.{self.scale}", hint="the checkpoint is damaged: fetch it again")
        return Quantized(to_codes(values_of(weight)), self.scheme.grid(found.reshape(shape), rows, cols))


@record
class ModelOptFP4:
    """NVFP4 weights as ModelOpt stores them. `wide` says that their inputs are left as they are."""

    wide: bool = False

    @property
    def scheme(self) -> NVFP4:
        return NVFP4()

    @property
    def traits(self) -> Traits:
        return self.scheme.traits

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of a module. Raises InputError."""
        raw = values_of(take_matrix(tensors, f"{module}.weight", ("U8",)))
        rows, cols = raw.shape[0], raw.shape[1] * 2
        expected = (rows, cols // self.scheme.group)
        stored: U8 = values_of(take(tensors, f"{module}.weight_scale", ("F8_E4M3",), expected))
        scale = BYTE_VALUES[stored]
        factor = scales_of(take(tensors, f"{module}.weight_scale_2", ("F32",))).reshape(-1)[0]
        if np.isnan(scale).any():
            name = f"{module}.weight_scale"
            what = f'"{shown(name)}" holds a scale that is not a number'
            raise InputError(what, tensor=name, hint="the checkpoint is damaged: fetch it again")
        codes = np.stack([raw & 15, raw >> 4], axis=2).reshape(rows, cols)
        grid = Grid(scale * factor, None, 0, LEVELS.size - 1, levels=LEVELS, fields={SCALE: stored})
        return Quantized(codes.astype(np.int16), grid)


@record
class ScaledFloats:
    """ScaledFloat8 or ModelOptFP4, whichever the tensors of a module show: writers mix them."""

    wide: bool = False

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer, and its exact layout."""
        weight = headers.info("weight", ("F8_E4M3", "U8"), 2)
        name = "weight_scale_inv" if headers.has("weight_scale_inv") else "weight_scale"
        found = headers.info(name, SCALES if weight.dtype == "F8_E4M3" else ("F8_E4M3",))
        if weight.dtype == "U8":
            return _float4_outline(ModelOptFP4(self.wide), weight.shape, headers)
        row_wise = found.shape[:1] == weight.shape[:1] and prod(found.shape) == weight.shape[0]
        strategy: Strategy = "tensor" if prod(found.shape) == 1 else "channel" if row_wise else "block"
        exact = ScaledFloat8(Float8(strategy), name)
        return float8_outline(exact, exact.scheme, name, headers)


def _float4_outline(exact: ModelOptFP4, shape: tuple[int, ...], headers: Headers) -> StoredOutline:
    rows, half = shape
    factor = headers.info("weight_scale_2", ("F32",))
    if prod(factor.shape) != 1:
        raise headers.wrong(factor, "one element")
    parts = (
        headers.part("weight", ("U8",), (rows, half), 0),
        headers.part("weight_scale", ("F8_E4M3",), (rows, headers.groups(2 * half, exact.scheme.group)), 0),
        StoredPart(factor.name, "F32", factor.shape),
    )
    return StoredOutline(exact, rows, 2 * half, parts)


def matrix_of_stack(info: TensorInfo, scale: TensorInfo) -> StoredOutline:
    """A matrix of a stack (count, rows, cols) in FP8, called as the stack is, its scales in those of the stack.

    Raises InputError for scales that are not one for each matrix, row or tile.
    """
    count, rows, cols = info.shape
    strategies: tuple[Strategy, ...] = ("tensor", "channel", "block")
    for strategy in strategies:
        exact = ScaledFloat8(Float8(strategy), "weight_scale")
        shape = exact.scheme.scale_shape(rows, cols)
        alike = [n for n in scale.shape if n != 1] == [n for n in (count, *shape) if n != 1]
        if alike and scale.dtype in SCALES and scale.shape[:1] == (count,):
            tile = TILE if strategy == "block" else 1
            axis = None if strategy == "tensor" else 0
            parts = (
                StoredPart(f"{info.name}.weight", "F8_E4M3", (rows, cols), 0),
                StoredPart(f"{info.name}.weight_scale", scale.dtype, shape, axis, Fraction(1, tile)),
            )
            return StoredOutline(exact, rows, cols, parts, tile)
    what = f'tensor "{shown(scale.name)}" is {scale.dtype} {list(scale.shape)}, no scales of a stack {list(info.shape)}'
    raise InputError(what, tensor=scale.name, hint=DAMAGED)
