"""Rows that stand for all: chances that add up, and sums that are those of all rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from quantkit.filling.shares import Share
from quantkit.tuning.probes import Probe, TableRows, likely_rows, looked_at, looked_up, mixed, predicted, sampled


@pytest.mark.parametrize("count", [1, 7, 64, 200])
def test_chances_follow_counts(count: int) -> None:
    counts = np.random.default_rng(1).zipf(1.6, 1000).clip(0, 10_000).astype(np.float64)
    found = likely_rows(counts, count)
    assert len(found.rows) == pytest.approx(count, abs=1)
    assert (np.diff(found.rows) > 0).all()
    assert ((found.chances > 0) & (found.chances <= 1)).all()
    # what every row is expected to weigh is what it counts: the estimate of the sum of counts has next to no error
    assert (counts[found.rows] / found.chances).sum() == pytest.approx(counts.sum(), rel=0.02 + 1 / count)


def test_rows_without_counts_are_never_chosen() -> None:
    counts = np.zeros(50)
    counts[[3, 30]] = 5
    assert likely_rows(counts, 8).rows.tolist() == [3, 30]


def test_a_probe_of_all_rows_gives_the_sum_itself() -> None:
    """1/2 mean over tokens of the squares, computed token by token; and some rows come near it."""
    rng = np.random.default_rng(2)
    inputs, gradients = rng.standard_normal((2, 40, 16)), rng.standard_normal((2, 40, 200)) * np.linspace(1, 9, 200)
    errors = rng.standard_normal((3, 200, 16)).astype(np.float32)
    expected = np.zeros(3)
    for x, g in zip(inputs, gradients, strict=True):
        sums = np.einsum("nr,trc,nc->tr", g[:, 20:180], errors[:, 20:180], x)
        expected += np.square(sums).sum(1) / (2 * 80)
    flat = [torch.from_numpy(a.reshape(80, -1)).float() for a in (inputs, gradients)]
    share, norms = Share("x", 20, 180), np.full(160, 16.0)
    whole = Probe("u", share, np.arange(160), torch.from_numpy(errors[:, 20:180]), norms, 1.0)
    assert whole.cost(whole.squares(*flat, parts=2), 80) == pytest.approx(expected, rel=1e-4)
    rows = sampled(160, 64)
    some = Probe("u", share, rows, torch.from_numpy(errors[:, 20 + rows]), norms, 1.0)
    assert some.cost(some.squares(*flat, parts=2), 80) == pytest.approx(expected, rel=0.25)
    assert whole.cost(np.zeros((2, whole.width)), 80) == pytest.approx(0)
    # a part alone, and both
    one = whole.squares(*(part[:40] for part in flat), parts=1)
    assert whole.squares(*flat, parts=2)[:1] == pytest.approx(one, rel=1e-5)


def test_errors_that_are_fed_back_over_rows_cost_what_is_left_of_them() -> None:
    """Rows that make errors N by themselves leave E = T N: on average over N, that is what is measured; types that are
    not fed back cost what they did."""
    rng = np.random.default_rng(4)
    rows, cols, tokens = 24, 8, 60
    inputs, gradients = rng.standard_normal((tokens, cols)), rng.standard_normal((tokens, rows))
    spread = np.eye(rows) + np.tril(rng.standard_normal((rows, rows)), -1) / 4
    noise = rng.standard_normal((400, rows, cols))
    products = gradients.T @ inputs
    left = np.square(np.einsum("rc,nrc->n", products, spread @ noise)).mean() / (2 * tokens)
    alone = np.square(np.einsum("rc,nrc->n", products, noise)).mean() / (2 * tokens)
    probe = Probe(
        "u", Share("x", 0, rows), np.arange(rows), torch.from_numpy(noise[:2]).float(), np.full(rows, 1.0), 1.0,
        (torch.from_numpy(spread).float(),), np.array([True, False]),
    )  # fmt: skip
    flat = [torch.from_numpy(a).float() for a in (inputs, gradients)]
    found = []
    for pair in noise.reshape(-1, 2, rows, cols):
        one = replace(probe, errors=torch.from_numpy(pair).float())
        found.append(one.cost(one.squares(*flat, parts=1), tokens))
    assert np.mean(found, 0) == pytest.approx([left, alone], rel=0.15)
    assert left > 1.5 * alone


def test_an_embedding_counts_each_row_in_each_sample() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 12, (3, 30)).astype(np.int32)
    gradients = rng.standard_normal((3, 30, 8))
    errors = rng.standard_normal((2, 12, 8)).astype(np.float32)
    expected = np.zeros((3, 2))
    for sample, ids, g in zip(expected, tokens, gradients, strict=True):
        for row in range(12):
            sample += np.square(errors[:, row] @ g[ids == row].sum(0))
    table = likely_rows(np.ones(12), 12)
    assert looked_up(errors, table, tokens, torch.from_numpy(gradients)) == pytest.approx(expected, rel=1e-5)


def test_a_few_rows_of_an_embedding_chosen_by_their_gradients_tell_of_all() -> None:
    """Of a thousand rows that are looked up once, some cost a hundred times as much as others: no number of occurrences
    knows which."""
    rng = np.random.default_rng(5)
    tokens = np.stack([rng.permutation(2000)[:500] for _ in range(2)]).astype(np.int32)
    gradients = rng.standard_normal((2, 500, 8)) * np.exp(2 * rng.standard_normal((2, 500, 1)))
    errors, given = rng.standard_normal((1, 2000, 8)).astype(np.float32), torch.from_numpy(gradients)
    everything = looked_up(errors, likely_rows(np.ones(2000), 2000), tokens, given).sum()
    rows, squares = looked_at(tokens, given)
    assert rows.tolist() == sorted({*tokens.ravel().tolist()})
    both = np.flatnonzero(tokens[1] == tokens[0, 3])
    expected = sum(np.square(g).sum() for g in (gradients[0, 3], *gradients[1, both]))
    assert squares[rows == tokens[0, 3]] == pytest.approx(expected)
    some = likely_rows(mixed(squares), 100)
    found = looked_up(errors[:, rows[some.rows]], TableRows(rows[some.rows], some.chances), tokens, given).sum()
    assert found == pytest.approx(everything, rel=0.15)
    assert mixed(np.zeros(4)).tolist() == [0.0625] * 4


def test_a_head_weighs_rows_by_what_it_predicts() -> None:
    """p (1 - p) is the diagonal of the covariance: KL of errors of single rows, to second order."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(50, 9, generator=generator, dtype=torch.float64)
    inputs = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    errors = 1e-3 * torch.randn(1, 9, 5, generator=generator, dtype=torch.float64)
    p = logits.softmax(-1)
    found = predicted(errors, inputs, p * (1 - p))
    for row in range(9):
        moved = logits.clone()
        moved[:, row] += inputs @ errors[0, row]
        log, other = logits.log_softmax(-1), moved.log_softmax(-1)
        assert found[0, row] / 2 == pytest.approx(float((log.exp() * (log - other)).sum()), rel=1e-2)
