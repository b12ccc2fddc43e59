"""Codes of checkpoints as numbers, straight from how each format describes its tensors.

A second opinion: nothing here is shared with what packs and unpacks in `quantkit.formats.containers`, so a mistake in
there is no mistake here as well. Plain and slow; for the tensors of a layer, or of some of its rows:

    gptq             qweight  stream of codes down each column; qzeros a stream along each group's row, less one in
                     version 1; g_idx the group of each input;                         scales * (code - zero)
    awq              eight outputs a word, half bytes in the order 0 2 4 6 1 3 5 7;    scales * (code - zero)
    packed integers  weight_packed  stream of codes along each row; weight_zero_point down each column, else the middle
                     of the range;                                                     weight_scale * (code - zero)
    int8             weight, weight_scale                                              weight_scale * code
    float8           weight E4M3, weight_scale or weight_scale_inv for all, a row, or a tile of 128 x 128; DeepSeek V4:
                     scale, which may be exponents of two, plus 127
    nvfp4            weight_packed (ModelOpt: weight) two E2M1 a byte, the first in the low half; E4M3 scales of 16,
                     divided by weight_global_scale (ModelOpt: times weight_scale_2)
    mxfp4            the same in groups of 32; scales are exponents of two, plus 127 (DeepSeek V4: weight, scale)
    bitsandbytes 4   weight two codes a byte, the first in the high half, along all rows; quant_map their values;
                     absmax of blocks, or a byte of nested_quant_map * nested_absmax of 256 blocks + nested_offset
    LLM.int8()       weight, SCB                                                       code * SCB / 127
    mlx              weight  stream of codes along each row; scales, biases            scale * code + bias

Sources: the documentation and readers of GPTQModel, AutoAWQ, compressed-tensors, DeepSeek, ModelOpt, bitsandbytes and
MLX; OCP Microscaling Formats 1.0. Streams start at the lowest bit of little-endian words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError
from quantkit.formats.containers.packed import Tensors
from quantkit.qtypes.schemes.base import Traits
from quantkit.tensors import F32, U8
from quantkit.untrusted import shown

TILE = 128
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
INTEGERS = {"U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E8M0": "u1", "I32": "<i4", "U32": "<u4", "I64": "<i8"}

Numbers = NDArray[Any]
Arrays = Mapping[str, Numbers]  # the tensors of a layer by the end of their names; floats as float32
Decode = Callable[[Arrays, Traits], Numbers]


def _e4m3() -> F32:
    """The numbers of all bytes: sign, four bits of exponent (bias 7), three of mantissa; no infinity."""
    values = []
    for byte in range(256):
        sign, exponent, mantissa = -1 if byte & 0x80 else 1, byte >> 3 & 15, byte & 7
        number = (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6
        values.append(float("nan") if byte & 0x7F == 0x7F else sign * number)
    return np.array(values, np.float32)


E4M3 = _e4m3()


def unpack(module: str, tensors: Tensors, traits: Traits) -> F32 | None:
    """The weight of a layer float32 (rows, cols) from all of its tensors; None for a format that is not known here.

    `tensors` may be those of some rows, with the shapes that `StoredModule.assembled` gives them. `traits` are what
    config.json says of the layer. Raises InputError for tensors that are damaged.
    """
    there = {name.removeprefix(f"{module}."): tensor for name, tensor in tensors.items()}
    decode = _decoder({name: tensor.entry.dtype for name, tensor in there.items()}, traits)
    if decode is None:
        return None
    arrays = {name: _array(t.data, t.entry.dtype).reshape(t.entry.shape) for name, t in there.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        values = decode(arrays, traits)
    if not np.isfinite(values).all():
        name = f"{module}.weight"
        row, col = np.argwhere(~np.isfinite(values))[0]
        what = f'tensor "{shown(name)}" decodes to {values[row, col]} in column {col}'
        raise InputError(what, tensor=name, hint="the checkpoint is damaged: fetch it again")
    return np.ascontiguousarray(values, np.float32)


def knows(dtypes: Mapping[str, str], traits: Traits) -> bool:
    """Whether a layer of tensors with these types, by the ends of their names, can be decoded here."""
    return _decoder(dtypes, traits) is not None


def _decoder(dtypes: Mapping[str, str], traits: Traits) -> Decode | None:
    """What decodes a layer of these tensors. Their names and types tell, but for AWQ's, which are those of GPTQ."""
    if "qweight" in dtypes:
        return _awq if traits.format == "awq" else _gptq
    if "weight_packed" in dtypes:
        return _packed_integers if dtypes["weight_packed"] == "I32" else _float4
    if "weight.quant_map" in dtypes:
        return _codebook
    by_tensors: Mapping[tuple[str, str], Decode] = {
        ("U32", "biases"): _mlx,
        ("U8", "weight_scale_2"): _float4,
        ("I8", "weight_scale"): _int8,
        ("I8", "SCB"): _llm_int8,
        ("F8_E4M3", "weight_scale"): _float8,
        ("F8_E4M3", "weight_scale_inv"): _float8,
        ("F8_E4M3", "scale"): _float8,
        ("I8", "scale"): _float4,
    }
    found = (decode for (dtype, name), decode in by_tensors.items() if dtypes.get("weight") == dtype and name in dtypes)
    return next(found, None)


def _array(raw: U8, dtype: str) -> NDArray[Any]:
    if dtype == "F32":
        return raw.view("<f4")
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view(INTEGERS[dtype])


def _stream(words: NDArray[Any], bits: int, count: int) -> NDArray[np.int32]:
    """The first `count` codes along each row of words (n, words) of 32 bits, int32 (n, count)."""
    raw = np.ascontiguousarray(words, "<u4").view(np.uint8)
    single = np.unpackbits(raw, axis=1, bitorder="little")[:, : count * bits].reshape(len(words), count, bits)
    codes = np.zeros((len(words), count), np.int32)
    for place in range(bits):
        codes += single[:, :, place].astype(np.int32) << place
    return codes


def _spread(scale: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """One number for each weight of `shape` from one for all, for each row, or for each group of columns in a row."""
    rows, cols = shape
    if scale.size == 1:
        return np.broadcast_to(scale.reshape(1, 1), shape)
    scale = scale.reshape(rows, -1)
    return np.repeat(scale, cols // scale.shape[1], axis=1)


def _powers(exponents: Numbers) -> Numbers:
    """Powers of two, float32, by their exponents plus 127; 255 is not a number."""
    return np.where(exponents == 255, np.float32(np.nan), np.ldexp(np.float32(1), exponents.astype(np.int32) - 127))


def _gptq(t: Arrays, traits: Traits) -> Numbers:
    bits, (groups, rows) = int(traits.bits), t["scales"].shape
    cols = t["g_idx"].size if "g_idx" in t else t["qweight"].shape[0] * 32 // bits
    group = t["g_idx"] if "g_idx" in t else np.arange(cols) // (cols // groups)
    if cols and not 0 <= group.min() <= group.max() < groups:
        what = f"g_idx names group {group.max()}, and there are {groups}"
        raise InputError(what, hint="the checkpoint is damaged: fetch it again")
    codes = _stream(t["qweight"].T, bits, cols)  # (rows, cols)
    zeros = _stream(t["qzeros"], bits, rows) + (0 if traits.format == "gptq_v2" else 1)  # (groups, rows)
    weight: Numbers = (codes - zeros[group].T).astype(np.float32) * t["scales"][group].T
    return weight


def _awq(t: Arrays, traits: Traits) -> Numbers:
    def half_bytes(words: Numbers) -> NDArray[np.int32]:
        out = np.empty((words.shape[0], words.shape[1] * 8), np.int32)
        for place, column in enumerate(AWQ_ORDER):
            out[:, column::8] = words.view(np.uint32) >> np.uint32(4 * place) & np.uint32(15)
        return out

    codes, zeros, scales = half_bytes(t["qweight"]), half_bytes(t["qzeros"]), t["scales"]  # (cols or groups, rows)
    group = np.arange(len(codes)) // (len(codes) // len(scales))
    weight: Numbers = ((codes - zeros[group]).astype(np.float32) * scales[group]).T
    return weight


def _packed_integers(t: Arrays, traits: Traits) -> Numbers:
    bits, (rows, cols) = int(traits.bits), (int(size) for size in t["weight_shape"])
    codes = _stream(t["weight_packed"], bits, cols)
    zero: Numbers = np.array([1 << bits - 1])
    if "weight_zero_point" in t:
        zero = _stream(t["weight_zero_point"].T, bits, rows).T  # (rows, groups)
    steps = codes - _spread(zero, codes.shape)
    weight: Numbers = steps.astype(np.float32) * _spread(t["weight_scale"], codes.shape)
    return weight


def _int8(t: Arrays, traits: Traits) -> Numbers:
    codes = t["weight"]
    weight: Numbers = codes.astype(np.float32) * _spread(t["weight_scale"], codes.shape)
    return weight


def _llm_int8(t: Arrays, traits: Traits) -> Numbers:
    weight: Numbers = t["weight"].astype(np.float32) * (t["SCB"] / np.float32(127))[:, None]
    return weight


def _float8(t: Arrays, traits: Traits) -> Numbers:
    numbers = E4M3[t["weight"]]
    rows, cols = numbers.shape
    scale = next(t[name] for name in ("weight_scale_inv", "weight_scale", "scale") if name in t)
    scale = _powers(scale) if scale.dtype == np.uint8 else scale
    if traits.in_blocks and scale.size > 1:
        spread = np.repeat(np.repeat(scale, TILE, axis=0)[:rows], TILE, axis=1)[:, :cols]
    else:
        spread = _spread(scale, numbers.shape)
    weight: Numbers = numbers * spread
    return weight


def _float4(t: Arrays, traits: Traits) -> Numbers:
    raw = (t["weight_packed"] if "weight_packed" in t else t["weight"]).view(np.uint8)
    numbers = np.empty((len(raw), raw.shape[1] * 2), np.float32)
    numbers[:, ::2], numbers[:, 1::2] = E2M1[raw & 15], E2M1[raw >> 4]
    scale = t["weight_scale"] if "weight_scale" in t else t["scale"]
    if "weight_scale_2" in t:
        scale = E4M3[scale] * t["weight_scale_2"].reshape(())
    elif "weight_global_scale" in t:
        scale = E4M3[scale] / t["weight_global_scale"].reshape(())
    else:
        scale = _powers(scale)
    weight: Numbers = numbers * _spread(scale, numbers.shape)
    return weight


def _codebook(t: Arrays, traits: Traits) -> Numbers:
    [state] = [json.loads(raw.tobytes()) for name, raw in t.items() if ".quant_state." in name]
    rows, cols = state["shape"]
    raw = t["weight"].reshape(-1)
    codes = np.empty(raw.size * 2, np.uint8)
    codes[::2], codes[1::2] = raw >> 4, raw & 15
    largest = t["weight.absmax"]
    if "nested_blocksize" in state:
        outer = np.repeat(t["weight.nested_absmax"], state["nested_blocksize"])[: largest.size]
        largest = t["weight.nested_quant_map"][largest] * outer + np.float32(state.get("nested_offset", 0))
    count = rows * cols
    scale = np.repeat(largest, state["blocksize"])[:count]
    weight: Numbers = (t["weight.quant_map"][codes[:count]] * scale).reshape(rows, cols)
    return weight


def _mlx(t: Arrays, traits: Traits) -> Numbers:
    scale, bias = t["scales"], t["biases"]
    cols = t["weight"].shape[1] * 32 // int(traits.bits)
    codes = _stream(t["weight"], int(traits.bits), cols)
    weight: Numbers = codes.astype(np.float32) * _spread(scale, codes.shape) + _spread(bias, codes.shape)
    return weight
