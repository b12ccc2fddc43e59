"""The middle of a text of many kinds: what most of it loses.

A text of another kind than that of the calibration is one of many, and windows of many kinds lose very different
amounts: a script that a model was not trained on can lose more than all others together, and then the mean tells of
that one alone. The mean of the middle half of the windows (the interquartile mean) is near all kinds but the extreme.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

ASIDE = 4  # one window in so many is put aside on either side


def middle(values: F64) -> Mask:
    """Which windows are left, bool (windows,), when the quarter with the smallest values and that with the largest are
    put aside; all of fewer than ASIDE."""
    aside, found = len(values) // ASIDE, np.zeros(len(values), bool)
    found[np.argsort(values, kind="stable")[aside : len(values) - aside]] = True
    return found


def standard_error(values: F64, counted: Mask) -> float | None:
    """That of the mean of the values which count, all or the middle ones: what was put aside is held to the nearest of
    these (Tukey and McLaughlin 1963; Winsorized variance). None for one value."""
    count = len(values)
    if count < 2:
        return None
    kept = values[counted]
    held = values.clip(kept.min(), kept.max())
    return float(held.std(ddof=1)) * sqrt(count) / len(kept)
