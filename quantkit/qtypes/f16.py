"""F16: little-endian IEEE binary16, rounded to nearest even."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import QuantType
from quantkit.qtypes.floats import to_f16, to_float32
from quantkit.tensors import F32, U8


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols * 2). `importance` is not used.

    Same bytes as ggml's ggml_fp32_to_fp16_row for values that fit. Differs from it where a weight becomes infinite:
    that raises NonFiniteError with the flat index.
    """
    return to_f16(w).view(np.uint8).reshape(w.shape[0], w.shape[1] * 2)


def widen(raw: U8) -> F32:
    """Bytes (n, 2) to float32 (n,)."""
    out = np.empty(len(raw), np.float32)
    to_float32(np.ascontiguousarray(raw).reshape(-1), "F16", out)
    return out


TYPE = QuantType(
    name="f16", block=1, nbytes=2, encode=encode, widen=widen, gguf=1, inputs="f16", floor_db=45.0,
)  # fmt: skip
