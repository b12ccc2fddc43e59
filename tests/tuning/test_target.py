"""Targets as people write them, and the bounds that hints name."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.tuning.target import above, below, parse_target


@pytest.mark.parametrize("value", [4.5, 5.0, 1e-5, 0.0012345678, 4.123456789])
def test_a_bound_is_told_as_it_was_asked_for(value: float) -> None:
    for target in (parse_target(None, value, None), parse_target(None, None, value)):
        assert target is not None
        assert float(target.text) == target.value == value
        assert target.text == f"{value:g}" or value not in (4.5, 5.0, 1e-5)


def test_bounds_of_hints_lie_on_the_right_side() -> None:
    for value in 10 ** np.random.default_rng(3).uniform(-9, 3, 200):
        low, high = float(below(value)), float(above(value))
        assert low <= value <= high
        assert high <= 1.101 * value
        assert low >= value / 1.101
