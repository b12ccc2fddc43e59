"""The middle of windows of many kinds: which ones count, and how sure their mean is."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.tuning.middle import middle, standard_error


@pytest.mark.parametrize(
    ("values", "counted"),
    [
        ([5.0], [0]),
        ([1.0, 900.0, 2.0], [0, 1, 2]),
        ([1.0, 900.0, 2.0, 3.0], [2, 3]),
        ([4.0, 1.0, 8.0, 900.0, 2.0, 5.0, 3.0, 0.0], [0, 4, 5, 6]),
        ([1.0, 1.0, 1.0, 1.0, 1.0], [1, 2, 3]),
    ],
)
def test_a_quarter_is_put_aside_on_either_side(values: list[float], counted: list[int]) -> None:
    assert np.flatnonzero(middle(np.array(values))).tolist() == counted


def test_the_standard_error_is_what_such_means_scatter_by() -> None:
    """Of all windows and of the middle ones, with heavy tails: over a thousand texts, whose errors are right on
    average."""
    draws = np.random.default_rng(6).standard_t(3, (1000, 32))
    for chosen in (middle, lambda values: np.ones(len(values), bool)):
        masks = [chosen(values) for values in draws]
        means = [values[mask].mean() for values, mask in zip(draws, masks, strict=True)]
        errors = [standard_error(values, mask) for values, mask in zip(draws, masks, strict=True)]
        assert np.mean(np.square(errors)) == pytest.approx(np.var(means), rel=0.2)
    assert standard_error(np.ones(1), np.ones(1, bool)) is None
    assert standard_error(np.ones(9), middle(np.ones(9))) == 0
