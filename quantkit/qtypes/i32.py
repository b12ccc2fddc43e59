"""I32: whole numbers, little-endian of 32 bits with sign. Of tables, such as which experts a token goes to.

No weights are stored so, and no recipe may ask for it: `base.names` does not list it.
"""

from __future__ import annotations

from math import inf

import numpy as np

from quantkit.errors import InputError
from quantkit.qtypes.base import QuantType
from quantkit.tensors import F32, MAX_WHOLE, U8


def encode(w: F32, importance: F32 | None) -> U8:
    """float32 (rows, cols) to bytes (rows, cols * 4). Raises InputError for what is no whole number up to 2^24."""
    require_whole(w)
    return w.astype("<i4").view(np.uint8).reshape(w.shape[0], w.shape[1] * 4)


def require_whole(w: F32) -> None:
    """Raise InputError unless all values are whole numbers that float32 has."""
    wrong = (w != np.rint(w)) | (np.abs(w) > MAX_WHOLE)
    if wrong.any():
        what = f"{w[wrong][0]:g} is no whole number up to {MAX_WHOLE:,}"
        raise InputError(what, hint="the checkpoint is damaged: fetch it again")


def widen(raw: U8) -> F32:
    """Bytes (n, 4) to float32 (n,), exactly up to 2^24."""
    return np.array(raw, order="C").view("<i4").reshape(-1).astype(np.float32)


TYPE = QuantType(
    name="i32", block=1, nbytes=4, encode=encode, widen=widen, gguf=26, inputs="f32", floor_db=inf,
)  # fmt: skip
