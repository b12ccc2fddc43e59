"""What probes saw of windows becomes costs: of all windows, or of the middle half of a text of many kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from walks import TINY, model_of, windows

from quantkit.filling.shares import Share
from quantkit.tuning.judging import Judged, Judging, Rounded
from quantkit.tuning.probes import F64, Probe, Rounder

SEQLEN = 256  # four windows are looked at together
SEEN = np.array([1.0, 2, 3, 900, 5, 7, 8, 9])  # by window
GROUPS = np.array([1.0, 1, 1, 9, 900, 0, 0, 0, 2, 3, 2, 1, 5, 4, 3, 8, 6, 6, 6, 2])  # whose sums by fours are known


def judged(*, many: bool, seen: F64 = SEEN, together: bool = False) -> Judged:
    """Of one tensor, which costs twice as much with its second type, its own, and whose rows are a third of all."""
    probe = Probe("u", Share("x", 0, 6), np.arange(2), torch.zeros(2, 2, 4), np.ones(6), 1.0)
    rounded = Rounded(Rounder(None), {"u": ("q6_k", "q4_k")}, {"u": "q4_k"}, None, None, {0: [probe]})
    text = windows(2048, count=len(seen), seqlen=SEQLEN)
    judging = Judging(model_of(TINY), rounded, text, lambda: None, many=many)
    for window in range(len(seen)):  # a window is as likely as its number says, and comes in two pieces
        for first, stop in ((0, 100), (100, SEQLEN)):
            log = torch.full((stop - first, 2048), -float(window))
            judging.head((window, first), torch.zeros(stop - first, 4), log)
    ones = np.ones(len(seen))
    found = np.column_stack([seen, 2 * seen, ones, ones, 3 * ones, 3 * ones])
    chunks = [found[first : first + 4] for first in range(0, len(found), 4)]
    judging.add(0, [{0: chunk.sum(0, keepdims=True) if together else chunk} for chunk in chunks])
    return judging.judged(None, None)  # type: ignore[arg-type]  # that of an embedding, which is not there


@pytest.mark.parametrize(("many", "counted"), [(False, SEEN), (True, [3, 5, 7, 8])])
def test_which_windows_count(many: bool, counted: list[float]) -> None:
    expected = 3 * sum(counted) / (2 * len(counted) * SEQLEN)
    assert judged(many=many).costs["u"] == pytest.approx({"q6_k": expected, "q4_k": 2 * expected})


@pytest.mark.parametrize(("many", "counted"), [(False, GROUPS), (True, [*GROUPS[:4], *GROUPS[12:]])])
def test_windows_that_cannot_be_told_apart_count_as_one(many: bool, counted: list[float]) -> None:
    """Sums of 12, 900, 8, 20 and 20: the largest and the smallest are put aside, four windows each."""
    found = judged(many=many, seen=GROUPS, together=True)
    expected = 3 * sum(counted) / (2 * len(counted) * SEQLEN)
    assert found.costs["u"] == pytest.approx({"q6_k": expected, "q4_k": 2 * expected})
    sums = GROUPS.reshape(-1, 4).sum(1)
    own = 2 * 3 * (sums.clip(12, 20) if many else sums) / (4 * 2 * SEQLEN)
    assert found.error == pytest.approx(own.std(ddof=1) * np.sqrt(5) / (3 if many else 5))
    assert found.perplexity == pytest.approx(np.exp(np.mean([*range(4), *range(12, 20)] if many else range(20))))


@pytest.mark.parametrize(("many", "counted"), [(False, range(8)), (True, [2, 4, 5, 6])])
def test_the_perplexity_is_that_of_the_windows_that_count(many: bool, counted: list[int]) -> None:
    assert judged(many=many).perplexity == pytest.approx(np.exp(np.mean(counted)))


@pytest.mark.parametrize("many", [False, True])
def test_the_error_is_that_of_its_own_type(many: bool) -> None:
    """As a share of the mean: of all windows, and of those left, what is put aside held to the nearest of them."""
    own = 2 * 3 * (SEEN.clip(3, 8) if many else SEEN) / (2 * SEQLEN)
    share = 2 if many else 1
    assert judged(many=many).error == pytest.approx(own.std(ddof=1) / np.sqrt(len(own)) * share)
    assert judged(many=many, seen=SEEN[:1]).error is None
