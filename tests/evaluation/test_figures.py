"""Estimates against simulations and closed forms."""

from __future__ import annotations

import json
from math import isfinite

import numpy as np
import pytest

from quantkit.evaluation.figures import estimate, exponential, share, student, upper_quantile


def test_the_error_is_that_of_resampled_documents() -> None:
    random = np.random.default_rng(7)
    clusters = np.repeat(np.arange(60), random.integers(5, 80, 60))
    values = random.normal(size=60)[clusters] + random.normal(size=len(clusters))
    found = estimate(values, clusters)
    sums, counts = np.bincount(clusters, values), np.bincount(clusters)
    drawn = [random.integers(0, 60, 60) for _ in range(4000)]
    means = [sums[pick].sum() / counts[pick].sum() for pick in drawn]
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(np.std(means), rel=0.1)  # 4,000 resamples: 1 %; linearization: the rest
    naive = values.std() / np.sqrt(len(values))
    assert found.error is not None
    assert found.error > 2 * naive  # what tokens taken for independent would claim


def test_bounds_hold_as_often_as_they_say() -> None:
    random, below = np.random.default_rng(3), 0
    clusters = np.repeat(np.arange(12), 20)
    for _ in range(600):
        values = random.normal(size=12)[clusters] + random.normal(size=240)
        below += estimate(values, clusters).high > 0
    assert 0.92 < below / 600 < 0.98


@pytest.mark.parametrize(("freedom", "expected"), [(1, 6.314), (5, 2.015), (11, 1.796), (30, 1.697), (1000, 1.646)])
def test_students_quantile(freedom: int, expected: float) -> None:
    assert student(freedom) == pytest.approx(expected, abs=2e-3)


def test_a_perfect_score_of_few_tokens_proves_little() -> None:
    few = share(np.ones(20, np.bool_), np.arange(20) // 2)
    many = share(np.ones(20_000, np.bool_), np.arange(20_000) // 100)
    assert few.low < 0.9 < 0.999 < many.low < 1.0
    assert few.high == many.high == 1.0


def test_quantiles_are_bounded_from_above_and_always_the_same() -> None:
    random = np.random.default_rng(5)
    clusters = np.repeat(np.arange(40), 50)
    values = random.exponential(size=2000) * (1 + random.random(40))[clusters]
    bound = upper_quantile(values, clusters, 0.99)
    assert np.quantile(values, 0.99) < bound < values.max() * 1.01
    assert bound == upper_quantile(values, clusters, 0.99)


def test_a_ruined_model_still_has_finite_figures() -> None:
    found = exponential(estimate(np.full(10, 5000.0), np.arange(10)))
    assert isfinite(found.value)
    json.dumps(found.as_json(), allow_nan=False)
