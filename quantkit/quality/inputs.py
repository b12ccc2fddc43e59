"""What engines do to the inputs of linear layers: they multiply in fewer bits than float32.

A rounding takes the inputs of a layer, float32 (..., cols), and gives what is multiplied, float32 of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantkit.formats.containers.stored import StoredModule
from quantkit.qtypes import base
from quantkit.qtypes.schemes import TILE
from quantkit.qtypes.schemes.base import Traits
from quantkit.tensors import F32

Rounding = Callable[[Tensor], Tensor]


def ggml_rounding(qtype: str) -> Rounding | None:
    """How ggml's CPU code rounds what weights of this type are multiplied with; None where it stays float32."""
    rounded = {"q8_0": _round_q8_0, "q8_1": _round_q8_0, "q8_k": _round_q8_k, "f16": _round_f16, "bf16": _round_bf16}
    return rounded.get(base.get(qtype).inputs)


def _in_blocks(values: Tensor, size: int) -> Tensor:
    """The last axis in blocks: also of no tokens, which is what an expert may get."""
    return values.reshape(*values.shape[:-1], values.shape[-1] // size, size)


def _round_q8_0(values: Tensor) -> Tensor:
    """8 bits in blocks of 32, the scale in float16 (quantize_row_q8_0; q8_1 has the sum of each block besides)."""
    blocks = _in_blocks(values, 32)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 127
    codes = torch.where(scale > 0, blocks / scale, 0.0).round()
    return (codes * scale.half().float()).reshape(values.shape)


def _round_q8_k(values: Tensor) -> Tensor:
    """8 bits in blocks of 256, the scale in float32 (quantize_row_q8_K)."""
    blocks = _in_blocks(values, 256)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 127
    return (torch.where(scale > 0, blocks / scale, 0.0).round() * scale).reshape(values.shape)


def _round_f16(values: Tensor) -> Tensor:
    return values.half().float()


def _round_bf16(values: Tensor) -> Tensor:
    return values.bfloat16().float()


# Servers: what a quantization_config says of the inputs of the layers that it rounds

LARGEST_FP8 = 448.0
OUTLIERS = 6.0  # LLM.int8()'s threshold where config.json has none


def server_rounding(module: StoredModule, quantization: Mapping[str, Any], scale: F32 | None) -> Rounding | None:
    """How a loader rounds the inputs of a layer that is stored quantized; None where it does not, or none is known.

    `scale` is the layer's static scale, one number, None where there is none.
    """
    traits = module.layout.traits
    if traits.type == "int8-rows":
        threshold = quantization.get("llm_int8_threshold")
        limit = float(threshold) if isinstance(threshold, int | float) and threshold > 0 else OUTLIERS
        return partial(_round_llm_int8, threshold=limit)
    if traits.type not in ("int", "fp8"):
        return None
    integers = _integers(traits, quantization)
    if scale is not None:
        return partial(_round_static, scale=float(scale.reshape(-1)[0]), integers=integers)
    if traits.activations == "dynamic":
        return partial(_round_dynamic, group=TILE if traits.in_blocks else None, integers=integers)
    return None


def _integers(traits: Traits, quantization: Mapping[str, Any]) -> bool:
    """Whether inputs become integers, not FP8: what all groups of the configuration say, else what weights become."""
    groups = quantization.get("config_groups")
    said = {
        str(inputs.get("type"))
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and isinstance(inputs := group.get("input_activations"), Mapping)
    }
    return said == {"int"} if len(said) == 1 else traits.type == "int"


def _codes(values: Tensor, integers: bool) -> Tensor:
    """To the nearest code of 8 bits, as a float."""
    if integers:
        return values.round().clamp(-128, 127)
    return values.clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn).float()


def _round_static(values: Tensor, scale: float, integers: bool) -> Tensor:
    """On one scale that the checkpoint holds (compressed-tensors' and ModelOpt's input_scale)."""
    return _codes(values / scale, integers) * scale


def _round_dynamic(values: Tensor, group: int | None, integers: bool) -> Tensor:
    """Each token, or each `group` values of one, on the scale that its largest magnitude decides."""
    blocks = _in_blocks(values, group or values.shape[-1])
    scale = blocks.abs().amax(dim=-1, keepdim=True) / (127.5 if integers else LARGEST_FP8)
    return (_codes(torch.where(scale > 0, blocks / scale, 0.0), integers) * scale).reshape(values.shape)


def _round_llm_int8(values: Tensor, threshold: float) -> Tensor:
    """LLM.int8() (arXiv 2208.07339): columns in which a value reaches the threshold stay as they are."""
    rows = values.reshape(-1, values.shape[-1])
    outlier = (rows.abs() >= threshold).any(dim=0)
    quiet = rows.masked_fill(outlier, 0.0)
    scale = quiet.abs().amax(dim=1, keepdim=True) / 127
    rounded = torch.where(scale > 0, quiet / scale, 0.0).round() * scale
    return torch.where(outlier, rows, rounded).reshape(values.shape)
