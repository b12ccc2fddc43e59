"""Types under a budget, against trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from quantkit.tuning.allocate import (
    Chosen,
    Fronts,
    Option,
    allocate,
    cheapest,
    least_bytes,
    total_bytes,
    total_loss,
)

BITS = (2.625, 3.4375, 4.25, 4.5, 5.5, 6.5625, 8.5)


def random_fronts(rng: np.random.Generator) -> dict[str, list[Option]]:
    """Up to five tensors with up to four types, sizes that meet often, losses that do not always fall."""
    return {
        f"t{k}": [
            Option(str(j), 32 * int(rng.integers(1, 40)), float(rng.random())) for j in range(int(rng.integers(1, 5)))
        ]
        for k in range(int(rng.integers(1, 6)))
    }


def tried(fronts: Fronts, key: Callable[[Chosen], float], allowed: Callable[[Chosen], bool]) -> float | None:
    every = (dict(zip(fronts, choice, strict=True)) for choice in itertools.product(*fronts.values()))
    return min((key(chosen) for chosen in every if allowed(chosen)), default=None)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_beats_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fronts = random_fronts(rng)
    budget = 32 * int(rng.integers(1, 40 * len(fronts)))
    best = tried(fronts, total_loss, lambda chosen: total_bytes(chosen) <= budget)
    found = allocate(fronts, budget)
    assert (found is None) == (best is None)
    if found is not None:
        assert total_bytes(found) <= budget
        assert total_loss(found) == pytest.approx(best, rel=1e-12)
    bound = float(rng.random() * len(fronts))
    best = tried(fronts, total_bytes, lambda chosen: total_loss(chosen) <= bound)
    found = cheapest(fronts, bound)
    assert (found is None) == (best is None)
    if found is not None:
        assert total_bytes(found) == best
        assert total_loss(found) <= bound * (1 + 1e-9)


def large(count: int = 291) -> dict[str, list[Option]]:
    """The shapes of an 8B model, what types cost falling by four a bit, more or less."""
    rng = np.random.default_rng(7)
    found = {}
    for k in range(count):
        weights = (4096 * 4096, 4096 * 1024, 4096 * 14336)[k % 3]
        price = weights * 10 ** rng.normal()
        found[f"t{k}"] = [
            Option(str(b), int(weights * b / 8), float(price * 4**-b * rng.uniform(0.8, 1.2))) for b in BITS
        ]
    return found


@pytest.mark.parametrize("times", [1.02, 1.4, 2.0, 2.9])
def test_large_models_land_at_the_budget_and_near_the_bound(times: float) -> None:
    """Within a thousandth of the bytes, and of what no choice can beat: the Lagrangian's bound at the best price."""
    fronts = large()
    budget = int(least_bytes(fronts) * times)
    found = allocate(fronts, budget)
    assert found is not None
    assert 0.999 * budget <= total_bytes(found) <= budget
    bounds = [
        sum(min(o.loss + price * o.nbytes for o in options) for options in fronts.values()) - price * budget
        for price in np.logspace(-4, 3, 400)
    ]
    assert total_loss(found) <= max(bounds) * 1.01
    again = cheapest(fronts, total_loss(found))
    assert again is not None
    assert total_bytes(again) <= 1.001 * total_bytes(found)


def test_more_bytes_never_lose_more() -> None:
    fronts = large(30)
    losses = [total_loss(allocate(fronts, int(least_bytes(fronts) * times)) or {}) for times in np.linspace(1, 3.2, 40)]
    assert losses == sorted(losses, reverse=True)


def test_the_same_fronts_give_the_same_choice() -> None:
    fronts = large(60)
    assert allocate(fronts, 2 * least_bytes(fronts)) == allocate(dict(fronts), 2 * least_bytes(fronts))
