"""bitsandbytes checkpoints: NF4 and FP4 with their statistics, and LLM.int8().

Four bits, for a linear layer of weight [out, in] with n = out * in:

    .weight                                   U8 [(n + 1) / 2, 1]   flat rows; the first code in the high bits
    .weight.absmax                            F32 [n / 64]; with double quantization U8
    .weight.quant_map                         F32 [16]
    .weight.nested_absmax                     F32 [n / 64 / 256]    double quantization only, as the next
    .weight.nested_quant_map                  F32 [256]
    .weight.quant_state.bitsandbytes__nf4     U8                    JSON: type, block size, dtype, shape, offset

LLM.int8():

    .weight   I8 [out, in]     .SCB   F32 [out]     .weight_format   U8 [] = 0       W = code * SCB / 127
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.base import (
    Container,
    Headers,
    LayoutOf,
    Reading,
    StoredOutline,
    StoredPart,
    Writing,
    Written,
    same_everywhere,
    section,
)
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
from quantkit.formats.containers.settings import choice, truth
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.base import Codes
from quantkit.qtypes.schemes.base import Quantized, ScaleDtype, Traits
from quantkit.qtypes.schemes.codebook import (
    ABSMAX,
    ABSMAX_CODES,
    DYNAMIC_MAP,
    NESTED_ABSMAX,
    NESTED_BLOCK,
    NESTED_OFFSET,
    Codebook,
    Nested,
)
from quantkit.qtypes.schemes.integers import ABSMAX as ROW_ABSMAX
from quantkit.qtypes.schemes.integers import RowInt8
from quantkit.records import record
from quantkit.tensors import F32, U8
from quantkit.untrusted import shown

Dtype = Literal["bfloat16", "float16", "float32"]
TORCH: dict[ScaleDtype, Dtype] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

STATE = "quant_state.bitsandbytes__"
OFFSET_CHARACTERS = 24  # the longest float32 in JSON has 23, with its sign
STATE_BYTES = 4096  # a state is far shorter; nothing longer is parsed
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@record
class BitsandbytesLayout:
    """A bitsandbytes checkpoint's settings; `dtype` is the type that weights had and are decoded to."""

    scheme: Codebook | RowInt8
    dtype: Dtype = "bfloat16"

    @cached_property
    def traits(self) -> Traits:
        return replace(self.scheme.traits, format="bitsandbytes")

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The tensors of the linear layer `module` of weight (rows, cols). Raises UnsupportedError."""
        scheme, weight = self.scheme, f"{module}.weight"
        if isinstance(scheme, RowInt8):
            return (
                Entry(weight, "I8", (rows, cols)),
                Entry(f"{module}.SCB", "F32", (rows,)),
                Entry(f"{module}.weight_format", "U8", ()),
            )
        if scheme.block not in BLOCK_SIZES:
            hint = f"use {', '.join(map(str, BLOCK_SIZES))}"
            raise UnsupportedError(f"blocks of {scheme.block} weights", tensor=module, hint=hint, key="block")
        blocks = scheme.block_count(rows, cols)
        nested = (
            Entry(f"{weight}.nested_absmax", "F32", (-(-blocks // NESTED_BLOCK),)),
            Entry(f"{weight}.nested_quant_map", "F32", (DYNAMIC_MAP.size,)),
        )
        return (
            Entry(weight, "U8", (-(-rows * cols // 2), 1)),
            Entry(f"{weight}.absmax", "U8" if scheme.double else "F32", (blocks,)),
            *(nested if scheme.double else ()),
            Entry(f"{weight}.quant_map", "F32", (scheme.levels.size,)),
            Entry(f"{weight}.{STATE}{scheme.table}", "U8", (len(_state(self, rows, cols, np.float32(0))),)),
        )

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """The tensors of `entries`, filled."""
        rows, cols = quantized.codes.shape
        scheme, fields = self.scheme, quantized.grid.fields
        assert quantized.order is None, "bitsandbytes has blocks side by side"
        found = self.entries(module, rows, cols)
        if isinstance(scheme, RowInt8):
            values: list[NDArray[Any]] = [
                quantized.codes.astype(np.int8),
                fields[ROW_ABSMAX].reshape(-1),
                np.zeros((), np.uint8),
            ]
        else:
            offset = np.float32(fields[NESTED_OFFSET][0]) if scheme.double else np.float32(0)
            state = np.frombuffer(_state(self, rows, cols, offset), np.uint8)
            absmax = [fields[ABSMAX]]
            if scheme.double:
                absmax = [fields[ABSMAX_CODES], fields[NESTED_ABSMAX], DYNAMIC_MAP]
            values = [_nibbles(scheme, quantized.codes), *absmax, scheme.levels, state]
        return tuple(packed(entry, value) for entry, value in zip(found, values, strict=True))

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of the layer `module`, the inverse of `pack`. Raises InputError for damaged tensors.

        Type, block size, double quantization and shape of four-bit weights are taken from the stored state, which
        readers believe too, not from `self`.
        """
        if isinstance(self.scheme, RowInt8):
            weight = take_matrix(tensors, f"{module}.weight", ("I8",))
            rows = weight.entry.shape[0]
            absmax = scales_of(take(tensors, f"{module}.SCB", ("F32",), (rows,)))
            return Quantized(values_of(weight).astype(np.int16), self.scheme.grid(absmax[:, None]))
        weight_name = f"{module}.weight"
        scheme, (rows, cols), offset = read_state(weight_name, tensors)
        raw = values_of(take(tensors, weight_name, ("U8",), (-(-rows * cols // 2), 1))).reshape(-1)
        codes = np.stack([raw >> 4, raw & 15], axis=1).reshape(-1)[: rows * cols].reshape(rows, cols)
        _require_map(tensors, f"{weight_name}.quant_map", scheme.levels)
        blocks = scheme.block_count(rows, cols)
        if not scheme.double:
            absmax = scales_of(take(tensors, f"{weight_name}.absmax", ("F32",), (blocks,)))
            return Quantized(codes.astype(np.int16), scheme.grid(absmax, rows, cols))
        _require_map(tensors, f"{weight_name}.nested_quant_map", DYNAMIC_MAP)
        stored = values_of(take(tensors, f"{weight_name}.absmax", ("U8",), (blocks,)))
        largest = scales_of(take(tensors, f"{weight_name}.nested_absmax", ("F32",), (-(-blocks // NESTED_BLOCK),)))
        return Quantized(codes.astype(np.int16), scheme.grid(Nested(stored, largest, offset), rows, cols))

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer; a state of four bits tells the exact layout."""
        return _row_int8(self, headers) if isinstance(self.scheme, RowInt8) else _codebook(self.scheme, headers)


def _state(layout: BitsandbytesLayout, rows: int, cols: int, offset: np.float32) -> bytes:
    """What bitsandbytes stores as JSON, its keys in its order, padded with spaces.

    Its own file has no padding. Ours needs it: the size of a file is known before any offset is.
    """
    scheme = layout.scheme
    assert isinstance(scheme, Codebook)
    state: dict[str, Any] = {
        "quant_type": scheme.table, "blocksize": scheme.block, "dtype": layout.dtype, "shape": [rows, cols],
    }  # fmt: skip
    if not scheme.double:
        return json.dumps(state).encode()
    state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": float(offset)}
    text, number = json.dumps(state), json.dumps(float(offset))
    return (text + " " * (OFFSET_CHARACTERS - len(number))).encode()


def _nibbles(scheme: Codebook, codes: Codes) -> U8:
    """Codes (rows, cols) as bytes ((n + 1) / 2, 1); a last half byte that is left over means zero."""
    flat = codes.reshape(-1).astype(np.uint8)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(np.flatnonzero(scheme.levels == 0)[0]))
    raw: U8 = np.bitwise_or(flat[::2] << np.uint8(4), flat[1::2])
    return raw[:, None]


def _require_map(tensors: Tensors, name: str, expected: F32) -> None:
    found = scales_of(take(tensors, name, ("F32",), expected.shape))
    # Releases computed these maps in slightly different ways: the same levels, up to a last bit.
    if np.abs(found - expected).max() > 1e-6:
        hint = "the checkpoint is damaged, or from an unknown writer"
        raise InputError(f'"{shown(name)}" is not the map that its type has', tensor=name, hint=hint)


def read_state(weight: str, tensors: Tensors) -> tuple[Codebook, tuple[int, int], np.float32]:
    """Scheme, shape and offset from the stored JSON, every field checked."""
    tables: tuple[Literal["nf4", "fp4"], ...] = ("nf4", "fp4")
    names = [(table, f"{weight}.{STATE}{table}") for table in tables]
    table, name = next((pair for pair in names if pair[1] in tensors), names[0])
    raw = take(tensors, name, ("U8",)).data

    def refuse(why: str) -> InputError:
        return InputError(f'"{shown(name)}" {why}', tensor=name, hint="the checkpoint is damaged: fetch it again")

    try:
        state = json.loads(raw.tobytes()[:STATE_BYTES])
    except (ValueError, RecursionError):
        raise refuse("is not JSON") from None
    if not isinstance(state, dict) or state.get("quant_type") != table:
        raise refuse(f"does not describe {table}")
    shape, block = state.get("shape"), state.get("blocksize")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < 1 << 31 for n in shape):
        raise refuse(f"has the shape {shown(str(shape))}, expected a matrix")
    if block not in BLOCK_SIZES:
        raise refuse(f"has blocks of {shown(str(block))}")
    double = "nested_blocksize" in state
    offset = state.get("nested_offset", 0.0)
    if double and (state["nested_blocksize"] != NESTED_BLOCK or not isinstance(offset, int | float)):
        raise refuse("has statistics of an unknown kind")
    if not abs(offset) < 3e38:
        raise refuse(f"has the offset {offset}")
    return Codebook(table, double, block), (shape[0], shape[1]), np.float32(offset)


def _row_int8(layout: BitsandbytesLayout, headers: Headers) -> StoredOutline:
    rows, cols = headers.info("weight", ("I8",), 2).shape
    if headers.has("weight_format") and headers.tensors[f"{headers.module}.weight_format"].shape == ():
        code = int(values_of(headers.read(f"{headers.module}.weight_format")).reshape(-1)[0])
        if code != 0:
            what = f'"{shown(headers.module)}" is stored in the order of a GPU kernel (weight_format {code})'
            hint = "load and save the checkpoint again with a newer bitsandbytes, or start from the original one"
            raise UnsupportedError(what, tensor=f"{headers.module}.weight_format", hint=hint)
    return StoredOutline(
        layout,
        rows,
        cols,
        (headers.part("weight", ("I8",), (rows, cols), 0), headers.part("SCB", ("F32",), (rows,), 0)),
    )


def _codebook(expected: Codebook, headers: Headers) -> StoredOutline:
    """Four bits of bitsandbytes: blocks run over the flat weight, and a tensor of JSON tells its shape."""
    found = [f"weight.{STATE}{table}" for table in ("nf4", "fp4") if headers.has(f"weight.{STATE}{table}")]
    state = headers.small(found[0] if found else f"weight.{STATE}{expected.table}", ("U8",), STATE_BYTES)
    scheme, (rows, cols), _ = read_state(f"{headers.module}.weight", {state.entry.name: state})
    blocks = scheme.block_count(rows, cols)
    per_row = Fraction(cols, scheme.block)
    parts = [
        headers.part("weight", ("U8",), (-(-rows * cols // 2), 1), 0, Fraction(cols, 2)),
        headers.part("weight.absmax", ("U8",) if scheme.double else ("F32",), (blocks,), 0, per_row),
        headers.part("weight.quant_map", ("F32",), scheme.levels.shape),
        StoredPart(state.entry.name, "U8", state.entry.shape, restated=_restated_state),
    ]
    if scheme.double:
        groups = -(-blocks // NESTED_BLOCK)
        parts += [
            headers.part("weight.nested_absmax", ("F32",), (groups,), 0, per_row / NESTED_BLOCK),
            headers.part("weight.nested_quant_map", ("F32",), DYNAMIC_MAP.shape),
        ]
    return StoredOutline(BitsandbytesLayout(scheme), rows, cols, tuple(parts))


def _restated_state(raw: U8, rows: int) -> U8:
    state: dict[str, Any] = json.loads(raw.tobytes())
    return np.frombuffer(json.dumps({**state, "shape": [rows, state["shape"][1]]}).encode(), np.uint8)


def choose(weights: Weights, dtype: ScaleDtype) -> BitsandbytesLayout:
    """The layout of these weights, which are decoded to `dtype`."""
    table: Literal["nf4", "fp4"] = "nf4" if weights.type == "nf4" else "fp4"
    scheme = RowInt8() if weights.type == "int8-rows" else Codebook(table, weights.double)
    return BitsandbytesLayout(scheme, TORCH[dtype])


def quantization_config(layout: BitsandbytesLayout, *, exclude: Sequence[str] = ("lm_head",)) -> dict[str, Any]:
    """The `quantization_config` of config.json. `exclude` names modules that stay as they are.

    The default of transformers is FP4 computed in float32: type and compute dtype are always given. vLLM takes no
    storage type but uint8.
    """
    scheme = layout.scheme
    four = isinstance(scheme, Codebook)
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": four,
        "load_in_8bit": not four,
        "_load_in_4bit": four,
        "_load_in_8bit": not four,
        "bnb_4bit_quant_type": scheme.table if isinstance(scheme, Codebook) else "fp4",
        "bnb_4bit_use_double_quant": scheme.double if isinstance(scheme, Codebook) else False,
        "bnb_4bit_compute_dtype": layout.dtype,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": list(exclude) or None,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_enable_fp32_cpu_offload": False,
    }


def read_config(config: Mapping[str, Any]) -> BitsandbytesLayout:
    """The layout that a quantization_config describes. Raises InputError or UnsupportedError naming the key."""
    if truth(config, "load_in_8bit", False):
        return BitsandbytesLayout(RowInt8())
    if not truth(config, "load_in_4bit", False):
        raise InputError(
            "quantization_config loads neither 4 nor 8 bits", key="load_in_4bit", hint="config.json is damaged"
        )
    tables: dict[str, Literal["nf4", "fp4"]] = {"nf4": "nf4", "fp4": "fp4"}
    choice(config, "bnb_4bit_quant_storage", ("uint8",), "uint8")
    table = tables[choice(config, "bnb_4bit_quant_type", tuple(tables), "fp4")]
    return BitsandbytesLayout(Codebook(table, truth(config, "bnb_4bit_use_double_quant", False)))


def _config(written: Written) -> dict[str, Any]:
    layout = same_everywhere(written, "bitsandbytes")
    assert isinstance(layout, BitsandbytesLayout)
    return quantization_config(layout, exclude=written.skipped)


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """The same for every module."""
    layout = read_config(quantization)
    return lambda module: layout


CONTAINER = Container(
    "bitsandbytes",
    Writing(types=("nf4", "fp4", "int8-rows"), choose=choose, config=section(_config)),
    Reading(
        layouts,
        components=(
            "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
            "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4", "SCB", "weight_format",
            "weight",
        ),
        telling=("load_in_8bit", "load_in_4bit"),
        unsaid=(
            (".SCB", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
            (".quant_state.bitsandbytes__nf4", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
            (".quant_state.bitsandbytes__fp4", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ),
    ),
)  # fmt: skip
