"""Feedback where codes of neighbouring columns are chosen together, against every vector that a type has."""

from __future__ import annotations

from dataclasses import replace

import layers
import numpy as np
import pytest
import torch

from quantkit.methods import base
from quantkit.methods.columns.order import columns
from quantkit.methods.settings import Order, Settings, in_turn
from quantkit.qtypes import base as qtypes
from quantkit.qtypes.search.lattice import points
from quantkit.qtypes.search.vectors import RUN, Vectors
from quantkit.qtypes.target import type_target

GPTQ = base.get("gptq")
NAMES = tuple(name for name in qtypes.names() if qtypes.get(name).vectors is not None)
LAYER = layers.layer(rows=6)
SWEEP_ONLY = Settings(order=Order.STORAGE, passes=0)

each_type = pytest.mark.parametrize("name", NAMES)


def vectors_of(name: str) -> Vectors:
    found = qtypes.get(name).vectors
    assert found is not None
    return found


def stored(vectors: Vectors, signs: np.ndarray) -> np.ndarray:
    """Every run of RUN levels with these signs, float64 (m, RUN)."""
    values = np.array(vectors.magnitudes, np.float64)[points(vectors.name)]
    if vectors.dims == RUN:
        return values * signs
    pairs = np.concatenate([np.repeat(values, len(values), axis=0), np.tile(values, (len(values), 1))], axis=1)
    return pairs * signs


def test_all_types_with_signs_and_points_are_served():
    assert NAMES == ("iq2_s", "iq2_xs", "iq2_xxs", "iq3_s", "iq3_xxs")


@each_type
def test_without_correlations_every_run_takes_the_nearest_point(name):
    """Of those with its signs: the weights' own, or with one turned where their number has to be even."""
    vectors = vectors_of(name)
    layer = replace(LAYER, hessian=torch.eye(512) * 7)
    found = GPTQ.quantize(layer, type_target(qtypes.get(name)), SWEEP_ONLY, in_turn)
    values = found.values().reshape(-1, RUN)
    scale = np.repeat(found.grid.scale.reshape(-1), 512 * 6 // found.grid.scale.size // RUN)
    for run in np.random.default_rng(0).choice(len(values), 12, replace=False):
        w, q = layer.weight.reshape(-1, RUN)[run].astype(np.float64), values[run]
        turned = np.flatnonzero(np.sign(q) != np.sign(w))
        assert len(turned) <= (1 if vectors.parity else 0)
        assert list(turned) in ([], [np.abs(w).argmin()])
        least = np.square(w - scale[run] * stored(vectors, np.sign(q))).sum(axis=1).min()
        assert np.square(w - q).sum() <= least * (1 + 1e-5)


@each_type
def test_signs_of_a_run_are_what_the_type_can_store(name):
    found = GPTQ.quantize(LAYER, type_target(qtypes.get(name)), Settings(), in_turn)
    negative = (found.codes < len(vectors_of(name).magnitudes)).reshape(-1, RUN).sum(axis=1)
    assert (negative % 2 == 0).all() == vectors_of(name).parity
    qtype = qtypes.get(name)
    raw = qtype.pack(found.codes.reshape(-1, qtype.block), found.grid)
    assert np.array_equal(qtype.decode(raw.reshape(6, -1), 512), found.values())


@each_type
def test_the_last_run_takes_the_point_that_costs_least(name):
    """All the errors before it are done: of all points with its signs, none has a smaller e H e^T of the whole row."""
    vectors, cols = vectors_of(name), 256
    hessian = LAYER.hessian[:cols, :cols]
    layer = replace(LAYER, weight=np.ascontiguousarray(LAYER.weight[:, :cols]), hessian=hessian)
    found = GPTQ.quantize(layer, type_target(qtypes.get(name)), SWEEP_ONLY, in_turn)
    h = hessian.double().numpy().copy()
    h[np.diag_indices(cols)] += SWEEP_ONLY.damping * h.diagonal().mean()
    errors = layer.weight.astype(np.float64) - found.values()
    scale, dims = found.grid.scale[:, -1], vectors.dims
    levels = np.array(vectors.magnitudes, np.float64)[points(vectors.name)]
    by_feedback = 0
    for row in range(6):
        if np.array_equal(found.values()[row], nearest(name, layer)[row]):
            continue  # its own encoder was better
        by_feedback += 1
        chosen = found.values()[row, -dims:]
        others = np.repeat(errors[row][None], len(levels), axis=0)
        others[:, -dims:] = layer.weight[row, -dims:] - scale[row] * levels * np.sign(chosen)
        costs = np.einsum("mi,ij,mj->m", others, h, others, optimize=True)
        own = errors[row] @ h @ errors[row]
        assert own <= costs.min() * (1 + 1e-4)
    assert by_feedback >= 4


def nearest(name: str, layer: base.Layer) -> np.ndarray:
    qtype, squares = qtypes.get(name), layer.hessian.diagonal().numpy().copy()
    return qtype.decode(qtype.encode(layer.weight, squares), layer.weight.shape[1])


@each_type
def test_feedback_takes_most_of_the_loss_away(name):
    """From what the type's own encoder leaves with the same importance."""
    found = GPTQ.quantize(LAYER, type_target(qtypes.get(name)), Settings(), in_turn)
    after, before = (layers.loss(LAYER.weight, q, LAYER.hessian).sum() for q in (found.values(), nearest(name, LAYER)))
    assert after < 0.4 * before


@pytest.mark.parametrize("order", Order)
def test_runs_of_columns_stay_together(order):
    diagonal = np.random.default_rng(3).random(512).astype(np.float32)
    found = columns(order, diagonal, 256, RUN)
    for index in (found.stored, found.visited):
        runs = index.reshape(-1, RUN)
        assert np.array_equal(runs, runs[:, :1] + np.arange(RUN))
        assert (runs[:, 0] % RUN == 0).all()
        assert np.array_equal(np.sort(index), np.arange(512))
    if order is not Order.STORAGE:
        visited = diagonal[found.stored][found.visited].reshape(-1, RUN).max(axis=1)
        inside = visited.reshape(-1, 256 // RUN) if order is Order.WITHIN else visited.reshape(1, -1)
        assert (np.diff(inside, axis=1) <= 0).all()


def test_a_group_without_scale_decodes_to_zeros():
    weight = LAYER.weight.copy()
    weight[2] = 0
    for name in NAMES:
        found = GPTQ.quantize(replace(LAYER, weight=weight), type_target(qtypes.get(name)), Settings(), in_turn)
        assert not found.values()[2].any()
