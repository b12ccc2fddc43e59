"""F32: the weights themselves, little-endian IEEE binary32."""

from __future__ import annotations

from math import inf

import numpy as np

from quantkit.qtypes.base import QuantType
from quantkit.tensors import F32, U8


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols * 4), a copy. `importance` is not used."""
    return np.array(w, dtype="<f4", order="C").view(np.uint8).reshape(w.shape[0], w.shape[1] * 4)


def widen(raw: U8) -> F32:
    """Bytes (n, 4) to float32 (n,)."""
    return np.array(raw, order="C").view("<f4").reshape(-1)


TYPE = QuantType(
    name="f32", block=1, nbytes=4, encode=encode, widen=widen, gguf=0, inputs="f32", floor_db=inf,
)  # fmt: skip
