"""Scales for codes that are chosen afterwards: both signs and finer steps than the reference encoders try."""

from __future__ import annotations

import numpy as np
import pytest
import weights
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import NonFiniteError
from quantkit.methods.columns.grids import lookup
from quantkit.methods.columns.pieces import round_nearest
from quantkit.qtypes import base
from quantkit.qtypes.iq4_nl import LEVELS
from quantkit.qtypes.search import scales
from quantkit.qtypes.search.groups import whole_numbers

SEARCHED = [name for name in base.names() if base.get(name).search is not None]
F32 = np.float32


def cost(w: np.ndarray, grid: base.Grid, prices: np.ndarray) -> float:
    """What rounding to nearest on a grid costs, each column at its price."""
    errors = (w - round_nearest(w, lookup(grid, len(w)))[1]).astype(np.float64)
    return float((errors * errors * prices).sum())


def nearest(v: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return levels[np.abs(v[:, None] - levels).argmin(axis=1)]


def best(group: np.ndarray, prices: np.ndarray, levels: np.ndarray) -> float:
    """The largest (sum p q x)^2 / sum p q q of the candidates, in float64."""
    peak = group[np.abs(group).argmax()]
    gains = []
    for end in (levels[0], levels[-1]):
        for share in scales.SHARES:
            v = group * (end * share / peak)
            q = np.rint(np.clip(v, *levels)) if len(levels) == 2 else nearest(v, levels)
            gains.append((prices * q * group).sum() ** 2 / (prices * q * q).sum())
    return max(gains)


def test_which_types_are_searched() -> None:
    """Those with signed scales of their own and few codes; offsets leave a scale no sign to choose."""
    assert SEARCHED == ["iq4_nl", "iq4_xs", "q3_k", "q4_0", "q5_0", "q6_k"]


@pytest.mark.parametrize("levels", [whole_numbers(-4, 3), whole_numbers(-8, 7), whole_numbers(-32, 31), LEVELS],
                         ids=["3 bits", "4 bits", "6 bits", "levels"])  # fmt: skip
def test_the_best_candidate_of_both_signs_wins(levels: np.ndarray) -> None:
    w = weights.weights("student-t", (40, 96)).reshape(-1, 16)
    prices = weights.importances(96)["spread"]
    found = scales.search_ends(w, prices, levels)
    for k, (group, scale) in enumerate(zip(w.astype(np.float64), found.astype(np.float64), strict=True)):
        own = np.resize(prices, w.size)[k * 16 : k * 16 + 16].astype(np.float64)
        v = group / scale
        q = np.rint(np.clip(v, *levels)) if len(levels) == 2 else nearest(v, levels)
        # its codes are nearest to the winner's unrefined scale: those nearest to its own do no worse
        left = (own * (group - scale * q) ** 2).sum()
        assert left <= (own * group * group).sum() - best(group, own, levels) + 1e-4 * (own * group * group).sum()


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("distribution", ["gaussian", "student-t"])
def test_it_costs_less_than_the_reference_s_scales(name: str, distribution: str) -> None:
    w, prices = weights.weights(distribution, (64, 512)), weights.importances(512)["spread"]
    qtype = base.get(name)
    assert qtype.search is not None
    assert cost(w, qtype.search(w, prices), prices) < 0.995 * cost(w, qtype.fit(w, prices), prices)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_matrix_and_its_negative_cost_the_same(name: str) -> None:
    """The reference's scales depend on which sign the largest weight has; these try both."""
    w, prices = weights.weights("gaussian", (32, 512)), weights.importances(512)["smooth"]
    qtype = base.get(name)
    assert qtype.search is not None
    one, other = qtype.search(w, prices), qtype.search(-w, prices)
    assert cost(w, one, prices) == pytest.approx(cost(-w, other, prices), rel=1e-3)


@pytest.mark.parametrize("name", SEARCHED)
@given(rows=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_rows_are_searched_independently(name: str, rows: int, seed: int) -> None:
    w, prices = weights.weights("gaussian", (rows, 256), seed), weights.importances(256)["smooth"]
    search = base.get(name).search
    assert search is not None
    alone = np.concatenate([search(w[k : k + 1], prices).scale for k in range(rows)])
    assert np.array_equal(search(w, prices).scale, alone)


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_zeros_and_extremes(name: str, value: float) -> None:
    """Zeros have scale zero; what float16 cannot hold is an error with its place; nothing is infinite or NaN."""
    w, prices = np.zeros((2, 512), F32), np.zeros(512, F32)
    prices[:300] = 1
    w[1, 256:] = np.linspace(-1, 1, 256, dtype=F32) * F32(value)
    search = base.get(name).search
    assert search is not None
    if value > 1:
        with pytest.raises(NonFiniteError, match="float16") as caught:
            search(w, prices)
        assert caught.value.index is not None
        assert 768 <= caught.value.index < 1024
        return
    grid = search(w, prices)
    assert np.isfinite(grid.scale).all()
    assert not grid.scale[: len(grid.scale) // 2].any()
