"""Native FP8 checkpoints in 128 x 128 blocks, as DeepSeek published them, and ModelOpt's description of FP8.

    .weight             F8_E4M3 [out, in]
    .weight_scale_inv   F32 [out / 128, in / 128], rounded up      W = weight * scale, in spite of the name

transformers finds the size of blocks by dividing rows and columns by those of the scales. A weight of 192 rows with
two rows of scales then has blocks of 96 and loads wrong without a word, so that such weights are never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.packed import (
    FLOATS,
    Entry,
    PackedTensor,
    Tensors,
    packed,
    scales_of,
    take,
    take_matrix,
    values_of,
)
from quantkit.formats.containers.settings import choice
from quantkit.qtypes.schemes.base import Quantized
from quantkit.qtypes.schemes.minifloat import SCALE, TILE, Float8, Strategy, to_bytes, to_codes
from quantkit.untrusted import shown

SCHEME = Float8("block", "F32")


@dataclass(frozen=True)
class FP8Layout:
    """A native FP8 checkpoint's settings: there is nothing to choose."""

    scheme: Float8 = SCHEME


# What ModelOpt calls them (read by vLLM, SGLang and TensorRT-LLM).
MODELOPT_NAMES: dict[Strategy, str] = {
    "tensor": "FP8", "channel": "FP8_PER_CHANNEL_PER_TOKEN", "block": "FP8_PB_WO",
}  # fmt: skip


def entries(module: str, rows: int, cols: int) -> tuple[Entry, ...]:
    """The tensors of the linear layer `module` of weight (rows, cols).

    Raises UnsupportedError for dimensions above 128 that are no multiples of it.
    """
    for size, what in ((rows, "outputs"), (cols, "inputs")):
        if size > TILE and size % TILE:
            raise UnsupportedError(
                f'"{shown(module)}" has {size:,} {what}, no multiple of {TILE}: transformers would load it wrong',
                tensor=module,
                hint="keep this layer unquantized, or write compressed-tensors with one scale per channel",
            )
    return (
        Entry(f"{module}.weight", "F8_E4M3", (rows, cols)),
        Entry(f"{module}.weight_scale_inv", "F32", SCHEME.scale_shape(rows, cols)),
    )


def pack(module: str, quantized: Quantized) -> tuple[PackedTensor, ...]:
    """The tensors of `entries`, filled, for codes on a grid of `SCHEME`."""
    weight, scale = entries(module, *quantized.codes.shape)
    assert quantized.order is None, "FP8 blocks lie side by side"
    return packed(weight, to_bytes(quantized.codes)), packed(scale, quantized.grid.fields[SCALE])


def unpack(module: str, tensors: Tensors) -> Quantized:
    """The codes and grid of the linear layer `module`, blocks at the edges cut off. Raises InputError."""
    weight = take_matrix(tensors, f"{module}.weight", ("F8_E4M3",))
    rows, cols = weight.entry.shape
    scale = take(tensors, f"{module}.weight_scale_inv", FLOATS, SCHEME.scale_shape(rows, cols))
    return Quantized(to_codes(values_of(weight)), SCHEME.grid(scales_of(scale), rows, cols))


def quantization_config(*, exclude: Sequence[str] = ("lm_head",)) -> dict[str, Any]:
    """The `quantization_config` of config.json; activations are dynamic, as vLLM demands of blocks."""
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [TILE, TILE],
        "modules_to_not_convert": list(exclude),
    }


def read_config(config: Mapping[str, Any]) -> Float8:
    """The scheme that a quantization_config describes. Raises InputError or UnsupportedError naming the key."""
    choice(config, "fmt", ("e4m3",), "e4m3")
    block = config.get("weight_block_size")
    if block != [TILE, TILE]:
        what = f"quantization_config.weight_block_size is {shown(str(block))}"
        raise UnsupportedError(what, key="weight_block_size", hint=f"native FP8 is read in blocks of {TILE} x {TILE}")
    return SCHEME


def hf_quant_config(
    strategy: Strategy, *, version: str, kv_cache: bool = False, exclude: Sequence[str] = ("lm_head",)
) -> dict[str, Any]:
    """The content of hf_quant_config.json for FP8 weights. `version` is that of quantkit, who produces them."""
    return {
        "producer": {"name": "quantkit", "version": version},
        "quantization": {
            "quant_algo": MODELOPT_NAMES[strategy],
            "kv_cache_quant_algo": "FP8" if kv_cache else None,
            "group_size": TILE if strategy == "block" else None,
            "exclude_modules": list(exclude),
        },
    }
