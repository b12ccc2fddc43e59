"""compressed-tensors checkpoints: what llm-compressor writes and vLLM, transformers and llama.cpp's converter read.

For a linear layer of weight [out, in], b bits and G scales per row:

    pack-quantized    .weight_packed       I32 [out, in * b / 32]   code + 2^(b-1), packed along in
                      .weight_scale        [out, G]
                      .weight_shape        I64 [2] = out, in
                      .weight_zero_point   I32 [out * b / 32, G]    asymmetric only; packed along out, same shift
    int-quantized     .weight              I8 [out, in]             8 bits with quantized activations
                      .weight_scale        [out, 1]
    float-quantized   .weight              F8_E4M3 [out, in]
                      .weight_scale        [1], [out, 1] or [out / 128, in / 128], rounded up
    naive-quantized   the same, activations not quantized
    static activations add .input_scale    [1]

    W = scale * (code - zero)

compressed_tensors_fp4.py has the tensors of NVFP4 and MXFP4, compressed_tensors_kv.py those of a quantized cache.

Since version 0.18 codes of 3, 5, 6 and 7 bits are one stream that crosses words; 2, 4 and 8 bits never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from math import lcm

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers import compressed_tensors_fp4
from quantkit.formats.containers.base import DAMAGED, Headers, StoredOutline, StoredPart, codes_in_words
from quantkit.formats.containers.packed import (
    FLOATS,
    STREAMED_BITS,
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
from quantkit.formats.containers.scaled_floats import float8_outline
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes import TILE
from quantkit.qtypes.schemes.base import ZERO, Activations, Quantized, Traits, group_count
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import LARGEST, SCALE, Float8, to_bytes, to_codes
from quantkit.records import record
from quantkit.tensors import F32, U8
from quantkit.untrusted import shown

SMALLEST_PEAK = 1e-6  # of inputs that are always zero
INT8_STEPS = np.float32(127.5)  # half the steps of 8 bits: compressed-tensors' observers


@record
class CompressedLayout:
    """One group of a compressed-tensors checkpoint: how weights are stored, and how activations are quantized."""

    scheme: Integers | Float8 | NVFP4 | MXFP4
    activations: Activations = "none"

    @cached_property
    def traits(self) -> Traits:
        of = self.scheme.traits
        outputs, inputs = (TILE, TILE) if of.in_blocks else (1, max(of.group, 1))
        words = codes_in_words(self.scheme.bits)
        if self.format == "pack-quantized":
            outputs, inputs = 1 if of.symmetric else words, lcm(inputs, words)
        elif self.format == "int-quantized":
            outputs = 1 if of.symmetric else words
        summary = f"compressed-tensors {self.format} {of.words}"
        return replace(
            of, format=self.format, activations=self.activations, outputs=outputs, inputs=inputs, summary=summary
        )

    @property
    def format(self) -> str:
        if isinstance(self.scheme, NVFP4):
            return "nvfp4-pack-quantized"
        if isinstance(self.scheme, MXFP4):
            return "mxfp4-pack-quantized"
        if isinstance(self.scheme, Integers):
            return "pack-quantized" if self.activations == "none" else "int-quantized"
        return "naive-quantized" if self.activations == "none" else "float-quantized"

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The tensors of the layer `module` of weight (rows, cols). Raises UnsupportedError for what cannot be."""
        _require_loadable(self, module, cols)
        scheme = self.scheme
        if isinstance(scheme, NVFP4 | MXFP4):
            return compressed_tensors_fp4.entries(scheme, module, rows, cols)
        dtype = scheme.scale_dtype
        static = [Entry(f"{module}.input_scale", dtype, (1,))] if self.activations == "static" else []
        if isinstance(scheme, Float8):
            shape = (1,) if scheme.strategy == "tensor" else scheme.scale_shape(rows, cols)
            weight = Entry(f"{module}.weight", "F8_E4M3", (rows, cols))
            return weight, Entry(f"{module}.weight_scale", dtype, shape), *static
        groups = group_count(cols, scheme.group)
        scale = Entry(f"{module}.weight_scale", dtype, (rows, groups))
        if self.format == "int-quantized":
            return Entry(f"{module}.weight", "I8", (rows, cols)), scale, *static
        words = Entry(f"{module}.weight_packed", "I32", (rows, word_count(cols, scheme.bits)))
        shape_of = Entry(f"{module}.weight_shape", "I64", (2,))
        zero = Entry(f"{module}.weight_zero_point", "I32", (word_count(rows, scheme.bits), groups))
        return (words, scale, shape_of) if scheme.symmetric else (words, scale, shape_of, zero)

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """The tensors of `entries`, filled. With static activations `input_peak` decides their scale."""
        rows, cols = quantized.codes.shape
        grid, scheme = quantized.grid, self.scheme
        assert quantized.order is None, "compressed-tensors has groups side by side"
        if isinstance(scheme, NVFP4 | MXFP4):
            return compressed_tensors_fp4.pack(scheme, module, quantized)
        found = {entry.name.rpartition(".")[2]: entry for entry in self.entries(module, rows, cols)}
        static = () if self.activations != "static" else (packed(found["input_scale"], self._input_scale(input_peak)),)
        if isinstance(scheme, Float8):
            tiles = packed(found["weight_scale"], grid.fields[SCALE].reshape(found["weight_scale"].shape))
            return packed(found["weight"], to_bytes(quantized.codes)), tiles, *static
        scale = packed(found["weight_scale"], grid.scale)
        if self.format == "int-quantized":
            return packed(found["weight"], quantized.codes.astype(np.int8)), scale, *static
        words = packed(found["weight_packed"], pack_words(quantized.codes - grid.qmin, scheme.bits))
        shape = packed(found["weight_shape"], np.array([rows, cols], np.int64))
        if scheme.symmetric:
            return words, scale, shape
        zero = pack_words(grid.fields[ZERO].T - grid.qmin, scheme.bits).T
        return words, scale, shape, packed(found["weight_zero_point"], zero)

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of the layer `module`, the inverse of `pack`. Raises InputError for damaged tensors."""
        if isinstance(self.scheme, NVFP4 | MXFP4):
            return compressed_tensors_fp4.unpack(self.scheme, module, tensors)
        if isinstance(self.scheme, Float8):
            return _unpack_float(self.scheme, module, tensors)
        if f"{module}.weight_packed" in tensors:
            return _unpack_words(self.scheme, module, tensors)
        weight = take_matrix(tensors, f"{module}.weight", ("I8",))
        rows, cols = weight.entry.shape
        scale = scales_of(take(tensors, f"{module}.weight_scale", FLOATS))
        spread = _scale_per_row(module, scale, rows, cols)
        return Quantized(values_of(weight).astype(np.int16), Grid(spread, None, -128, 127))

    def _input_scale(self, peak: float | None) -> F32:
        """The static scale of inputs up to the magnitude `peak`, (1,)."""
        assert peak is not None, "static scales are found with text"
        steps = INT8_STEPS if isinstance(self.scheme, Integers) else LARGEST
        return np.array([max(peak, SMALLEST_PEAK) / steps], np.float32)

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer."""
        scheme = self.scheme
        if isinstance(scheme, NVFP4 | MXFP4):
            return _float4(self, scheme, headers)
        if isinstance(scheme, Float8):
            return float8_outline(self, scheme, "weight_scale", headers)
        if headers.has("weight_packed") or headers.has("weight_shape"):
            return _words(self, scheme, headers)
        rows, cols = headers.info("weight", ("I8",), 2).shape
        if not scheme.symmetric:
            what = f'"{shown(headers.module)}" has zero points beside a byte per weight'
            raise UnsupportedError(what, key="symmetric", hint="start from the original checkpoint")
        scale = headers.scales("weight_scale", (rows, headers.groups(cols, scheme.group)), single=True)
        return StoredOutline(self, rows, cols, (headers.part("weight", ("I8",), (rows, cols), 0), scale))


def _require_loadable(layout: CompressedLayout, module: str, cols: int) -> None:
    scheme = layout.scheme
    if isinstance(scheme, Float8) and scheme.strategy == "block" and cols % TILE:
        what = f'"{shown(module)}" has {cols:,} inputs; activations of FP8 blocks come in groups of {TILE}'
        raise UnsupportedError(what, tensor=module, hint="keep this layer unquantized, or use one scale per channel")
    if isinstance(scheme, NVFP4 | MXFP4) and layout.activations != "none":
        what = f"{layout.activations} activations beside four-bit floats"
        hint = 'keep activations as they are: activations = "none"'
        raise UnsupportedError(what, tensor=module, hint=hint, key="activations")
    if layout.format == "int-quantized":
        assert isinstance(scheme, Integers)
        if scheme.bits != 8 or scheme.group != -1 or not scheme.symmetric:
            what = "W8A8 weights other than symmetric 8-bit integers with one scale per channel"
            raise UnsupportedError(what, tensor=module, hint="no loader has kernels for them", key="weights")


def _scale_per_row(module: str, scale: F32, rows: int, cols: int) -> F32:
    """Scales as stored, [], [1], [out], [out, 1] or [out, G], as (rows, groups)."""
    if scale.size == 1:
        return np.full((rows, 1), scale.flat[0], np.float32)
    if scale.ndim in (1, 2) and scale.shape[0] == rows and cols % (scale.size // rows) == 0:
        return scale.reshape(rows, -1)
    what = f'scales of "{shown(module)}" have the shape {list(scale.shape)}, the weight is {rows} x {cols}'
    raise InputError(what, tensor=f"{module}.weight_scale", hint="the checkpoint is damaged: fetch it again")


def _unpack_float(scheme: Float8, module: str, tensors: Tensors) -> Quantized:
    weight = take_matrix(tensors, f"{module}.weight", ("F8_E4M3",))
    rows, cols = weight.entry.shape
    found = take(tensors, f"{module}.weight_scale", FLOATS)
    expected = scheme.scale_shape(rows, cols)
    scale = scales_of(found)
    if scale.shape != expected and not (scale.size == 1 and expected == (1, 1)):
        what = f'scales of "{shown(module)}" have the shape {list(scale.shape)}, expected {list(expected)}'
        raise InputError(what, tensor=found.entry.name, hint="the checkpoint is damaged: fetch it again")
    return Quantized(to_codes(values_of(weight)), scheme.grid(scale.reshape(expected), rows, cols))


def _unpack_words(scheme: Integers, module: str, tensors: Tensors) -> Quantized:
    rows, cols = _stored_shape(module, tensors)
    bits = scheme.bits
    found = take_matrix(tensors, f"{module}.weight_packed", ("I32",))
    if bits in STREAMED_BITS and found.entry.shape != (rows, word_count(cols, bits)):
        what = f'"{shown(module)}" has words of {32 // bits} codes of {bits} bits, as before compressed-tensors 0.18'
        raise UnsupportedError(what, tensor=found.entry.name, hint="save the checkpoint again with a newer version")
    words = take(tensors, found.entry.name, ("I32",), (rows, word_count(cols, bits)))
    codes = unpack_words(values_of(words), bits, cols).astype(np.int16)
    scale = _scale_per_row(module, scales_of(take(tensors, f"{module}.weight_scale", FLOATS)), rows, cols)
    if scale.shape[1] != (1 if scheme.group == -1 else cols / scheme.group):
        what = f'"{shown(module)}" has {scale.shape[1]} groups of {cols} weights, expected groups of {scheme.group}'
        raise InputError(what, tensor=f"{module}.weight_scale", hint="the checkpoint does not match its config.json")
    if scheme.symmetric:
        return Quantized(codes + np.int16(scheme.qmin), Grid(scale, None, scheme.qmin, scheme.qmax))
    groups = scale.shape[1]
    zeros = take(tensors, f"{module}.weight_zero_point", ("I32",), (word_count(rows, bits), groups))
    zero = np.ascontiguousarray(unpack_words(values_of(zeros).T, bits, rows).T.astype(np.int16))
    offset = -(scale * zero.astype(np.float32))
    return Quantized(codes, Grid(scale, offset, scheme.qmin, scheme.qmax, fields={ZERO: zero}))


def _stored_shape(module: str, tensors: Tensors) -> tuple[int, int]:
    """The shape of a packed weight; its columns must fit the words, so that nothing is allocated on its say-so."""
    found = take(tensors, f"{module}.weight_shape", ("I64", "I32"), (2,))
    rows, cols = (int(size) for size in values_of(found))
    words = take_matrix(tensors, f"{module}.weight_packed", ("I32",)).entry.shape
    if rows != words[0] or not 0 < cols <= words[1] * 32:
        what = f'"{shown(module)}" claims a weight of {rows} x {cols} in words of shape {list(words)}'
        raise InputError(what, tensor=found.entry.name, hint="the checkpoint is damaged: fetch it again")
    return rows, cols


def _words(layout: CompressedLayout, scheme: Integers, headers: Headers) -> StoredOutline:
    """Packed integers of compressed-tensors; the columns are what `weight_shape` says, and must fill the words."""
    packed_rows, words = headers.info("weight_packed", ("I32",), 2).shape
    shape = headers.small("weight_shape", ("I64", "I32"), 16)
    rows, cols = (int(size) for size in values_of(shape)) if shape.entry.shape == (2,) else (0, 0)
    streamed = scheme.bits in STREAMED_BITS  # their older layout has more words; `unpack` says so
    fits = words >= word_count(cols, scheme.bits) if streamed else words == word_count(cols, scheme.bits)
    if rows != packed_rows or cols < 1 or not fits:
        what = f'"{shown(shape.entry.name)}" claims a weight of {rows} x {cols}, in words of {packed_rows} x {words}'
        raise InputError(what, tensor=shape.entry.name, hint=DAMAGED)
    groups = headers.groups(cols, scheme.group)
    parts = [
        headers.part("weight_packed", ("I32",), (rows, words), 0),
        headers.scales("weight_scale", (rows, groups), single=True),
        StoredPart(shape.entry.name, shape.entry.dtype, (2,), restated=_restated_shape(shape.entry.dtype)),
    ]
    if not scheme.symmetric:
        zeros = (word_count(rows, scheme.bits), groups)
        parts.append(headers.part("weight_zero_point", ("I32",), zeros, 0, Fraction(scheme.bits, WORD_BITS)))
    return StoredOutline(layout, rows, cols, tuple(parts))


def _restated_shape(dtype: str) -> Callable[[U8, int], U8]:
    def restated(raw: U8, rows: int) -> U8:
        values = raw.view("<i8" if dtype == "I64" else "<i4").copy()
        values[0] = rows
        return values.view(np.uint8)

    return restated


def _float4(layout: CompressedLayout, scheme: NVFP4 | MXFP4, headers: Headers) -> StoredOutline:
    rows, half = headers.info("weight_packed", ("U8",), 2).shape
    found = compressed_tensors_fp4.entries(scheme, headers.module, rows, 2 * half)
    suffixes = [entry.name.removeprefix(f"{headers.module}.") for entry in found]
    parts = [
        headers.part(suffix, (entry.dtype,), entry.shape, None if entry.shape == (1,) else 0)
        for suffix, entry in zip(suffixes, found, strict=True)
    ]
    return StoredOutline(layout, rows, 2 * half, tuple(parts))


@record
class PresetLayout:
    """A layout that a compressed-tensors checkpoint gives by name, where versions of that package differ in groups."""

    layout: CompressedLayout

    def exact(self, cols: int, groups: int) -> CompressedLayout:
        """With the size of groups that the scales of a row of `cols` weights show."""
        scheme = self.layout.scheme
        if not isinstance(scheme, Integers) or groups < 1 or cols % groups:
            return self.layout
        return replace(self.layout, scheme=replace(scheme, group=-1 if groups == 1 else cols // groups))

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer, and its exact layout."""
        exact = self.layout
        if headers.has("weight_shape") and isinstance(exact.scheme, Integers):
            _, cols = (int(size) for size in values_of(headers.small("weight_shape", ("I64", "I32"), 16)))
            exact = self.exact(max(cols, 1), headers.info("weight_scale", FLOATS).shape[-1])
        return exact.outline(headers)
