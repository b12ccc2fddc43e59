"""The tensors of NVFP4 and MXFP4 weights in compressed-tensors checkpoints, activations left as they are.

For a linear layer of weight [out, in]:

    nvfp4-pack-quantized   .weight_packed         U8 [out, in / 2]         the even element in the low half byte
                           .weight_scale          F8_E4M3 [out, in / 16]
                           .weight_global_scale   F32 [1]                  scales are divided by it
    mxfp4-pack-quantized   .weight_packed         U8 [out, in / 2]
                           .weight_scale          U8 [out, in / 32]        E8M0: an exponent, less 127

vLLM takes one global scale, the largest, for q, k and v, and for gate and up: give these a common `NVFP4.largest`.
"""

from __future__ import annotations

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.packed import (
    Entry,
    PackedTensor,
    Tensors,
    packed,
    scales_of,
    take,
    take_matrix,
    values_of,
)
from quantkit.qtypes.base import Codes
from quantkit.qtypes.schemes.base import Quantized
from quantkit.qtypes.schemes.microscaling import FACTOR, MXFP4, NVFP4, SCALE
from quantkit.tensors import U8
from quantkit.untrusted import shown

SCALE_TYPES: dict[type[NVFP4 | MXFP4], str] = {NVFP4: "torch.float8_e4m3fn", MXFP4: "torch.uint8"}


def entries(scheme: NVFP4 | MXFP4, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
    """The tensors of the linear layer `module` of weight (rows, cols). Raises UnsupportedError."""
    groups = scheme.group_count(cols)
    codes = Entry(f"{module}.weight_packed", "U8", (rows, cols // 2))
    scale = Entry(f"{module}.weight_scale", "F8_E4M3" if isinstance(scheme, NVFP4) else "U8", (rows, groups))
    factor = Entry(f"{module}.weight_global_scale", "F32", (1,))
    return (codes, scale, factor) if isinstance(scheme, NVFP4) else (codes, scale)


def pack(scheme: NVFP4 | MXFP4, module: str, quantized: Quantized) -> tuple[PackedTensor, ...]:
    """The tensors of `entries`, filled."""
    found = entries(scheme, module, *quantized.codes.shape)
    fields = quantized.grid.fields
    values = [_half_bytes(quantized.codes), fields[SCALE], *([fields[FACTOR]] if FACTOR in fields else [])]
    return tuple(packed(entry, value) for entry, value in zip(found, values, strict=True))


def unpack(scheme: NVFP4 | MXFP4, module: str, tensors: Tensors) -> Quantized:
    """The codes and grid of the linear layer `module`, the inverse of `pack`. Raises InputError for damaged ones."""
    raw = take_matrix(tensors, f"{module}.weight_packed", ("U8",))
    rows, cols = raw.entry.shape[0], raw.entry.shape[1] * 2
    if cols % scheme.group:
        what = f'"{shown(module)}" has {cols:,} inputs, which are no groups of {scheme.group}'
        raise InputError(what, tensor=raw.entry.name, hint="the checkpoint does not match its config.json")
    _, expected, *_ = entries(scheme, module, rows, cols)
    scale: U8 = values_of(take(tensors, expected.name, (expected.dtype,), expected.shape))
    factor = np.float32(1)
    if isinstance(scheme, NVFP4):
        factor = scales_of(take(tensors, f"{module}.weight_global_scale", ("F32",), (1,)))[0]
    try:
        grid = scheme.grid(scale, factor) if isinstance(scheme, NVFP4) else scheme.grid(scale)
    except InputError as error:
        what = f'"{shown(expected.name)}": {error.message}'
        raise InputError(what, tensor=expected.name, hint=error.hint) from None
    codes = np.stack([values_of(raw) & 15, values_of(raw) >> 4], axis=2).reshape(rows, cols)
    return Quantized(codes.astype(np.int16), grid)


def _half_bytes(codes: Codes) -> U8:
    """Codes (rows, cols) as bytes (rows, cols / 2)."""
    raw: U8 = np.bitwise_or(codes[:, ::2], codes[:, 1::2] << 4).astype(np.uint8)
    return raw
