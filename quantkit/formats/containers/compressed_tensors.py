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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers import compressed_tensors_fp4
from quantkit.formats.containers.compressed_tensors_kv import KV_CACHE_FP8
from quantkit.formats.containers.packed import (
    FLOATS,
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
from quantkit.formats.containers.settings import choice, integer, section, truth
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import ZERO, Quantized, group_count
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import SCALE, TILE, Float8, Strategy, to_bytes, to_codes
from quantkit.tensors import F32
from quantkit.untrusted import shown

Activations = Literal["none", "dynamic", "static"]

VERSION = "0.20.0"  # of the compressed-tensors release whose layout this is
STREAMED_BITS = (3, 5, 6, 7)


@dataclass(frozen=True)
class CompressedLayout:
    """One group of a compressed-tensors checkpoint: how weights are stored, and how activations are quantized."""

    scheme: Integers | Float8 | NVFP4 | MXFP4
    activations: Activations = "none"

    @property
    def format(self) -> str:
        if isinstance(self.scheme, NVFP4):
            return "nvfp4-pack-quantized"
        if isinstance(self.scheme, MXFP4):
            return "mxfp4-pack-quantized"
        if isinstance(self.scheme, Integers):
            return "pack-quantized" if self.activations == "none" else "int-quantized"
        return "naive-quantized" if self.activations == "none" else "float-quantized"


def entries(layout: CompressedLayout, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
    """The tensors of the linear layer `module` of weight (rows, cols). Raises UnsupportedError for what cannot be."""
    _require_loadable(layout, module, cols)
    scheme = layout.scheme
    if isinstance(scheme, NVFP4 | MXFP4):
        return compressed_tensors_fp4.entries(scheme, module, rows, cols)
    dtype = scheme.scale_dtype
    static = [Entry(f"{module}.input_scale", dtype, (1,))] if layout.activations == "static" else []
    if isinstance(scheme, Float8):
        shape = (1,) if scheme.strategy == "tensor" else scheme.scale_shape(rows, cols)
        weight = Entry(f"{module}.weight", "F8_E4M3", (rows, cols))
        return weight, Entry(f"{module}.weight_scale", dtype, shape), *static
    groups = group_count(cols, scheme.group)
    scale = Entry(f"{module}.weight_scale", dtype, (rows, groups))
    if layout.format == "int-quantized":
        return Entry(f"{module}.weight", "I8", (rows, cols)), scale, *static
    words = Entry(f"{module}.weight_packed", "I32", (rows, word_count(cols, scheme.bits)))
    shape_of = Entry(f"{module}.weight_shape", "I64", (2,))
    zero = Entry(f"{module}.weight_zero_point", "I32", (word_count(rows, scheme.bits), groups))
    return (words, scale, shape_of) if scheme.symmetric else (words, scale, shape_of, zero)


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


def pack(
    layout: CompressedLayout, module: str, quantized: Quantized, input_scale: F32 | None = None
) -> tuple[PackedTensor, ...]:
    """The tensors of `entries`, filled. `input_scale` is float32 (1,), for static activations only."""
    rows, cols = quantized.codes.shape
    grid, scheme = quantized.grid, layout.scheme
    assert quantized.order is None, "compressed-tensors has groups side by side"
    assert (input_scale is None) == (layout.activations != "static"), layout
    if isinstance(scheme, NVFP4 | MXFP4):
        return compressed_tensors_fp4.pack(scheme, module, quantized)
    found = {entry.name.rpartition(".")[2]: entry for entry in entries(layout, module, rows, cols)}
    static = () if input_scale is None else (packed(found["input_scale"], input_scale),)
    if isinstance(scheme, Float8):
        tiles = packed(found["weight_scale"], grid.fields[SCALE].reshape(found["weight_scale"].shape))
        return packed(found["weight"], to_bytes(quantized.codes)), tiles, *static
    scale = packed(found["weight_scale"], grid.scale)
    if layout.format == "int-quantized":
        return packed(found["weight"], quantized.codes.astype(np.int8)), scale, *static
    words = packed(found["weight_packed"], pack_words(quantized.codes - grid.qmin, scheme.bits))
    shape = packed(found["weight_shape"], np.array([rows, cols], np.int64))
    if scheme.symmetric:
        return words, scale, shape
    zero = pack_words(grid.fields[ZERO].T - grid.qmin, scheme.bits).T
    return words, scale, shape, packed(found["weight_zero_point"], zero)


def unpack(layout: CompressedLayout, module: str, tensors: Tensors) -> Quantized:
    """The codes and grid of the linear layer `module`, the inverse of `pack`. Raises InputError for damaged ones."""
    if isinstance(layout.scheme, NVFP4 | MXFP4):
        return compressed_tensors_fp4.unpack(layout.scheme, module, tensors)
    if isinstance(layout.scheme, Float8):
        return _unpack_float(layout.scheme, module, tensors)
    if f"{module}.weight_packed" in tensors:
        return _unpack_words(layout.scheme, module, tensors)
    weight = take_matrix(tensors, f"{module}.weight", ("I8",))
    rows, cols = weight.entry.shape
    scale = scales_of(take(tensors, f"{module}.weight_scale", FLOATS))
    spread = _scale_per_row(module, scale, rows, cols)
    return Quantized(values_of(weight).astype(np.int16), Grid(spread, None, -128, 127))


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


def quantization_config(
    groups: Mapping[tuple[str, ...], CompressedLayout], *, ignore: Sequence[str] = ("lm_head",), kv_cache: bool = False
) -> dict[str, Any]:
    """The `quantization_config` of config.json.

    `groups` maps targets (class names such as "Linear", or "re:..." on module paths; the first match wins) to
    layouts. `ignore` names modules that stay as they are. `kv_cache` adds FP8 scales of keys and values.
    """
    formats = {layout.format for layout in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": list(targets),
                "weights": _weight_arguments(layout.scheme),
                "input_activations": _activation_arguments(layout),
                "output_activations": None,
                "format": layout.format,
            }
            for number, (targets, layout) in enumerate(groups.items())
        },
        "ignore": list(ignore),
        "kv_cache_scheme": dict(KV_CACHE_FP8) if kv_cache else None,
        "sparsity_config": {},
        "transform_config": {},
        "global_compression_ratio": None,
    }


def _weight_arguments(scheme: Integers | Float8 | NVFP4 | MXFP4) -> dict[str, Any]:
    if isinstance(scheme, NVFP4 | MXFP4):
        strategy = "tensor_group" if isinstance(scheme, NVFP4) else "group"
        dtype = compressed_tensors_fp4.SCALE_TYPES[type(scheme)]
        types = {"group_size": scheme.group, "scale_dtype": dtype, "zp_dtype": dtype}
        return {**_arguments("float", 4, strategy, True), **types}
    if isinstance(scheme, Integers):
        strategy = "channel" if scheme.group == -1 else "group"
        group = None if scheme.group == -1 else scheme.group
        return {**_arguments("int", scheme.bits, strategy, scheme.symmetric), "group_size": group}
    block = [TILE, TILE] if scheme.strategy == "block" else None
    return {**_arguments("float", 8, scheme.strategy, True), "block_structure": block}


def _activation_arguments(layout: CompressedLayout) -> dict[str, Any] | None:
    if layout.activations == "none":
        return None
    kind = "int" if isinstance(layout.scheme, Integers) else "float"
    if layout.activations == "static":
        return _arguments(kind, 8, "tensor", True)
    if isinstance(layout.scheme, Float8) and layout.scheme.strategy == "block":
        return {**_arguments(kind, 8, "group", True), "group_size": TILE, "dynamic": True}
    return {**_arguments(kind, 8, "token", True), "dynamic": True}


def _arguments(kind: str, bits: int, strategy: str, symmetric: bool) -> dict[str, Any]:
    """QuantizationArgs of compressed-tensors; it refuses keys that it does not know."""
    return {
        "num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric, "dynamic": False,
        "group_size": None, "block_structure": None, "actorder": None,
    }  # fmt: skip


def read_config(config: Mapping[str, Any]) -> dict[tuple[str, ...], CompressedLayout]:
    """Targets and layout of every group of a quantization_config, in its order.

    Raises InputError or UnsupportedError naming the key.
    """
    found: dict[tuple[str, ...], CompressedLayout] = {}
    for name, group in section(config, "config_groups").items():
        if not isinstance(group, dict) or not isinstance(group.get("targets"), list):
            what = f'config_groups.{shown(name)} is not an object with targets: presets by name ("W4A16") are not read'
            raise UnsupportedError(what, key=f"config_groups.{name}", hint="save the checkpoint with llm-compressor")
        found[tuple(map(str, group["targets"]))] = _read_group(group)
    return found


def _read_group(group: Mapping[str, Any]) -> CompressedLayout:
    weights = section(group, "weights")
    activations: Activations = "none"
    if group.get("input_activations") is not None:
        dynamic = section(group, "input_activations").get("dynamic")
        activations = "dynamic" if dynamic else "static"
    if choice(weights, "type", ("int", "float"), "int") == "float":
        if integer(weights, "num_bits", (4, 8), 8) == 4:
            sizes = {NVFP4().group: NVFP4, MXFP4().group: MXFP4}
            return CompressedLayout(sizes[integer(weights, "group_size", tuple(sizes))](), activations)
        strategy = choice(weights, "strategy", ("tensor", "channel", "block"), "tensor")
        strategies: dict[str, Strategy] = {"tensor": "tensor", "channel": "channel", "block": "block"}
        if strategy == "block" and weights.get("block_structure") != [TILE, TILE]:
            what = f"blocks of {shown(str(weights.get('block_structure')))}"
            raise UnsupportedError(what, key="block_structure", hint=f"blocks are {TILE} x {TILE}")
        return CompressedLayout(Float8(strategies[strategy]), activations)
    if weights.get("actorder") not in (None, "weight", "static"):
        what = "groups in the order of activations (actorder group), which compressed-tensors gave up"
        raise UnsupportedError(what, key="actorder", hint="start from the original checkpoint")
    strategy = choice(weights, "strategy", ("tensor", "channel", "group"), "tensor")
    size = integer(weights, "group_size", None) if strategy == "group" else -1
    if strategy == "group" and size < 1:
        raise InputError(f"group_size is {size}", key="group_size", hint="config.json is damaged")
    symmetric = truth(weights, "symmetric", True)
    bits = integer(weights, "num_bits", tuple(range(2, 9)), 8)
    return CompressedLayout(Integers(bits, size, "symmetric" if symmetric else "asymmetric"), activations)
