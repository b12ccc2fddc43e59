"""Rows that are fed back: what makes up for errors, what that costs on every target, and when it is not done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import layers
import numpy as np
import pytest
import torch

from quantkit.methods import base, gptq
from quantkit.methods.columns.steps import DAMPING, STEP, row_order
from quantkit.methods.settings import DEFAULTS, Order, Settings, in_turn

GPTQ = base.get("gptq")
LAYER = layers.layer(rows=100, cols=256)
ROWS = len(LAYER.weight)
SPANNED = tuple(name for name, made in layers.TARGETS.items() if made(256).span)

COARSE = {"q1_0", "q2_0", "tq1_0", "tq2_0"}


def gram(rows: int, *, rank: int = 6, seed: int = 3) -> torch.Tensor:
    """Gradients that lie mostly in a few directions, as those of a head of attention do."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((400, rank)) @ rng.standard_normal((rank, rows))
    noise = 0.1 * rng.standard_normal((400, rows)) * np.exp(rng.standard_normal(rows) / 2)
    gradients = torch.from_numpy(directions + noise).float()
    return gradients.T @ gradients


def damped(matrix: torch.Tensor, damping: float) -> np.ndarray:
    """A matrix of mean diagonal one, with its damping, float64."""
    exact = matrix.double().numpy()
    return exact / np.diagonal(exact).mean() + damping * np.eye(len(exact))


def cost(errors: np.ndarray, outputs: tuple[torch.Tensor, ...]) -> float:
    """trace(G E H E^T), by numpy, H in its own units."""
    hessian = LAYER.hessian.double().numpy()
    exact = damped(LAYER.hessian, DEFAULTS.damping) * np.diagonal(hessian).mean()
    total, start = 0.0, 0
    for block in outputs:
        own = errors[start : start + len(block)].astype(np.float64)
        total += float(((damped(block, DAMPING) @ own @ exact) * own).sum())
        start += len(block)
    return total


def halves() -> tuple[torch.Tensor, ...]:
    """Two blocks, of which the second does not divide into steps."""
    return gram(ROWS // 2 + 3), gram(ROWS - ROWS // 2 - 3, seed=4)


@pytest.mark.parametrize("rows", [5, STEP, 2 * STEP + 5])
def test_a_step_makes_up_for_the_errors_before_it(rows: int) -> None:
    """What is added is what a solver finds: the errors of all rows that are left, best beside those that are there."""
    [block] = row_order((gram(rows, rank=1),), in_turn, "x").blocks
    exact, errors = block.gram.double().numpy(), np.random.default_rng(0).standard_normal((rows, 7)).astype(np.float32)
    for step in block.steps():
        before, left = slice(0, step.start), slice(step.start, rows)
        best = -np.linalg.solve(exact[left, left], exact[left, before] @ errors[before])[: step.stop - step.start]
        assert block.made_up(errors, step) == pytest.approx(-best, rel=1e-3, abs=1e-4)


def test_errors_that_are_left_are_spread_from_those_that_steps_make() -> None:
    outputs = (gram(70), gram(50, seed=4))
    order = row_order(outputs, in_turn, "x")
    own, left = np.random.default_rng(1).standard_normal((120, 5)).astype(np.float32), np.zeros((120, 5), np.float32)
    for turn in order.turns():
        for block, step in turn:
            rows = slice(block.start + step.start, block.start + step.stop)
            left[rows] = own[order.order[rows]] - block.made_up(left[block.rows], step)
    placed = np.empty_like(left)
    placed[order.order] = left
    assert (torch.block_diag(*order.spread()).numpy() @ own) == pytest.approx(placed, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", SPANNED)
def test_rows_that_are_fed_back_cost_less_and_the_report_says_what(name: str) -> None:
    """On every target, by an independent sum; less than feedback over columns alone, and than the type's encoder. Types
    whose errors are too large to be made up for are rounded as they were."""
    outputs, target = halves(), layers.TARGETS[name](256)
    found = GPTQ.quantize(replace(LAYER, outputs=outputs), target, DEFAULTS, in_turn)
    plain = GPTQ.quantize(LAYER, target, DEFAULTS, in_turn)
    if name in COARSE:
        assert np.array_equal(found.codes, plain.codes) and found.report == plain.report
        return
    ours, columns = (cost(LAYER.weight - one.values(), outputs) for one in (found, plain))
    assert ours < 0.8 * columns
    assert found.report.fed and not plain.report.fed
    assert found.report.loss == pytest.approx(ours, rel=1e-3)
    assert found.report.loss <= found.report.rounding_loss


@pytest.mark.parametrize("name", ["q4_k", "iq4_nl", "int4-g128"])
def test_the_loss_of_rounding_is_that_of_the_encoder(name: str) -> None:
    outputs, target = halves(), layers.TARGETS[name](256)
    squares = LAYER.hessian.diagonal().numpy()
    found = GPTQ.quantize(replace(LAYER, outputs=outputs), target, DEFAULTS, in_turn)
    if target.encode is not None:
        codes, grid = target.encode(LAYER.weight, squares)
        plain = base.Rounded(codes, grid)
    else:
        plain = base.get("rtn").quantize(LAYER, target, DEFAULTS, in_turn)
    assert found.report.rounding_loss == pytest.approx(cost(LAYER.weight - plain.values(), outputs), rel=1e-3)


@pytest.mark.parametrize("order", Order)
def test_any_order_of_columns_goes_with_it(order: Order) -> None:
    outputs, target = halves(), layers.TARGETS["int4-g128"](256)
    found = GPTQ.quantize(replace(LAYER, outputs=outputs), target, Settings(order=order, passes=1), in_turn)
    assert found.report.loss == pytest.approx(cost(LAYER.weight - found.values(), outputs), rel=1e-3)


def test_blocks_that_lose_are_rounded_as_the_encoder_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feedback that is wrong, here of the other sign, costs more than none: the loss notices."""
    from quantkit.methods.columns import steps

    outputs, target = halves(), layers.TARGETS["q4_k"](256)
    right = steps.Block.made_up
    monkeypatch.setattr(gptq, "FARTHEST", np.inf)
    monkeypatch.setattr(steps.Block, "made_up", lambda self, errors, step: -20 * right(self, errors, step))
    found = GPTQ.quantize(replace(LAYER, outputs=outputs), target, DEFAULTS, in_turn)
    codes, _ = target.encode(LAYER.weight, LAYER.hessian.diagonal().numpy())
    assert np.array_equal(found.codes, codes.reshape(found.codes.shape))
    assert found.report.loss == pytest.approx(found.report.rounding_loss)


@pytest.mark.parametrize("even", [torch.eye(ROWS), torch.zeros(ROWS, ROWS), gram(ROWS, rank=4 * ROWS)])
def test_gradients_without_structure_change_nothing(even: torch.Tensor) -> None:
    target = layers.TARGETS["q4_0"](256)
    found = GPTQ.quantize(replace(LAYER, outputs=(even,)), target, DEFAULTS, in_turn)
    plain = GPTQ.quantize(LAYER, target, DEFAULTS, in_turn)
    assert np.array_equal(found.codes, plain.codes) and found.report == plain.report
    assert row_order((even,), in_turn, "x") is None and row_order((gram(ROWS),), in_turn, "x") is not None


def test_rows_that_nothing_reads_are_rounded_all_the_same() -> None:
    outputs = (gram(ROWS - 20), torch.zeros(20, 20))
    target = layers.TARGETS["q4_0"](256)
    found = GPTQ.quantize(replace(LAYER, outputs=outputs), target, DEFAULTS, in_turn)
    plain = GPTQ.quantize(LAYER, target, DEFAULTS, in_turn)
    ours, theirs = (np.square(LAYER.weight - one.values())[-20:].sum() for one in (found, plain))
    assert ours == pytest.approx(theirs, rel=0.1)


def test_rows_without_structure_are_rounded_by_themselves_beside_those_that_have_some() -> None:
    """Queries and values in one matrix: values come out as they do without."""
    both = torch.block_diag(gram(64), 30 * gram(36, rank=400))
    both[:64, 64:] = both[64:, :64] = 0.3 * both.diagonal().mean()
    target = layers.TARGETS["int4-g128"](256)
    found = GPTQ.quantize(replace(LAYER, outputs=(both,)), target, DEFAULTS, in_turn)
    plain = GPTQ.quantize(LAYER, target, DEFAULTS, in_turn)
    assert found.report.fed
    assert (found.codes[64:] == plain.codes[64:]).all(1).mean() > 0.9  # a product of few rows may be summed otherwise
    assert (found.codes[:64] == plain.codes[:64]).all(1).mean() < 0.3  # the rows of the first step are


def test_a_column_without_inputs_keeps_its_weights() -> None:
    hessian = LAYER.hessian.clone()
    hessian[7], hessian[:, 7] = 0, 0
    layer, target = replace(LAYER, hessian=hessian), layers.TARGETS["int8-row"](256)
    found, plain = (GPTQ.quantize(replace(layer, outputs=o), target, DEFAULTS, in_turn) for o in (halves(), ()))
    ours, theirs = (np.abs(one.values() - LAYER.weight)[:, 7].max() for one in (found, plain))
    assert found.report.dead == 1 and ours == pytest.approx(theirs, rel=0.5)
    assert ours < np.abs(LAYER.weight).max() / 127


def test_errors_as_large_as_the_weights_are_not_fed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types of one bit: what makes up for their errors would leave nothing that is like the weights."""
    target = layers.TARGETS["q1_0"](256)
    steep = tuple(torch.ones(50, 50) + 1e-3 * torch.eye(50) for _ in range(2))
    found = GPTQ.quantize(replace(LAYER, outputs=steep), target, DEFAULTS, in_turn)
    plain = GPTQ.quantize(LAYER, target, DEFAULTS, in_turn)
    monkeypatch.setattr(gptq, "FARTHEST", np.inf)
    far = GPTQ.quantize(replace(LAYER, outputs=steep), target, DEFAULTS, in_turn)
    assert np.square(far.values() - LAYER.weight).sum() > np.square(LAYER.weight).sum() / 2
    assert far.report.fed and not found.report.fed and np.array_equal(found.codes, plain.codes)


@pytest.mark.parametrize("size", [1e-24, 1e20])
def test_structure_has_no_size(size: float) -> None:
    assert row_order((torch.eye(64) * size,), in_turn, "x") is None
    assert row_order((torch.ones(64, 64) * size,), in_turn, "x") is not None


def test_a_grid_of_the_whole_matrix_has_no_rows_of_its_own() -> None:
    target = layers.TARGETS["fp8-tensor"](256)
    found = GPTQ.quantize(replace(LAYER, outputs=halves()), target, DEFAULTS, in_turn)
    assert not found.report.fed


def test_the_size_of_gradients_changes_nothing() -> None:
    target = layers.TARGETS["q4_k"](256)
    one, other = (
        GPTQ.quantize(replace(LAYER, outputs=tuple(g * size for g in halves())), target, DEFAULTS, in_turn)
        for size in (1.0, 2.0**-40)
    )
    assert np.array_equal(one.codes, other.codes)
    assert other.report.loss == pytest.approx(one.report.loss)


@pytest.mark.parametrize("name", ["q4_k", "int4-g128"])
def test_codes_do_not_depend_on_threads(name: str) -> None:
    layer = replace(layers.layer(rows=150, cols=256), outputs=(gram(100), gram(50, seed=4)))
    target, before, found = layers.TARGETS[name](256), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(GPTQ.quantize(layer, target, DEFAULTS, in_turn))
            with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                found.append(
                    GPTQ.quantize(layer, target, DEFAULTS, lambda f, items, pool=pool: list(pool.map(f, items)))
                )
    finally:
        torch.set_num_threads(before)
    assert len({(r.codes.tobytes(), r.grid.scale.tobytes(), r.report) for r in found}) == 1
