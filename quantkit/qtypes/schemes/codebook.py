"""Four-bit codebooks of bitsandbytes, NF4 (QLoRA, arXiv 2305.14314) and FP4, with or without double quantization.

Blocks of 64 weights run over the flat, row-major weight; they may cross rows and the last one may be short. Each has
its largest magnitude as float32. Double quantization stores these as one byte each: their mean is taken off, and
blocks of 256 are rounded to a map of 256 levels, scaled by their own largest magnitude (float32).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.schemes.base import Quantized, Traits, require_finite, stored_scales, whole_target
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32, U8

NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip

# Bit 3 is the sign; bitsandbytes reads the code of minus zero as plus zero.
FP4_TWELFTHS = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32)
FP4: F32 = np.divide(np.concatenate([FP4_TWELFTHS, 0 - FP4_TWELFTHS]), np.float32(12), dtype=np.float32)

NESTED_BLOCK = 256
BINS = 1 << 16
SMALLEST = np.float32(1e-38)  # bitsandbytes divides by no smaller magnitude

# Fields of a grid, all flat: largest magnitudes as readers decode them, and how double quantization stores them.
ABSMAX = "absmax"
ABSMAX_CODES = "absmax_codes"
NESTED_ABSMAX = "nested_absmax"
NESTED_OFFSET = "nested_offset"


def _dynamic_map() -> F32:
    """The 256 levels of an absmax: 0, 1, and of each decade k = 0..6 from 10^(k-7) the middles of 2^k equal parts.

    The "dynamic tree" type of arXiv 1511.04561. Bits as bitsandbytes' create_dynamic_map has them: edges count from
    the nearer end, as torch.linspace does with fused multiply-adds, hence float64 rounded once.
    """
    levels = [np.array([0, 1], np.float32)]
    for decade in range(7):
        parts = 1 << decade
        low, high = np.float64(np.float32(0.1)), np.float64(1)
        step = np.float64(np.float32(high - low) / np.float32(parts))
        at = np.arange(parts + 1)
        edges = np.where(2 * at < parts, low + at * step, high - (parts - at) * step).astype(np.float32)
        middles = np.multiply(edges[:-1] + edges[1:], np.float32(0.5)) * np.float32(10.0 ** (decade - 6))
        levels += [middles, -middles]
    return np.sort(np.concatenate(levels))


DYNAMIC_MAP = _dynamic_map()


@record
class Nested:
    """Largest magnitudes (n,) after double quantization: a byte each, float32 per 256 of them, and their mean."""

    codes: U8
    absmax: F32
    offset: np.float32

    def values(self) -> F32:
        """The magnitudes that readers decode, float32 (n,)."""
        return nested_values(self.codes, self.absmax, self.offset)


def nested_values(codes: U8, absmax: F32, offset: np.float32, levels: F32 = DYNAMIC_MAP) -> F32:
    """Decode doubly quantized magnitudes, float32 (n,); each step is rounded, as in bitsandbytes."""
    scales = np.repeat(absmax, NESTED_BLOCK)[: codes.size]
    return levels[codes] * scales + offset


def quantize_nested(absmax: F32, offset: np.float32 | None = None) -> Nested:
    """Double quantization of largest magnitudes float32 (n,), as bitsandbytes 0.50 does it on a CPU.

    It finds codes through a table of 65,536 bins, so that a magnitude very near a middle may get the farther level.
    `offset` defaults to their mean, summed in float64. bitsandbytes sums in float32 in an order that depends on
    processor and threads, so that its own offset may differ from one machine to the next in the last bit.
    """
    mean = np.float32(absmax.mean(dtype=np.float64)) if offset is None else offset
    centred = absmax - mean
    largest: F32 = np.maximum.reduceat(np.abs(centred), np.arange(0, absmax.size, NESTED_BLOCK))
    inverse = np.float32(1) / np.maximum(largest, SMALLEST)
    x = np.clip(centred * np.repeat(inverse, NESTED_BLOCK)[: absmax.size], -1, 1)
    bins = ((x + np.float32(1)) * np.float32(0.5) * np.float32(BINS - 1) + np.float32(0.5)).astype(np.int32)
    codes = _codes_of_bins()[bins]
    codes[np.repeat(largest == 0, NESTED_BLOCK)[: absmax.size]] = 0
    return Nested(codes, largest, mean)


@cache
def _codes_of_bins() -> U8:
    """The code nearest to the middle of each of the 65,536 equal bins that bitsandbytes cuts -1..1 into."""
    middles = (DYNAMIC_MAP[:-1] + DYNAMIC_MAP[1:]) * np.float32(0.5)
    at = np.arange(BINS, dtype=np.float32) * np.float32(2) / np.float32(BINS - 1) - np.float32(1)
    return np.searchsorted(middles, at, side="left").astype(np.uint8)


@record
class Codebook:
    """NF4 or FP4 codes 0..15, `block` of which share a largest magnitude; `double` quantizes the magnitudes too."""

    table: Literal["nf4", "fp4"] = "nf4"
    double: bool = False
    block: int = 64

    @property
    def bits(self) -> int:
        return 4

    @property
    def traits(self) -> Traits:
        word = f"{self.table}{'-double' if self.double else ''}"
        words = f"{self.table} block {self.block}{' nested' if self.double else ''}"
        return Traits(type=self.table, bits=4, word=word, words=words)

    @property
    def levels(self) -> F32:
        return NF4 if self.table == "nf4" else FP4

    def grid(self, magnitudes: F32 | Nested, rows: int, cols: int) -> Grid:
        """The grid of a weight (rows, cols) whose blocks have these largest magnitudes (n,)."""
        nested = isinstance(magnitudes, Nested)
        assert nested == self.double, "magnitudes do not fit the scheme"
        absmax = magnitudes.values() if isinstance(magnitudes, Nested) else magnitudes
        fields: dict[str, NDArray[Any]] = {ABSMAX: absmax}
        if isinstance(magnitudes, Nested):
            fields |= {
                ABSMAX_CODES: magnitudes.codes,
                NESTED_ABSMAX: magnitudes.absmax,
                NESTED_OFFSET: np.array([magnitudes.offset]),
            }
        if cols % self.block == 0:
            scale = absmax.reshape(rows, cols // self.block)
        else:
            scale = np.repeat(absmax, self.block)[: rows * cols].reshape(rows, cols)
        return Grid(scale, None, 0, 15, levels=self.levels, fields=fields)

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid whose outermost level is each block's largest magnitude. Ignores importance."""
        require_finite(w)
        absmax = stored_scales(self._absmax(w), "F32", self.block)
        return self.grid(quantize_nested(absmax) if self.double else absmax, *w.shape)

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """Codes as bitsandbytes' quantize_4bit chooses them: with the magnitudes before double quantization."""
        require_finite(w)
        absmax = self._absmax(w)
        whole = w.size // self.block * self.block
        inverse = np.float32(1) / np.maximum(absmax, SMALLEST)
        x = w.reshape(-1) * np.repeat(inverse, self.block)[: w.size]
        if whole < w.size:  # of the short block it divides, and stores no smaller magnitude
            absmax[-1] = max(absmax[-1], SMALLEST)
            x[whole:] = w.reshape(-1)[whole:] / absmax[-1]
        codes = self._nearest(np.clip(x, -1, 1)).reshape(w.shape)
        return Quantized(codes, self.grid(quantize_nested(absmax) if self.double else absmax, *w.shape))

    def target(self, cols: int) -> Target:
        """Of a whole matrix."""
        return whole_target(self)

    def block_count(self, rows: int, cols: int) -> int:
        """Blocks of a weight (rows, cols), the short one included."""
        return -(-rows * cols // self.block)

    def _absmax(self, w: F32) -> F32:
        """Largest magnitude of each block, float32 (n,)."""
        largest: F32 = np.maximum.reduceat(np.abs(w.reshape(-1)), np.arange(0, w.size, self.block))
        return largest

    def _nearest(self, x: F32) -> Codes:
        """Codes of x in -1..1; a tie goes to the lower level."""
        order = np.argsort(self.levels, kind="stable")
        levels = self.levels[order]
        middles = (levels[:-1] + levels[1:]) / np.float32(2)
        return order.astype(np.int16)[np.searchsorted(middles, x, side="left")]
