"""What engines do to the inputs of linear layers: they multiply in fewer bits than float32.

A rounding takes the inputs of a layer, float32 (..., cols), and gives what is multiplied, float32 of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]

# The type that ggml gives the other factor of a product with weights of a type (type_traits_cpu.vec_dot_type).
BLOCKS_OF_32 = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4"})
BLOCKS_OF_256 = frozenset({"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs", "tq1_0", "tq2_0"})


def ggml_rounding(qtype: str) -> Rounding | None:
    """How ggml's CPU code rounds what weights of this type are multiplied with; None where it stays float32."""
    if qtype in BLOCKS_OF_32:
        return _round_q8_0
    if qtype in BLOCKS_OF_256:
        return _round_q8_k
    return {"f16": _round_f16, "bf16": _round_bf16}.get(qtype)


def _round_q8_0(values: Tensor) -> Tensor:
    """8 bits in blocks of 32, the scale in float16 (quantize_row_q8_0)."""
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 127
    codes = torch.where(scale > 0, blocks / scale, 0.0).round()
    return (codes * scale.half().float()).reshape(values.shape)


def _round_q8_k(values: Tensor) -> Tensor:
    """8 bits in blocks of 256, the scale in float32 (quantize_row_q8_K)."""
    blocks = values.reshape(*values.shape[:-1], -1, 256)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 127
    return (torch.where(scale > 0, blocks / scale, 0.0).round() * scale).reshape(values.shape)


def _round_f16(values: Tensor) -> Tensor:
    return values.half().float()


def _round_bf16(values: Tensor) -> Tensor:
    return values.bfloat16().float()
