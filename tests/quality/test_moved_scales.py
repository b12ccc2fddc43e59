"""Weights whose scales were moved between layers: near up to factors of rows and columns, unless they are others."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.qtypes.schemes.integers import Integers
from quantkit.quality.tensor_errors import compare, compare_moved, floor_of_bits
from quantkit.tensors import F32


def moved(seed: int = 0) -> tuple[F32, F32]:
    """A weight with columns and rows of several sizes, and the same after scales have moved."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((96, 256)) * np.exp(rng.normal(0, 0.5, 256)) * np.exp(rng.normal(0, 0.5, (96, 1)))
    factors = np.exp(rng.normal(0, 1, 256)), np.exp(rng.normal(0, 1, (96, 1)))
    return w.astype(np.float32), (w * factors[0] * factors[1]).astype(np.float32)


@pytest.mark.parametrize(("bits", "group"), [(8, -1), (4, 64), (3, 64), (2, 64)])
def test_factors_of_rows_and_columns_count_for_nothing(bits: int, group: int) -> None:
    before, after = moved()
    rounded = Integers(bits, group, "asymmetric").encode(after).values()
    ideal = compare("", "", after, rounded).snr_db
    assert abs(compare_moved("", "", before, rounded).snr_db - ideal) < 1.5  # rows count alike, factors take some up
    assert compare("", "", before, rounded).snr_db < 0
    others = (moved(1)[1], rounded[:, ::-1], np.roll(rounded, 1, axis=0), np.roll(rounded, 1, axis=1), -rounded)
    for wrong in others:
        assert compare_moved("", "", before, np.ascontiguousarray(wrong)).snr_db < floor_of_bits(bits)


def test_exact_ones_and_rows_that_are_gone() -> None:
    before, after = moved()
    assert compare_moved("", "", before, before).snr_db == np.inf
    assert compare_moved("", "", before, after).snr_db > 50
    assert compare_moved("", "", before, np.zeros_like(after)).snr_db == 0
    half = after.copy()
    half[:48] = 0
    assert compare_moved("", "", before, half).snr_db < 6
