"""NVFP4 and MXFP4: groups of four-bit floats whose scales are small floats themselves (OCP Microscaling Formats 1.0).

    E2M1    one sign, two exponent bits, one mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives
    NVFP4   16 weights share an E4M3 scale, and the whole weight one float32 factor:  W = level * (scale / factor)
    MXFP4   32 weights share an E8M0 scale, a power of two:                           W = level * 2^(e - 127)

A code is the stored half byte; code 8 is minus zero, which `nearest` never picks. Rounding is that of
compressed-tensors 0.20 (`cast_to_fp4`, `calculate_qparams`, `generate_gparam`, `generate_mx_scales`).

The type mxfp4 of GGUF (mxfp4.py) has the same blocks, but llama.cpp chooses their exponents by another rule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError, UnsupportedError
from quantkit.qtypes.base import Codes, Grid
from quantkit.qtypes.schemes.base import Quantized, Traits, require_finite, whole_target
from quantkit.qtypes.schemes.minifloat import BYTE_VALUES, LARGEST, round_to_bytes
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32, U8

MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
LEVELS: F32 = np.concatenate([MAGNITUDES, -MAGNITUDES])
TOP = np.float32(6)

# The code of a magnitude is how many of these it exceeds: middles between levels, where a tie goes to the even code.
EDGES = tuple(
    np.nextafter(middle, np.float32(0)) if code % 2 else middle
    for code, middle in enumerate((MAGNITUDES[:-1] + MAGNITUDES[1:]) / np.float32(2))
)

SCALE = "scale"  # field of a grid: the stored bytes of its scales (rows, groups), E4M3 or E8M0
FACTOR = "factor"  # field of an NVFP4 grid: the float32 that its scales are divided by (1,)

NO_SCALE = 0x20  # E4M3 for 0.125: the scale of a group whose own scale rounds to zero
SMALLEST_NORMAL = np.float32(2.0**-126)
EXPONENT_OF_TOP = 2  # 6 lies in [2^2, 2^3)
NOT_A_NUMBER = 255  # of E8M0


def round_to_codes(x: F32) -> Codes:
    """Codes of the levels nearest to x (any shape, no NaN), as `cast_to_fp4`: what rounds to zero keeps its sign.

    Only minus zero itself loses it.
    """
    size = np.abs(x)
    codes = (x < 0).view(np.uint8) << np.uint8(3)
    for edge in EDGES:  # a sum of bytes: several times faster than a search
        codes += (size > edge).view(np.uint8)
    return codes.astype(np.int16)


@record
class NVFP4:
    """E2M1 codes in groups of 16, E4M3 scales, and one float32 factor per weight = 448 * 6 / largest magnitude.

    Kernels run q, k and v, or gate and up, as one matrix with one factor: `largest` is the largest magnitude of all
    weights that share theirs; None takes that of the weight at hand. `dtype` is the type in which the largest
    magnitudes of groups and weight are divided; compressed-tensors takes the type of the weights.
    """

    largest: float | None = None
    dtype: Literal["F32", "BF16"] = "F32"

    @property
    def bits(self) -> int:
        return 4

    @property
    def traits(self) -> Traits:
        def sharing(largest: float) -> NVFP4:
            return replace(self, largest=largest)

        return Traits(type="nvfp4", bits=4, word="nvfp4", words="w4g16", group=self.group, sharing=sharing)

    @property
    def group(self) -> int:
        return 16

    def group_count(self, cols: int) -> int:
        """How many groups a row of `cols` weights has. Raises UnsupportedError."""
        return _group_count(cols, self.group)

    def factor(self, largest: float) -> np.float32:
        """The factor of weights up to the magnitude `largest`; 1 where float32 could not hold it."""
        # torch divides a number by a tensor with a reciprocal: rounded twice.
        size = np.maximum(np.float32(largest), SMALLEST_NORMAL)
        inverse = self._rounded(np.array(np.float32(1) / size))
        with np.errstate(over="ignore"):
            factor = self._rounded(inverse * (LARGEST * TOP))
        return np.float32(factor if np.isfinite(factor) else 1)

    def grid(self, scale: U8, factor: np.float32) -> Grid:
        """The grid of E4M3 scales (rows, groups) and their factor. Raises InputError for what is not a number."""
        decoded = BYTE_VALUES[scale]
        if np.isnan(decoded).any():
            index = int(np.argmax(np.isnan(decoded)))
            what = f"scale {index} is not a number (byte 0x{scale.flat[index]:02X})"
            raise InputError(what, hint="the checkpoint is damaged: fetch it again")
        if not SMALLEST_NORMAL <= factor < np.inf:
            what = f"the factor of all scales is {factor:g}, expected a positive number"
            raise InputError(what, hint="the checkpoint is damaged: fetch it again")
        fields: dict[str, NDArray[Any]] = {SCALE: scale, FACTOR: np.array([factor], np.float32)}
        return Grid(decoded / factor, None, 0, LEVELS.size - 1, levels=LEVELS, fields=fields)

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid that reaches the largest magnitude of each group. Ignores importance."""
        require_finite(w)
        largest = _largest(w, self.group)
        factor = self.factor(float(largest.max()) if self.largest is None else self.largest)
        scale = round_to_bytes(factor * self._rounded(largest / TOP))
        return self.grid(np.where(scale == 0, np.uint8(NO_SCALE), scale), factor)

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """Codes of the levels nearest to w / scale; a tie goes to the even code."""
        grid = self.fit(w)
        return Quantized(_rounded_codes(w, grid), grid)

    def target(self, cols: int) -> Target:
        """Of a whole matrix."""
        return whole_target(self)

    def _rounded(self, x: F32) -> F32:
        """Positive x (any shape) rounded to `dtype`, ties to even."""
        if self.dtype == "F32":
            return x
        bits = x.view(np.uint32)
        return (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) & np.uint32(0xFFFF0000)).view("f4")


@record
class MXFP4:
    """E2M1 codes in groups of 32 and powers of two.

    The exponent is that of the group's largest magnitude, less two, so that it falls in [4, 7); from 7 on it would
    lose more than half a step at 6, and the exponent grows by one.
    """

    @property
    def bits(self) -> int:
        return 4

    @property
    def traits(self) -> Traits:
        return Traits(type="mxfp4", bits=4, word="mxfp4", words="w4g32", group=self.group)

    @property
    def group(self) -> int:
        return 32

    def group_count(self, cols: int) -> int:
        """How many groups a row of `cols` weights has. Raises UnsupportedError."""
        return _group_count(cols, self.group)

    def grid(self, exponent: U8) -> Grid:
        """The grid of E8M0 scales (rows, groups). Raises InputError for one that is not a number."""
        if (exponent == NOT_A_NUMBER).any():
            what = f"scale {int(np.argmax(exponent == NOT_A_NUMBER))} is not a number (byte 0xFF)"
            raise InputError(what, hint="the checkpoint is damaged: fetch it again")
        scale = np.ldexp(np.float32(1), exponent.astype(np.int32) - 127)
        return Grid(scale, None, 0, LEVELS.size - 1, levels=LEVELS, fields={SCALE: exponent})

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid of each group's largest magnitude. Ignores importance.

        Differs from compressed-tensors for magnitudes from 1.75 * 2^127 on, whose scale it loses: they are clipped.
        """
        require_finite(w)
        bits: NDArray[np.uint32] = _largest(w, self.group).view(np.uint32)
        rounded = bits + np.uint32(1 << 21) >> np.uint32(23)  # carries into the exponent from a mantissa of 1.75 on
        return self.grid(np.clip(rounded, EXPONENT_OF_TOP, 254).astype(np.uint8) - np.uint8(EXPONENT_OF_TOP))

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """Codes of the levels nearest to w / scale; a tie goes to the even code."""
        grid = self.fit(w)
        return Quantized(_rounded_codes(w, grid), grid)

    def target(self, cols: int) -> Target:
        """Of a whole matrix."""
        return whole_target(self)


def _group_count(cols: int, group: int) -> int:
    if cols % group:
        what = f"rows of {cols:,} weights do not divide into groups of {group}, the only size of this type"
        raise UnsupportedError(what, hint="keep this layer unquantized")
    return cols // group


def _largest(w: F32, group: int) -> F32:
    """The largest magnitude of each group of w (rows, cols), float32 (rows, groups). Raises UnsupportedError."""
    rows, cols = w.shape
    largest: F32 = np.abs(w).reshape(rows, _group_count(cols, group), group).max(axis=2)
    return largest


def _rounded_codes(w: F32, grid: Grid) -> Codes:
    rows, cols = w.shape
    groups = grid.scale.shape[1]
    return round_to_codes(w.reshape(rows, groups, cols // groups) / grid.scale[:, :, None]).reshape(rows, cols)
