"""FP8 weights: E4M3 numbers (arXiv 2209.05433) with one scale per tensor, row, or tile of the matrix.

E4M3FN: sign, four exponent bits (bias 7), three mantissa bits; the largest number is 448, there is no infinity, and
0x7F and 0xFF are not numbers.

Codes are not these bytes: a grid promises levels that are numbers, so codes 0 to 252 are the levels in rising order
and code 253 is minus zero, which files hold and `nearest` never picks. `to_bytes` and `to_codes` translate.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from quantkit.errors import InputError
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.schemes import TILE
from quantkit.qtypes.schemes.base import Quantized, ScaleDtype, Traits, require_finite, stored_scales, whole_target
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32, U8

Strategy = Literal["tensor", "channel", "block"]

LARGEST = np.float32(448)
SCALE = "scale"  # field of a grid: the scales as they are stored, (1, 1), (rows, 1) or (tiles, tiles)

NAN_CODE = -1


def _byte_values() -> F32:
    """The number that each of the 256 bytes means."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    magnitude = np.where(exponent > 0, np.ldexp(8 + mantissa, exponent - 10), np.ldexp(mantissa, -9))
    magnitude = np.where(byte & 127 == 127, np.nan, magnitude)
    return np.where(byte > 127, -magnitude, magnitude).astype(np.float32)


BYTE_VALUES = _byte_values()
# Negative numbers from the largest magnitude on, then zero and the positive ones, then minus zero.
BYTE_OF_CODE = np.array([*range(0xFE, 0x80, -1), *range(0x7F), 0x80], np.uint8)
LEVELS = BYTE_VALUES[BYTE_OF_CODE]
CODE_OF_BYTE = np.full(256, NAN_CODE, np.int16)
CODE_OF_BYTE[BYTE_OF_CODE] = np.arange(BYTE_OF_CODE.size)


def round_to_bytes(x: F32) -> U8:
    """float32 (any shape) to E4M3 bytes of the same shape: to nearest, ties to even, clamped to +-448.

    Equal to torch's `x.clamp(-448, 448).to(torch.float8_e4m3fn)`. x must not hold NaN.
    """
    bits = np.clip(x, -LARGEST, LARGEST).view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    normal = ((magnitude + np.uint32(0x7FFFF) + (magnitude >> np.uint32(20) & np.uint32(1))) >> np.uint32(20)) - 960
    # Below 2^-6 numbers are multiples of 2^-9; eight of them is 0x08, the smallest normal one.
    small = np.minimum(magnitude, np.uint32(0x3C800000)).view(np.float32)
    steps = np.rint(small * np.float32(512)).astype(np.uint32)
    byte = np.where(magnitude < np.uint32(0x3C800000), steps, normal)
    sign = bits >> np.uint32(24) & np.uint32(0x80)
    raw: U8 = np.bitwise_or(byte, sign).astype(np.uint8)
    return raw


def to_bytes(codes: Codes) -> U8:
    """Codes to E4M3 bytes, same shape."""
    raw: U8 = BYTE_OF_CODE[codes]
    return raw


def to_codes(raw: U8) -> Codes:
    """E4M3 bytes to codes, same shape. Raises InputError for a byte that is not a number."""
    codes: Codes = CODE_OF_BYTE[raw]
    if codes.size and codes.min() == NAN_CODE:
        index = int(np.argmin(codes))
        what = f"weight {index} is not a number (byte 0x{raw.flat[index]:02X})"
        raise InputError(what, hint="the checkpoint is damaged: fetch it again")
    return codes


@record
class Float8:
    """E4M3 weights, scale = largest magnitude / 448, stored as `scale_dtype`.

    tensor     one scale
    channel    one per row
    block      one per tile of 128 rows and 128 columns; tiles at the lower and right edge may be smaller
    """

    strategy: Strategy
    scale_dtype: ScaleDtype = "F32"

    @property
    def bits(self) -> int:
        return 8

    @property
    def traits(self) -> Traits:
        return Traits(
            type="fp8",
            bits=8,
            word=f"fp8-{self.strategy}",
            words=f"fp8 {self.strategy}",
            granularity=self.strategy,
            group=TILE if self.strategy == "block" else -1,
            scale_dtype=self.scale_dtype,
            top=float(LARGEST),
        )

    def scale_shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the stored scales of a weight (rows, cols)."""
        if self.strategy == "block":
            return -(-rows // TILE), -(-cols // TILE)
        return (rows, 1) if self.strategy == "channel" else (1, 1)

    def grid(self, scale: F32, rows: int, cols: int) -> Grid:
        """The grid of scales given in the shape that is stored; they must already be of the stored type."""
        assert scale.shape == self.scale_shape(rows, cols), (scale.shape, rows, cols)
        spread = scale
        if self.strategy == "block":
            spread = np.repeat(scale, TILE, axis=0)[:rows]
        elif self.strategy == "tensor":
            spread = np.repeat(scale, rows, axis=0)
        return Grid(spread_groups(spread, TILE, cols), None, 0, LEVELS.size - 1, levels=LEVELS, fields={SCALE: scale})

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid whose largest level is the largest magnitude. Ignores importance."""
        require_finite(w)
        rows, cols = w.shape
        scale = self._largest(w) / LARGEST
        return self.grid(stored_scales(scale, self.scale_dtype, 1), rows, cols)

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """Codes of w / scale, to nearest with ties to even: what a cast to float8 gives."""
        grid = self.fit(w)
        rows, cols = w.shape
        groups = grid.scale.shape[1]
        x = w.reshape(rows, groups, cols // groups) / grid.scale[:, :, None]
        return Quantized(to_codes(round_to_bytes(x.reshape(rows, cols))), grid)

    def target(self, cols: int) -> Target:
        """Of a whole matrix."""
        return whole_target(self)

    def _largest(self, w: F32) -> F32:
        """Largest magnitude under each scale, in the shape of the stored scales."""
        rows, cols = w.shape
        height = {"channel": 1, "tensor": rows, "block": TILE}[self.strategy]
        width = TILE if self.strategy == "block" else cols
        of_rows = np.maximum.reduceat(np.abs(w), np.arange(0, rows, height), axis=0)
        largest: F32 = np.maximum.reduceat(of_rows, np.arange(0, cols, width), axis=1)
        return largest


def spread_groups(scale: F32, width: int, cols: int) -> F32:
    """Scales (rows, groups) of groups `width` columns wide as a grid needs them: groups of equal width.

    Where the last group is cut off at the edge, every column becomes a group of its own.
    """
    if scale.shape[1] == 1 or scale.shape[1] * width == cols:
        return scale
    return np.repeat(scale, width, axis=1)[:, :cols]
