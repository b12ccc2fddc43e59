"""What coordinate descent and the refit of scales leave behind, against float64 and a plain loop."""

from __future__ import annotations

from dataclasses import replace

import layers
import numpy as np
import pytest

from quantkit.methods.columns.descent import descend_slab
from quantkit.methods.columns.grids import lookup
from quantkit.methods.columns.refit import Segment, owned, refit
from quantkit.methods.columns.sweeps import Sweep, nearest_slab
from quantkit.methods.gptq import prepare
from quantkit.methods.settings import Settings, in_turn
from quantkit.qtypes import base as qtypes
from quantkit.qtypes.search.feedback import descend
from quantkit.qtypes.search.refitting import nearest_half
from quantkit.qtypes.target import type_target

REFITTED = [name for name in layers.TYPES if qtypes.get(name).units is not None]
LAYER = layers.layer(rows=9, cols=256)


def symmetric(n: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((4 * n, n)).astype(np.float32)
    return x.T @ x / np.float32(4 * n)


def start(name: str) -> tuple[Sweep, Segment, object, np.ndarray]:
    """A matrix as its encoder rounds it: the sweep, all columns as one segment, its grid, the damped Hessian."""
    target = type_target(qtypes.get(name))
    ready = prepare(LAYER, target, Settings(), in_turn)
    importance = LAYER.hessian.diagonal().numpy()
    sweep = Sweep(
        LAYER.weight, target, Settings(), ready.factor, ready.columns.visited, damped=ready.damped,
        importance=importance,
    )  # fmt: skip
    slab = nearest_slab(sweep, slice(0, len(LAYER.weight)))
    hessian = ready.damped.corner(0, 256)
    levels = slab.codes.astype(np.float32) if slab.grid.levels is None else slab.grid.levels[slab.codes]
    segment = Segment(0, levels, (LAYER.weight - slab.values) @ hessian, hessian)
    return sweep, segment, owned(slab.grid), hessian


def decoded(grid, levels: np.ndarray) -> np.ndarray:
    found = lookup(grid, len(levels))
    width = levels.shape[1] // found.scale.shape[1]
    values = levels * np.repeat(found.scale, width, axis=1)
    return values + np.repeat(found.offset, width, axis=1) if found.offset.size else values


def losses(values: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    e = LAYER.weight.astype(np.float64) - values
    return np.einsum("ri,ij,rj->r", e, hessian.astype(np.float64), e)


def test_units_are_rounded_as_float16_is():
    rng = np.random.default_rng(0)
    x = np.exp2(rng.uniform(-30, 17, 20_000)) * rng.choice([-1.0, 1.0], 20_000)
    ties = np.concatenate([(np.arange(1, 4000) + 0.5) * 2.0**-24, (2048 + np.arange(2048) + 0.5) / 8])
    x = np.concatenate([x, ties, [0.0, -0.0, 65504, 65519.99, 65520, -65520, 2.0**-14, 2.0**-25]]).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    assert np.array_equal([nearest_half(one) for one in x], expected)


@pytest.mark.parametrize("name", REFITTED)
def test_a_refit_says_what_it_gained_and_leaves_the_slope_of_what_it_made(name):
    sweep, segment, grid, hessian = start(name)
    before = losses(decoded(grid, segment.levels), hessian)
    gained = refit(sweep.target.units, grid, sweep.target.span, segment)
    values = decoded(grid, segment.levels)
    after = losses(values, hessian)
    assert gained.min() >= 0 and (gained > 0).sum() > 4
    assert after == pytest.approx(before - gained, rel=2e-4)
    exact = (LAYER.weight.astype(np.float64) - values) @ hessian
    assert np.abs(segment.slope - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("name", REFITTED)
def test_refitted_scales_are_what_the_type_stores(name):
    sweep, segment, grid, _ = start(name)
    refit(sweep.target.units, grid, sweep.target.span, segment)
    qtype = qtypes.get(name)
    codes = nearest_slab(sweep, slice(0, len(LAYER.weight))).codes
    raw = qtype.pack(codes.reshape(-1, qtype.block), grid)
    assert np.array_equal(qtype.decode(raw, 256), decoded(grid, segment.levels))


@pytest.mark.parametrize("name", REFITTED)
def test_no_step_of_a_unit_or_a_count_is_left_that_gains_much(name):
    """After some refits, moving one unit or one count by a step makes the row worse, or hardly better."""
    sweep, segment, grid, hessian = start(name)
    for _ in range(8):
        refit(sweep.target.units, grid, sweep.target.span, segment)
    units, least = sweep.target.units, losses(decoded(grid, segment.levels), hessian)
    blocks = 256 // sweep.target.span
    for step in (-1, 1):
        for block in range(blocks):
            moved = owned(grid)
            entries = np.arange(len(LAYER.weight)) * blocks + block
            unit = moved.fields[units.scale.unit]
            unit[entries] = np.nextafter(unit[entries], np.float16(np.inf * step))
            count = moved.fields[units.scale.count] if units.scale.count else 1
            moved.scale[:] = unit.astype(np.float32)[:, None] * count * units.scale.factor
            assert (losses(decoded(moved, segment.levels), hessian) > least * (1 - 2e-3)).all()
            if units.scale.count:
                moved = owned(grid)
                unit = grid.fields[units.scale.unit][entries].astype(np.float32) * units.scale.factor
                counted = grid.fields[units.scale.count][entries, 3].astype(np.float32) + step
                allowed = (counted >= units.scale.low) & (counted <= units.scale.high)
                moved.scale[entries, 3] += np.where(allowed, step * unit, 0)
                assert (losses(decoded(moved, segment.levels), hessian) > least * (1 - 2e-3)).all()


def plain_descent(codes, target, hessian, table) -> np.ndarray:
    """One column after the other, every row by itself, in float64."""
    scale, offset, group, low, high, _, levels, known = table
    codes = codes.copy()
    for r in range(len(codes)):
        for k in range(codes.shape[1]):

            def value(code, r=r, k=k):
                level = float(code) if not levels.size else float(levels[np.flatnonzero(known == code)[0]])
                return level * float(scale[r, group[k]]) + (float(offset[r, group[k]]) if offset.size else 0.0)

            e = np.array([target[r, j] - value(codes[r, j], r, j) for j in range(codes.shape[1])])
            bottom = value(codes[r, k]) + (e @ hessian[:, k]) / hessian[k, k]
            choices = known if levels.size else np.arange(int(low), int(high) + 1)
            codes[r, k] = min(choices, key=lambda code: abs(value(code) - bottom))
    return codes


@pytest.mark.parametrize("n", [1, 16, 37])
@pytest.mark.parametrize("book", [False, True])
def test_descent_is_a_plain_loop_over_columns(n, book):
    rng, hessian = np.random.default_rng(n), symmetric(n)
    target = rng.standard_normal((5, n)).astype(np.float32)
    groups = np.arange(n) // 16
    scale = rng.uniform(0.1, 0.4, (5, groups[-1] + 1)).astype(np.float32)
    offset = np.zeros((0, 0), np.float32) if book else rng.uniform(-0.2, 0.2, scale.shape).astype(np.float32)
    levels = np.array([-7, -4, -2, -1, 0, 1, 3, 6], np.float32) if book else np.zeros(0, np.float32)
    known = np.array([3, 1, 0, 2, 7, 5, 4, 6], np.int16) if book else np.zeros(0, np.int16)
    middles = (levels[:-1] + levels[1:]) / np.float32(2)
    table = (scale, offset, groups, np.float32(-8), np.float32(7), middles, levels, known)
    codes = rng.integers(0, 8, (5, n)).astype(np.int16) - np.int16(0 if book else 4)
    level = np.empty((5, n), np.float32)
    level[:] = levels[np.argsort(known)[codes]] if book else codes
    values = level * scale[:, groups] + (offset[:, groups] if offset.size else np.float32(0))
    expected, before = plain_descent(codes, target, hessian.astype(np.float64), table), values.copy()
    gain = np.empty(5, np.float32)
    descend(level, np.ascontiguousarray((target - values) @ hessian), hessian, table, values, codes, gain)
    assert np.array_equal(codes, expected)
    loss = [np.einsum("ri,ij,rj->r", target - v, hessian, target - v) for v in (before, values)]
    assert gain == pytest.approx(loss[0] - loss[1], rel=1e-3, abs=1e-5)


def test_a_row_comes_out_the_same_beside_others():
    sweep, segment, grid, hessian = start("q4_k")
    whole = descend_slab(sweep, nearest_slab(sweep, slice(0, 9)), slice(0, 9))
    refit(sweep.target.units, grid, 256, segment)
    for r in (0, 8):
        _, one, alone, _ = start("q4_k")
        row = replace(alone, scale=alone.scale[r : r + 1], offset=alone.offset[r : r + 1],
                      fields={key: value[r : r + 1] for key, value in alone.fields.items()})  # fmt: skip
        part = Segment(0, one.levels[r : r + 1], one.slope[r : r + 1], hessian)
        refit(sweep.target.units, row, 256, part)
        assert np.array_equal(row.fields["sc"], grid.fields["sc"][r : r + 1])
    assert (whole.loss <= nearest_slab(sweep, slice(0, 9)).loss).all()
