"""Affine integers of MLX: a scale and a bias for each group, so that zero and the outermost weight are both exact."""

from __future__ import annotations

import numpy as np

from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import (
    Quantized,
    ScaleDtype,
    Traits,
    group_count,
    require_finite,
    stored_scales,
    stored_values,
)
from quantkit.qtypes.target import Target
from quantkit.records import record
from quantkit.tensors import F32

SMALLEST_STEP = np.float32(1e-7)  # of a group whose weights are all alike: the eps of mlx


@record
class Affine:
    """Codes 0..2^b-1, `group` of which share a scale and a bias stored as `scale_dtype`: value = scale * code + bias.

    Code 0 is the weight farthest from zero, and the sign of the scale leads from there to the other end. The scale is
    then changed a little, so that zero falls on a code (mlx's `affine_quantize`).
    """

    bits: int
    group: int
    scale_dtype: ScaleDtype = "F16"

    @property
    def traits(self) -> Traits:
        return Traits(
            type="int",
            bits=self.bits,
            word=f"affine{self.bits}-g{self.group}",
            words=f"w{self.bits}g{self.group} asymmetric",
            group=self.group,
            symmetric=False,
            scale_dtype=self.scale_dtype,
            top=1 << self.bits,
        )

    @property
    def qmax(self) -> int:
        return (1 << self.bits) - 1

    def grid(self, scale: F32, bias: F32, weights_per_scale: int) -> Grid:
        """The grid of scales and biases (rows, groups), rounded to what is stored."""
        stored = stored_scales(scale, self.scale_dtype, weights_per_scale)
        return Grid(stored, stored_values(bias, self.scale_dtype, weights_per_scale), 0, self.qmax)

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The grid from each group's smallest weight to its largest. Ignores importance."""
        scale, bias = self._steps(w)
        return self.grid(scale, bias, w.shape[1] // scale.shape[1])

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """Codes as mx.quantize chooses them: with scale and bias before these are rounded to their type."""
        scale, bias = self._steps(w)
        rows, groups = scale.shape
        grid = self.grid(scale, bias, w.shape[1] // groups)
        steps = np.rint((w.reshape(rows, groups, -1) - bias[:, :, None]) / scale[:, :, None])
        return Quantized(np.clip(steps, 0, self.qmax).astype(np.int16).reshape(w.shape), grid)

    def target(self, cols: int) -> Target:
        """Groups are fitted one by one; scale and bias are rounded apart, so that no factor moves both alike."""

        def fit(w: F32, _: F32 | None) -> Grid:
            return self.fit(w)

        return Target(fit, cols // group_count(cols, self.group), by_row=True, weighs=False)

    def _steps(self, w: F32) -> tuple[F32, F32]:
        """Scale and bias of each group, float32 (rows, groups)."""
        require_finite(w)
        rows, cols = w.shape
        blocks = w.reshape(rows, group_count(cols, self.group), -1)
        low, high = blocks.min(axis=2), blocks.max(axis=2)
        below = np.abs(low) > np.abs(high)
        with np.errstate(over="ignore"):  # the difference of two large weights: no type holds such a scale
            step = np.maximum((high - low) / np.float32(self.qmax), SMALLEST_STEP)
        step = np.where(below, step, -step)
        edge = np.where(below, low, high)
        zero = np.rint(edge / step)
        moved = np.divide(edge, zero, out=np.zeros_like(edge), where=zero != 0)
        return np.where(zero != 0, moved, step), np.where(zero != 0, edge, np.float32(0))
