"""Types that store points of lattices: their sets against the gguf package, their corners against ggml."""

from __future__ import annotations

import gguf.quants
import numpy as np
import pytest
import weights
from oracles import ggml

from quantkit.qtypes import base
from quantkit.qtypes.search.groups import NEAR
from quantkit.qtypes.search.lattice import keys, lattice, nearest_points, points
from quantkit.qtypes.search.lattice_points import POINTS

F32 = np.float32
RINGS = {"iq3_xxs": 2, "iq3_s": 3, "iq2_xxs": 2, "iq2_xs": 2, "iq2_s": 1, "iq1_s": 3}
TYPES = tuple(name for name in base.names() if not base.get(name).columnwise)


@pytest.mark.parametrize("name", POINTS)
def test_points_are_those_of_the_gguf_package(name):
    known = getattr(gguf.quants, name.upper())
    known.init_grid()
    assert np.array_equal(np.array(known.grid_map, F32)[points(name)], known.grid.reshape(known.grid_shape))


@pytest.mark.parametrize("name", ["iq3_s", "iq2_s", "iq1_s"])
def test_near_a_vector_outside_are_the_points_of_the_smallest_distances(name):
    found = lattice(name, RINGS[name])
    assert np.array_equal(found.number[keys(found.points, found.bits)], np.arange(len(found.points)))
    rng = np.random.default_rng(0)
    for vector in rng.integers(0, found.top, (40, found.dims)).astype(np.uint8):
        slot = -1 - int(found.number[keys(vector[None], found.bits)][0])
        distance = np.square(found.points.astype(int) - vector).sum(axis=1)
        assert (slot < 0) == (distance.min() == 0)
        if slot >= 0:
            near = found.near[found.starts[slot] : found.starts[slot + 1]]
            assert len(near) % NEAR == 0
            within = np.flatnonzero(distance <= np.unique(distance)[RINGS[name] - 1])
            assert list(dict.fromkeys(near.tolist())) == sorted(within, key=lambda number: (distance[number], number))


def test_the_nearest_point_of_a_vector_of_levels():
    found, values = lattice("iq2_xs", 2), (8, 25, 43)
    vectors = np.random.default_rng(1).integers(0, 3, (50, 8)).astype(np.uint8)
    scale = np.array(values)
    distance = np.square(scale[found.points][None] - scale[vectors][:, None]).sum(axis=2)
    chosen = nearest_points(found, vectors, values)
    assert np.array_equal(distance[np.arange(50), chosen], distance.min(axis=1))


@pytest.mark.parametrize("importance", ["none", "spread"])
@pytest.mark.parametrize("name", TYPES)
def test_groups_of_zeros_between_others(name, importance):
    """ggml's IQ3_S lets the next group take the place of zeros; it is its bytes that are promised."""
    qtype = base.get(name)
    w = weights.weights("gaussian", (8, 512))
    w.reshape(8, -1, 32)[np.random.default_rng(2).random((8, 16)) < 0.3] = 0
    weight = weights.importances(512)[importance]
    assert np.array_equal(qtype.encode(w, weight), ggml.quantize(qtype.gguf, w, weight))
