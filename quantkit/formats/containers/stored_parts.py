"""Of which tensors a quantized linear layer consists, and which piece of each belongs to some rows of its weight.

Every container keeps codes, scales and zero points apart and packs them along its own axis. For any of these tensors
a row of the weight takes a fixed share of an axis: all of an index (codes of int8), several (groups of blocks that
run over the flat weight), or a part of one (packed zero points).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers import bitsandbytes
from quantkit.formats.containers.awq import COLUMNS_PER_WORD, AWQLayout
from quantkit.formats.containers.bitsandbytes import STATE, STATE_BYTES, BitsandbytesLayout
from quantkit.formats.containers.compressed_tensors import STREAMED_BITS, CompressedLayout
from quantkit.formats.containers.compressed_tensors_fp4 import entries as fp4_entries
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.packed import FLOATS, WORD_BITS, PackedTensor, values_of, word_count
from quantkit.formats.containers.read_only import (
    MLXLayout,
    PresetLayout,
    ReadLayout,
    SaidLayout,
    ScaledFloat8,
    ScaledFloats,
)
from quantkit.qtypes.schemes.codebook import DYNAMIC_MAP, NESTED_BLOCK, Codebook
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import TILE, Float8
from quantkit.tensors import DTYPE_BYTES, U8, TensorInfo
from quantkit.untrusted import shown

WHOLE = Fraction(1)
DAMAGED = "the checkpoint does not match its quantization_config: fetch it again"


@dataclass(frozen=True)
class Part:
    """A tensor of a module: `shape` is what its reader expects, of as many elements as are stored.

    Rows [start, stop) of the weight take indices floor(start * per_row) to ceil(stop * per_row) of `axis`; without
    one, every row takes all of it. `restated(raw, rows)` changes what it says of the number of rows.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None = None
    per_row: Fraction = WHOLE
    restated: Callable[[U8, int], U8] | None = None

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Outline:
    """The shape of a weight and its tensors. `tile` rows share a scale whose index is rounded down.

    `layout` is the exact one where tensors tell more than the configuration.
    """

    rows: int
    cols: int
    parts: tuple[Part, ...]
    tile: int = 1
    layout: ReadLayout | None = None


@dataclass(frozen=True)
class Headers:
    """What headers say of the tensors of one module. `read` reads a whole tensor, for those of some bytes.

    `indexed` says that modules of the checkpoint have a `g_idx`, so that each must.
    """

    module: str
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], PackedTensor]
    indexed: bool = False

    def has(self, suffix: str) -> bool:
        return f"{self.module}.{suffix}" in self.tensors

    def info(self, suffix: str, dtypes: tuple[str, ...], dims: int | None = None) -> TensorInfo:
        """The tensor so called. Raises InputError where there is none, or of another type or number of axes."""
        name = f"{self.module}.{suffix}"
        if name not in self.tensors:
            what = f'there is no tensor "{shown(name)}", and "{shown(self.module)}" is quantized'
            raise InputError(what, tensor=name, hint=DAMAGED)
        found = self.tensors[name]
        if found.dtype not in dtypes:
            what = f'tensor "{shown(name)}" is stored as {found.dtype}, expected {" or ".join(dtypes)}'
            raise InputError(what, tensor=name, hint=DAMAGED)
        if dims is not None and len(found.shape) != dims:
            raise self.wrong(found, f"{dims} {'axes' if dims > 1 else 'axis'}")
        return found

    def wrong(self, found: TensorInfo, expected: str) -> InputError:
        what = f'tensor "{shown(found.name)}" has the shape {list(found.shape)}, expected {expected}'
        return InputError(what, tensor=found.name, hint=DAMAGED)

    def part(
        self,
        suffix: str,
        dtypes: tuple[str, ...],
        shape: tuple[int, ...],
        axis: int | None = None,
        per_row: Fraction = WHOLE,
    ) -> Part:
        """The tensor so called, which must have this shape."""
        found = self.info(suffix, dtypes)
        if found.shape != shape:
            raise self.wrong(found, str(list(shape)))
        return Part(found.name, found.dtype, shape, axis, per_row)

    def scales(
        self, suffix: str, expected: tuple[int, int], per_row: Fraction = WHOLE, *, single: bool = False
    ) -> Part:
        """Scales of this shape, or of one that differs in axes of length 1 ([out] for [out, 1]).

        With `single` one scale may also stand for all.
        """
        found = self.info(suffix, FLOATS)
        if prod(found.shape) == 1 and (single or expected == (1, 1)):
            return Part(found.name, found.dtype, (1, 1))
        if [n for n in found.shape if n != 1] != [n for n in expected if n != 1]:
            raise self.wrong(found, str(list(expected)))
        return Part(found.name, found.dtype, expected, 0, per_row)

    def groups(self, cols: int, group: int) -> int:
        """How many groups a row has, -1 being the whole row. Raises InputError."""
        if group == -1:
            return 1
        if group < 1 or cols % group:
            what = f'"{shown(self.module)}" has rows of {cols:,} weights, which are no groups of {group}'
            raise InputError(what, tensor=f"{self.module}.weight", key="group_size", hint=DAMAGED)
        return cols // group

    def small(self, suffix: str, dtypes: tuple[str, ...], limit: int) -> PackedTensor:
        """A vector of at most `limit` bytes, with its values."""
        found = self.info(suffix, dtypes, 1)
        if found.nbytes > limit:
            raise self.wrong(found, f"at most {limit:,} bytes")
        return self.read(found.name)


def outline_of(layout: SaidLayout, headers: Headers) -> Outline:
    """The tensors of a module. Raises InputError for one that is missing or does not fit, UnsupportedError."""
    if isinstance(layout, GPTQLayout):
        return _gptq(layout, headers)
    if isinstance(layout, AWQLayout):
        return _awq(layout, headers)
    if isinstance(layout, BitsandbytesLayout):
        return _row_int8(headers) if isinstance(layout.scheme, RowInt8) else _codebook(layout.scheme, headers)
    if isinstance(layout, FP8Layout):
        return _float8(layout.scheme, "weight_scale_inv", headers)
    if isinstance(layout, MLXLayout):
        return _mlx(layout, headers)
    if isinstance(layout, ScaledFloats):
        return _scaled_floats(layout, headers)
    if isinstance(layout, PresetLayout):
        return _preset(layout, headers)
    assert isinstance(layout, CompressedLayout), layout
    return _compressed(layout, headers)


def _gptq(layout: GPTQLayout, headers: Headers) -> Outline:
    """Of spring 2023, without `g_idx`: groups lie side by side, and the columns fill the words."""
    bits = layout.scheme.bits
    groups, rows = headers.info("scales", FLOATS, 2).shape
    ordered = headers.indexed or headers.has("g_idx")
    if not ordered and layout.act_order and groups > 1:
        what = f'"{shown(headers.module)}" has groups in the order of activations, and no "g_idx" that says which'
        raise InputError(what, tensor=f"{headers.module}.g_idx", hint=DAMAGED)
    if ordered:
        (cols,) = headers.info("g_idx", ("I32",), 1).shape
    else:
        cols = headers.info("qweight", ("I32",), 2).shape[0] * WORD_BITS // bits
        headers.groups(cols, layout.scheme.group)
    zeros = (groups, word_count(rows, bits))
    parts = (
        headers.part("qweight", ("I32",), (word_count(cols, bits), rows), 1),
        headers.part("qzeros", ("I32",), zeros, 1, Fraction(bits, WORD_BITS)),
        headers.part("scales", FLOATS, (groups, rows), 1),
        *([headers.part("g_idx", ("I32",), (cols,))] if ordered else []),
    )
    return Outline(rows, cols, parts)


def _awq(layout: AWQLayout, headers: Headers) -> Outline:
    cols, words = headers.info("qweight", ("I32",), 2).shape
    groups = headers.groups(cols, layout.scheme.group)
    share = Fraction(1, COLUMNS_PER_WORD)
    rows = words * COLUMNS_PER_WORD
    parts = (
        headers.part("qweight", ("I32",), (cols, words), 1, share),
        headers.part("qzeros", ("I32",), (groups, words), 1, share),
        headers.part("scales", FLOATS, (groups, rows), 1),
    )
    return Outline(rows, cols, parts)


def _row_int8(headers: Headers) -> Outline:
    rows, cols = headers.info("weight", ("I8",), 2).shape
    if headers.has("weight_format") and headers.tensors[f"{headers.module}.weight_format"].shape == ():
        code = int(values_of(headers.read(f"{headers.module}.weight_format")).reshape(-1)[0])
        if code != 0:
            what = f'"{shown(headers.module)}" is stored in the order of a GPU kernel (weight_format {code})'
            hint = "load and save the checkpoint again with a newer bitsandbytes, or start from the original one"
            raise UnsupportedError(what, tensor=f"{headers.module}.weight_format", hint=hint)
    return Outline(
        rows, cols, (headers.part("weight", ("I8",), (rows, cols), 0), headers.part("SCB", ("F32",), (rows,), 0))
    )


def _codebook(expected: Codebook, headers: Headers) -> Outline:
    """Four bits of bitsandbytes: blocks run over the flat weight, and a tensor of JSON tells its shape."""
    found = [f"weight.{STATE}{table}" for table in ("nf4", "fp4") if headers.has(f"weight.{STATE}{table}")]
    state = headers.small(found[0] if found else f"weight.{STATE}{expected.table}", ("U8",), STATE_BYTES)
    scheme, (rows, cols), _ = bitsandbytes.read_state(f"{headers.module}.weight", {state.entry.name: state})
    blocks = scheme.block_count(rows, cols)
    per_row = Fraction(cols, scheme.block)
    parts = [
        headers.part("weight", ("U8",), (-(-rows * cols // 2), 1), 0, Fraction(cols, 2)),
        headers.part("weight.absmax", ("U8",) if scheme.double else ("F32",), (blocks,), 0, per_row),
        headers.part("weight.quant_map", ("F32",), scheme.levels.shape),
        Part(state.entry.name, "U8", state.entry.shape, restated=_restated_state),
    ]
    if scheme.double:
        groups = -(-blocks // NESTED_BLOCK)
        parts += [
            headers.part("weight.nested_absmax", ("F32",), (groups,), 0, per_row / NESTED_BLOCK),
            headers.part("weight.nested_quant_map", ("F32",), DYNAMIC_MAP.shape),
        ]
    return Outline(rows, cols, tuple(parts), layout=BitsandbytesLayout(scheme))


def _restated_state(raw: U8, rows: int) -> U8:
    state: dict[str, Any] = json.loads(raw.tobytes())
    return np.frombuffer(json.dumps({**state, "shape": [rows, state["shape"][1]]}).encode(), np.uint8)


def _float8(scheme: Float8, scale: str, headers: Headers) -> Outline:
    rows, cols = headers.info("weight", ("F8_E4M3",), 2).shape
    weight = headers.part("weight", ("F8_E4M3",), (rows, cols), 0)
    tile = TILE if scheme.strategy == "block" else 1
    found = headers.scales(scale, scheme.scale_shape(rows, cols), Fraction(1, tile))
    return Outline(rows, cols, (weight, found), tile)


def _mlx(layout: MLXLayout, headers: Headers) -> Outline:
    found = headers.info("weight", ("U32",))
    if len(found.shape) == 3:
        what = f'tensor "{shown(found.name)}" is a stack of experts as MLX makes it, which is not read'
        raise UnsupportedError(what, tensor=found.name, hint="start from the original checkpoint")
    (rows, words), bits = headers.info("weight", ("U32",), 2).shape, layout.bits
    cols = words * WORD_BITS // bits
    groups = headers.groups(cols, layout.group)
    weight = headers.part("weight", ("U32",), (rows, word_count(cols, bits)), 0)
    scales = (headers.part(name, FLOATS, (rows, groups), 0) for name in ("scales", "biases"))
    return Outline(rows, cols, (weight, *scales))


def _scaled_floats(layout: ScaledFloats, headers: Headers) -> Outline:
    weight = headers.info("weight", ("F8_E4M3", "U8"), 2)
    name = "weight_scale_inv" if headers.has("weight_scale_inv") else "weight_scale"
    found = headers.info(name, FLOATS if weight.dtype == "F8_E4M3" else ("F8_E4M3",))
    exact = layout.exact(weight.dtype, weight.shape[0], found.shape, name)
    if isinstance(exact, ScaledFloat8):
        return replace(_float8(exact.scheme, name, headers), layout=exact)
    rows, half = weight.shape
    factor = headers.info("weight_scale_2", ("F32",))
    if prod(factor.shape) != 1:
        raise headers.wrong(factor, "one element")
    parts = (
        headers.part("weight", ("U8",), (rows, half), 0),
        headers.part("weight_scale", ("F8_E4M3",), (rows, headers.groups(2 * half, exact.scheme.group)), 0),
        Part(factor.name, "F32", factor.shape),
    )
    return Outline(rows, 2 * half, parts, layout=exact)


def _preset(layout: PresetLayout, headers: Headers) -> Outline:
    exact = layout.layout
    if headers.has("weight_shape") and isinstance(exact.scheme, Integers):
        _, cols = (int(size) for size in values_of(headers.small("weight_shape", ("I64", "I32"), 16)))
        exact = layout.exact(max(cols, 1), headers.info("weight_scale", FLOATS).shape[-1])
    return replace(_compressed(exact, headers), layout=exact)


def _compressed(layout: CompressedLayout, headers: Headers) -> Outline:
    scheme = layout.scheme
    if isinstance(scheme, NVFP4 | MXFP4):
        return _float4(scheme, headers)
    if isinstance(scheme, Float8):
        return _float8(scheme, "weight_scale", headers)
    if headers.has("weight_packed") or headers.has("weight_shape"):
        return _words(scheme, headers)
    rows, cols = headers.info("weight", ("I8",), 2).shape
    if not scheme.symmetric:
        what = f'"{shown(headers.module)}" has zero points beside a byte per weight'
        raise UnsupportedError(what, key="symmetric", hint="start from the original checkpoint")
    scale = headers.scales("weight_scale", (rows, headers.groups(cols, scheme.group)), single=True)
    return Outline(rows, cols, (headers.part("weight", ("I8",), (rows, cols), 0), scale))


def _words(scheme: Integers, headers: Headers) -> Outline:
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
        Part(shape.entry.name, shape.entry.dtype, (2,), restated=_restated_shape(shape.entry.dtype)),
    ]
    if not scheme.symmetric:
        zeros = (word_count(rows, scheme.bits), groups)
        parts.append(headers.part("weight_zero_point", ("I32",), zeros, 0, Fraction(scheme.bits, WORD_BITS)))
    return Outline(rows, cols, tuple(parts))


def _restated_shape(dtype: str) -> Callable[[U8, int], U8]:
    def restated(raw: U8, rows: int) -> U8:
        values = raw.view("<i8" if dtype == "I64" else "<i4").copy()
        values[0] = rows
        return values.view(np.uint8)

    return restated


def _float4(scheme: NVFP4 | MXFP4, headers: Headers) -> Outline:
    rows, half = headers.info("weight_packed", ("U8",), 2).shape
    found = fp4_entries(scheme, headers.module, rows, 2 * half)
    suffixes = [entry.name.removeprefix(f"{headers.module}.") for entry in found]
    parts = [
        headers.part(suffix, (entry.dtype,), entry.shape, None if entry.shape == (1,) else 0)
        for suffix, entry in zip(suffixes, found, strict=True)
    ]
    return Outline(rows, 2 * half, tuple(parts))
