"""Integers with one scale per group or row, as GPTQ, AWQ, compressed-tensors and LLM.int8() checkpoints hold them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import UnsupportedError
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import (
    ZERO,
    Quantized,
    ScaleDtype,
    Traits,
    group_count,
    nearest,
    require_finite,
    stored_scales,
    whole_target,
)
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

Symmetry = Literal["symmetric", "full-range", "asymmetric"]
Zeros = NDArray[np.int16]

# Shares of the range that a weighted search tries; the first is the range itself, so that it never does worse.
SHRINKS = tuple(1 - step / 50 for step in range(21))
SLAB = 1 << 20  # weights searched at once: bounds the copies

ABSMAX = "absmax"  # field of a RowInt8 grid: the largest magnitude of each row, float32 (rows, 1)


@record
class Integers:
    """Codes of `bits` bits, `group` of which share a scale stored as `scale_dtype`; a group of -1 is a whole row.

    symmetric    codes -2^(b-1)..2^(b-1)-1, scale = max|w| / (2^b - 1) * 2 (compressed-tensors' observer: the
                 outermost weight loses at most half a step)
    full-range   the same codes; the scale has a sign that puts the weight of largest magnitude on -2^(b-1) exactly
                 (AutoRound's symmetric scheme, ggml's q4_0)
    asymmetric   codes 0..2^b-1 and an integer zero point per group: value = scale * (code - zero)

    `lowest_zero` is the smallest zero point that the container can store: 1 for GPTQ v1.
    """

    bits: int
    group: int = -1
    symmetry: Symmetry = "symmetric"
    scale_dtype: ScaleDtype = "F16"
    lowest_zero: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UnsupportedError(f"integers of {self.bits} bits", hint="use 2 to 8 bits", key="bits")

    @property
    def traits(self) -> Traits:
        group = "" if self.group == -1 else f"g{self.group}"
        word = "-".join([f"int{self.bits}", *([group] if group else []), *([] if self.symmetric else ["asym"])])
        return Traits(
            type="int",
            bits=self.bits,
            word=word,
            words=f"w{self.bits}{group} {'symmetric' if self.symmetric else 'asymmetric'}",
            group=self.group,
            symmetric=self.symmetric,
            lowest_zero=self.lowest_zero,
            scale_dtype=self.scale_dtype,
            top=1 << self.bits - 1,
        )

    @property
    def symmetric(self) -> bool:
        return self.symmetry != "asymmetric"

    @property
    def qmin(self) -> int:
        return -(1 << self.bits - 1) if self.symmetric else 0

    @property
    def qmax(self) -> int:
        return self.qmin + (1 << self.bits) - 1

    def grid(self, scale: F32, zero: Zeros | None, cols: int) -> Grid:
        """The grid of given scales, float32 (rows, groups), rounded to what is stored.

        `zero` is int16 (rows, groups) for asymmetric codes, else None. For methods that search scales themselves.
        """
        stored = stored_scales(scale, self.scale_dtype, cols // scale.shape[1])
        if zero is None:
            assert self.symmetric, "asymmetric codes need zero points"
            return Grid(stored, None, self.qmin, self.qmax)
        assert not self.symmetric, "symmetric codes have no zero points"
        zero = np.clip(zero, self.lowest_zero, self.qmax).astype(np.int16)
        return Grid(stored, -(stored * zero.astype(np.float32)), self.qmin, self.qmax, fields={ZERO: zero})

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid of each group's range; with importance, of the share of it with the least weighted square error.

        The search costs about 21 roundings of w.
        """
        require_finite(w)
        rows, cols = w.shape
        groups = group_count(cols, self.group)
        if importance is None:
            return self._fit_range(w, groups, 1.0)
        height = max(1, SLAB // cols)
        slabs = [self._search(w[start : start + height], importance, groups) for start in range(0, rows, height)]
        scale = np.concatenate([slab.scale for slab in slabs])
        zero = None if self.symmetric else np.concatenate([slab.fields[ZERO] for slab in slabs])
        return self.grid(scale, zero, cols)

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """Round to nearest on the grid of `fit`, ties to even."""
        grid = self.fit(w, importance)
        return Quantized(nearest(w, grid), grid)

    def target(self, cols: int) -> Target:
        """Groups are fitted one by one."""

        def fit(w: F32, _: F32 | None) -> Grid:
            return self.fit(w)

        def rescale(grid: Grid, factor: F32) -> Grid:
            return self.grid(grid.scale * factor, grid.fields.get(ZERO), cols)

        span = cols // group_count(cols, self.group)
        return Target(fit, span, by_row=True, weighs=False, rescale=rescale)

    def _fit_range(self, w: F32, groups: int, share: float) -> Grid:
        """The grid of `share` of the range of every group."""
        rows, cols = w.shape
        blocks = w.reshape(rows, groups, cols // groups)
        kept = np.float32(share)
        steps = np.float32((1 << self.bits) - 1)
        if self.symmetry == "symmetric":
            return self.grid(np.abs(blocks).max(axis=2) * kept / (steps / np.float32(2)), None, cols)
        if self.symmetry == "full-range":
            peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
            return self.grid(peak * kept / np.float32(self.qmin), None, cols)
        low = np.minimum(blocks.min(axis=2), 0) * kept
        high = np.maximum(blocks.max(axis=2), 0) * kept
        return self._fit_asymmetric(low, high, cols)

    def _fit_asymmetric(self, low: F32, high: F32, cols: int) -> Grid:
        """The grid that reaches from low <= 0 to high >= 0, both (rows, groups)."""
        weights = cols // low.shape[1]
        # Half of each first: the difference of two large weights may overflow, its share of a step does not.
        half: F32 = np.divide(high * np.float32(0.5) - low * np.float32(0.5), np.float32(self.qmax))
        scale = stored_scales(half + half, self.scale_dtype, weights)
        zero = np.rint(-low / scale)
        # A zero point that cannot be stored moves up; the grid must then grow to reach the largest weight again.
        grown = np.maximum(scale, high / np.float32(self.qmax - self.lowest_zero))
        scale = stored_scales(np.where(zero < self.lowest_zero, grown, scale), self.scale_dtype, weights)
        return self.grid(scale, np.clip(zero, self.lowest_zero, self.qmax).astype(np.int16), cols)

    def _search(self, w: F32, importance: F32, groups: int) -> Grid:
        """The best share of the range for every group of a slab of rows."""
        cols = w.shape[1]
        best = self._fit_range(w, groups, SHRINKS[0])
        loss = _weighted_loss(w, importance, best)
        scale = best.scale
        zero = best.fields.get(ZERO)
        for share in SHRINKS[1:]:
            grid = self._fit_range(w, groups, share)
            found = _weighted_loss(w, importance, grid)
            better = found < loss
            loss = np.where(better, found, loss)
            scale = np.where(better, grid.scale, scale)
            zero = None if zero is None else np.where(better, grid.fields[ZERO], zero)
        return self.grid(scale, zero, cols)


@record
class RowInt8:
    """LLM.int8() weights (arXiv 2208.07339): codes -127..127 and the largest magnitude of each row as float32."""

    @property
    def bits(self) -> int:
        return 8

    @property
    def traits(self) -> Traits:
        return Traits(type="int8-rows", bits=8, word="int8", words="w8 LLM.int8()")

    def grid(self, absmax: F32) -> Grid:
        """The grid of rows with largest magnitudes float32 (rows, 1)."""
        scale = stored_scales(absmax / np.float32(127), "F32", 1)
        return Grid(scale, None, -127, 127, fields={ABSMAX: np.array(absmax, np.float32)})

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid whose largest code is the largest magnitude of each row. Ignores importance."""
        require_finite(w)
        return self.grid(np.abs(w).max(axis=1, keepdims=True))

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """Codes as bitsandbytes' int8_vectorwise_quant chooses them: nearest to w times (1 / absmax) * 127."""
        grid = self.fit(w)
        absmax = np.maximum(grid.fields[ABSMAX], np.float32(2.0**-120))
        # torch divides a number by a tensor with a reciprocal: rounded twice.
        inverse = np.float32(1) / absmax * np.float32(127)
        return Quantized(np.clip(np.rint(w * inverse), -127, 127).astype(np.int16), grid)

    def target(self, cols: int) -> Target:
        """Of a whole matrix."""
        return whole_target(self)


def _weighted_loss(w: F32, importance: F32, grid: Grid) -> F32:
    """Weighted square error of rounding every group of w (rows, cols), float32 (rows, groups)."""
    rows, cols = w.shape
    error = grid.values(nearest(w, grid)) - w
    groups = grid.scale.shape[1]
    loss: F32 = (error * error * importance).reshape(rows, groups, cols // groups).sum(axis=2)
    return loss
