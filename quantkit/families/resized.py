"""A square grid of vectors brought to another size, as positions of patches are."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError
from quantkit.families.hparams import Hparams
from quantkit.families.model import Rows
from quantkit.families.parts import Open
from quantkit.families.placements import Place, Placement
from quantkit.records import record
from quantkit.tensors import F32, TensorInfo


@record
class Resized:
    """`after` by `after` rows, in between those of `tensor`, which are `before` by `before`: bilinear, the corners of
    one on those of the other. Weights and sums are float32 (torch's interpolate, align_corners=True)."""

    tensor: str
    before: int
    after: int

    @property
    def rows(self) -> int:
        return self.after**2

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return (Rows(self.tensor, 0, self.before**2),)

    @property
    def unit(self) -> int:
        return 1

    @property
    def identity(self) -> tuple[object, ...]:
        return "resized", self.tensor, self.before, self.after

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop), float32. Reads the lines of the grid that these lie between."""
        down, across = np.divmod(np.arange(start, stop), self.after)
        (upper, lower, v), (left, right, h) = self._between(down), self._between(across)
        first = int(upper[0]) * self.before
        grid = ref(self.tensor).read(first, (int(lower[-1]) + 1) * self.before)
        one = np.float32(1)
        corners = ((upper, left, (one - v) * (one - h)), (upper, right, (one - v) * h),
                   (lower, left, v * (one - h)), (lower, right, v * h))  # fmt: skip
        found = np.zeros((stop - start, grid.shape[1]), np.float32)
        for line, place, weight in corners:
            found += grid[line * self.before + place - first] * weight[:, None]
        return found

    def _between(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], F32]:
        """The two places of the source that each place lies between, and how near the second is."""
        step = np.float32(self.before - 1) / np.float32(max(self.after - 1, 1))
        exact = step * places.astype(np.float32)
        low = np.minimum(exact.astype(np.int64), self.before - 1)
        return low, np.minimum(low + 1, self.before - 1), exact - low.astype(np.float32)


def resized(side: str) -> Place:
    """A grid (1, places, width) brought to `side` (a number of the model) places each way, if it has another size.

    Raises InputError for one that is no square.
    """

    def place(info: TensorInfo, hparams: Hparams) -> Placement:
        before, after = isqrt(info.rows), hparams.size(side)
        if before**2 != info.rows or len(info.shape) != 3 or info.shape[0] != 1:
            what = f'tensor "{info.name}" of shape {list(info.shape)} is no square of positions'
            raise InputError(what, tensor=info.name, hint="is it of another model than config.json?")
        if before == after:
            return Placement(info.shape, (Rows(info.name, 0, info.rows),))
        return Placement((1, after**2, info.cols), (Resized(info.name, before, after),))

    return place
