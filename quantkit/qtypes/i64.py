"""I64: whole numbers, little-endian of 64 bits with sign. Of tables of which llama.cpp wants no smaller ones.

No weights are stored so, and no recipe may ask for it: `base.names` does not list it.
"""

from __future__ import annotations

from math import inf

import numpy as np

from quantkit.qtypes.base import QuantType
from quantkit.qtypes.i32 import require_whole
from quantkit.tensors import F32, U8


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols * 8). Raises InputError for what is no whole number up to 2^24."""
    require_whole(w)
    return w.astype("<i8").view(np.uint8).reshape(w.shape[0], w.shape[1] * 8)


def widen(raw: U8) -> F32:
    """Bytes (n, 8) to float32 (n,), exactly up to 2^24."""
    return np.array(raw, order="C").view("<i8").reshape(-1).astype(np.float32)


TYPE = QuantType(
    name="i64", block=1, nbytes=8, encode=encode, widen=widen, gguf=27, inputs="f32", floor_db=inf,
)  # fmt: skip
