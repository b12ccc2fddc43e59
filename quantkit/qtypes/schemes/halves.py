"""Weights that are not quantized: floats of 16 bits, seen as codes so that they go the way of all others."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np

from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.schemes.base import Quantized, Traits, require_finite, whole_target
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32, U8


@record
class Halves:
    """BF16 or F16; a code is the number's pattern of bits, read as int16."""

    dtype: Literal["BF16", "F16"] = "BF16"

    @property
    def bits(self) -> int:
        return 16

    @property
    def traits(self) -> Traits:
        word = self.dtype.lower()
        return Traits(type=word, bits=16, word=word, words=word)

    def grid(self, rows: int) -> Grid:
        """The grid of any weight of `rows` rows: every number of the type."""
        return Grid(np.ones((rows, 1), np.float32), None, -(1 << 15), (1 << 15) - 1, levels=_levels(self.dtype))

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid, whatever the weights are."""
        require_finite(w)
        return self.grid(len(w))

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """The nearest numbers, ties to even. Raises NonFiniteError for a weight that the type cannot hold."""
        from quantkit.qtypes.floats import to_bf16, to_f16  # numba: only once weights are packed

        grid = self.fit(w)
        patterns = (to_f16 if self.dtype == "F16" else to_bf16)(np.ascontiguousarray(w))
        return Quantized(patterns.view(np.int16).reshape(w.shape), grid)

    def target(self, cols: int) -> Target:
        """Of a whole matrix."""
        return whole_target(self)


def to_bytes(codes: Codes) -> U8:
    """Codes (rows, cols) as they are stored."""
    return np.ascontiguousarray(codes, "<i2").view(np.uint8).reshape(-1)


@cache
def _levels(dtype: str) -> F32:
    """Values by pattern; a negative code counts from the end, where the patterns with the sign bit are.

    Patterns that are no numbers stand for zero: no finite weight becomes one of them.
    """
    patterns = np.arange(1 << 16, dtype=np.uint32)
    if dtype == "F16":
        values = patterns.astype(np.uint16).view(np.float16).astype(np.float32)
    else:
        values = (patterns << np.uint32(16)).view(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0))
