"""The weighted scale searches where the common suite is too coarse: their corners, lanes, planes and slabs.

Some types store what one search finds: with importance, q4_1 shows search C, q4_0 and q5_0 search A; q3_k without
importance shows search B, and the K types with importance search D.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from oracles import ggml

from quantkit.errors import NonFiniteError
from quantkit.qtypes import base
from quantkit.qtypes.search import blocks, scales
from quantkit.qtypes.search.compilation import compiled
from quantkit.qtypes.search.groups import Groups, Steps, Weighting
from quantkit.qtypes.search.lanes import (
    lane_bits,
    load,
    low_byte,
    nearest,
    nearest_small,
    select,
    splat,
    square_root,
    store,
    store_int32,
    transpose,
    truncated,
)
from quantkit.qtypes.search.octets import store_bytes, store_nearest
from quantkit.qtypes.search.planes import Plane, pack_planes, unpack_planes

SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "iq4_xs",
            "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")  # fmt: skip
SUPER = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs")
F32 = np.float32


def assert_ggml(name: str, w: np.ndarray, importance: np.ndarray | None = None) -> None:
    qtype = base.get(name)
    assert np.array_equal(qtype.encode(w, importance), ggml.quantize(qtype.gguf, w, importance))


def decoded(name: str, w: np.ndarray, importance: np.ndarray | None = None) -> tuple[np.ndarray, base.Grid]:
    """Codes (n, block) and grid of what the type writes, which is first held to ggml's bytes."""
    assert_ggml(name, w, importance)
    qtype = base.get(name)
    return qtype.unpack(qtype.encode(w, importance).reshape(-1, qtype.nbytes))


def block_of(*values: float, size: int = 32) -> np.ndarray:
    """One row with the values in front and zeros behind."""
    w = np.zeros((1, size), F32)
    w[0, : len(values)] = values
    return w


# The same bytes on every processor.

GOLDEN = {
    "q2_k": ("4e2a664378de7468", "2c478b01b93ef625"),
    "q3_k": ("24d8337de1c1cc2b", "9b01937cf13b9c64"),
    "q4_k": ("9e73029a6f29c241", "0dbfc2f2ed6e415a"),
    "q5_k": ("0c09822ada907f10", "de998f3994a8208a"),
    "q6_k": ("aa415ba426a27883", "c985783782911dc6"),
    "q4_0": ("4329af4492577c13", "c29c259fda359e1d"),
    "q4_1": ("e5358b885c63a6c4", "4371459786a24d19"),
    "q5_0": ("e8ec0cb582e85a58", "caad04b8d8df6b29"),
    "q5_1": ("77f63adef7dd4070", "651a15c06e3a3f4d"),
    "iq4_nl": ("3f658857b502fc7c", "78f65f72b23aebe8"),
    "iq4_xs": ("0064e10c79db868a", "3167ac0ff357fa35"),
    "iq1_s": ("3935cf6033349cfc", "66539be420fcdbcd"),
    "iq1_m": ("c9d61295951ef544", "509f99c4eec65f21"),
    "iq2_xxs": ("a23e47a85dad39dc", "908100ecd7f8f4eb"),
    "iq2_xs": ("9fcc78a7a5e90b08", "bd266c30887b926e"),
    "iq2_s": ("416e847bb41c039a", "92b4c46abc067e99"),
    "iq3_xxs": ("c80239d600d07dbb", "5b71232a8782899f"),
    "iq3_s": ("6316cd7aa91d0e3c", "07c06f49e5f7b41d"),
}


def portable_weights(rows: int, cols: int) -> np.ndarray:
    """Heavy-tailed weights made with exact arithmetic only, so that they are the same everywhere."""
    state = np.arange(1, rows * cols + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state ^= state >> np.uint64(31)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    small = ((state >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(F32)
    return (small * F32(2.0**-26) * ((state & np.uint64(7)) + np.uint64(1)).astype(F32)).reshape(rows, cols)


@pytest.mark.parametrize("name", SEARCHED)
def test_golden_bytes(name):
    """Digests of what ggml writes on x86-64. Elsewhere its compilers fuse multiply-adds; quantkit must not."""
    w, importance = portable_weights(6, 1024), np.abs(portable_weights(1, 1024)[0]) + F32(0.125)
    raws = [base.get(name).encode(w, weight) for weight in (None, importance)]
    assert tuple(hashlib.sha256(raw.tobytes()).hexdigest()[:16] for raw in raws) == GOLDEN[name]
    if platform.machine() in {"x86_64", "AMD64"}:
        assert_ggml(name, w)
        assert_ggml(name, w, importance)


# Lanes: what the compiled vectors do with one value.


@njit(nogil=True, error_model="numpy")
def _probe(x, y, out, integers):
    a, b = load(x, 0, 16), load(y, 0, 16)
    store(out, 0, nearest(a))
    store(out, 16, low_byte(nearest(a)))
    store(out, 32, truncated(a))
    store(out, 48, a * b + a)
    store(out, 64, select(a < b, splat(np.float32(1), 16), splat(np.float32(0), 16)))
    store(out, 80, a / b)
    store(out, 96, square_root(a))
    store(out, 112, nearest_small(a))
    store_int32(integers, 0, truncated(a))
    return lane_bits(a != b)


def probe(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    out, integers = np.empty((8, 16), F32), np.empty(16, np.int32)
    return out, integers, int(_probe(x.astype(F32), y.astype(F32), out, integers))


EDGES = [0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 8388607.5, 4194303.4, 4194304.0, -4194304.0, 1e30, -1e30, -0.0, 255.6]


def test_lanes_round_as_the_reference_does_for_every_input():
    """Adding 1.5 * 2**23 and keeping 23 bits: ties to even, and beyond 2**22 the reference's odd integers."""
    x = np.array([*EDGES, np.nan, np.inf], F32)
    out, integers, _ = probe(x, np.ones(16))
    bits = (x + F32(12582912)).view(np.int32) & 0x7FFFFF
    assert np.array_equal(out[0], (bits - 0x400000).astype(F32))
    assert np.array_equal(out[1], (bits - 0x400000 & 255).astype(F32))
    assert out[0, :6].tolist() == [0, 2, 2, 0, -2, 0]
    assert out[0, -2] == 0, "NaN counts as zero"
    whole = np.where(np.abs(x) < 2.0**31, np.trunc(x), 0)
    assert np.array_equal(out[2], whole.astype(F32))
    assert np.array_equal(integers, whole.astype(np.int32))


@pytest.mark.parametrize("low, high", [(0, 3), (-4, 3), (-32, 31), (0, 63)])
def test_codes_round_and_clip_as_the_reference_does_for_every_input(low, high):
    """Beyond 2**22 the reference's odd integers decide which end of the range a code gets: +inf the lowest."""

    @njit(nogil=True, error_model="numpy")
    def probe_codes(x, low, high, codes):
        store_nearest(codes, 0, load(x, 0, 16), low, high, low)
        store_bytes(codes, 16, truncated(load(x, 0, 16)))

    odd = np.array([*EDGES, np.nan, np.inf, -np.inf, *np.arange(-40, 71) / 2, 4194303.5, -6e6], F32)
    odd = np.resize(odd, -(-odd.size // 16) * 16)
    for x in odd.reshape(-1, 16):
        codes = np.empty(32, np.uint8)
        probe_codes(x, low, high, codes)
        bits = (x + F32(12582912)).view(np.int32) & 0x7FFFFF
        assert np.array_equal(codes[:16], np.clip(bits - 0x400000, low, high) - low)
        whole = np.where(np.abs(x) < 2.0**31, np.trunc(x), 0)
        assert np.array_equal(codes[16:], whole.astype(np.int64) & 255)


def test_lanes_round_each_operation_and_compare_like_c():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(16).astype(F32), rng.standard_normal(16).astype(F32)
    x[3], y[4], x[5] = np.nan, np.nan, y[5]
    out, _, bits = probe(x, y)
    fused = (x.astype(np.float64) * y + x).astype(F32)
    assert np.array_equal(out[3], x * y + x, equal_nan=True)
    assert not np.array_equal(out[3], fused, equal_nan=True), "these inputs must tell a fused multiply-add"
    assert np.array_equal(out[4], (x < y).astype(F32))
    assert bits == sum(int(a != b) << k for k, (a, b) in enumerate(zip(x, y, strict=True)))
    assert np.array_equal(out[5], x / y, equal_nan=True)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(out[6], np.sqrt(x), equal_nan=True)
    assert np.array_equal(out[7], np.rint(x), equal_nan=True)


def test_transpose_turns_sixteen_rows():
    @njit(nogil=True)
    def turn(source, starts, target):
        transpose(source, starts, 3, target, 5, 40)

    source, target = np.arange(2000, dtype=F32), np.zeros((16, 40), F32)
    starts = np.random.default_rng(0).permutation(100)[:16] * 16
    turn(source, starts, target.reshape(-1))
    assert np.array_equal(target[:, 5:21], np.stack([source[s + 3 : s + 19] for s in starts]).T)
    assert not target[:, :5].any()
    assert not target[:, 21:].any()


@pytest.mark.parametrize("shape", [(1, 32), (33, 16), (5, 4096)])
def test_ordered_sums_take_one_element_at_a_time(shape):
    """np.add.accumulate is the independent sequential sum; pairwise summation gives other last bits."""
    x = weights.weights("student-t", (shape[0], max(shape[1], 256)))[:, : shape[1]]
    sums = scales.square_sums(np.ascontiguousarray(x))
    assert np.array_equal(sums, np.add.accumulate(x * x, axis=1, dtype=F32)[:, -1])


# Planes.


@pytest.mark.parametrize("bits, span", [(4, 8), (4, 16), (4, 32), (4, 64), (2, 4), (2, 32), (1, 32), (1, 1)])
@pytest.mark.parametrize("low", [0, -32])
def test_a_plane_puts_every_bit_where_the_format_says(bits, span, low):
    """One code at a time: its bits must appear in one byte, at the place that the layout's formula names."""
    shift = 6 - bits
    top = (1 << bits) - 1 << shift
    for code in range(0, 256, 7):
        codes = np.full((1, 256), low, np.int16)
        codes[0, code] += top
        raw = np.zeros((1, 160), np.uint8)
        pack_planes(codes, low, (Plane(11, bits, span, shift),), raw)
        group, rest = divmod(code, span * 8 // bits)
        part, byte = divmod(rest, span)
        where = 11 + group * span + byte
        assert raw[0, where] == (1 << bits) - 1 << bits * part, code
        assert raw.sum() == raw[0, where]
        assert np.array_equal(unpack_planes(raw, low, (Plane(11, bits, span, shift),), 256), codes)


@pytest.mark.parametrize(
    ("plane", "block"),
    [
        (Plane(0, 2, 16), 256),
        (Plane(0, 4, 4), 256),
        (Plane(0, 4, 32), 64),
        (Plane(0, 1, 1), 16),
        (Plane(33, 4, 64), 256),
    ],
)
def test_a_plane_that_no_loop_writes_is_refused(plane, block):
    """Loops check nothing: they would write another plane, or beyond the end of the bytes."""
    with pytest.raises(AssertionError, match="Plane"):
        pack_planes(np.zeros((1, block), np.int16), 0, (plane,), np.zeros((1, 160), np.uint8))


# Ties, zeros, and groups whose scale vanishes.


def test_the_first_of_two_equal_magnitudes_decides_the_sign_of_the_scale():
    for name in ("q4_0", "q5_0"):
        for importance in (None, np.ones(32, F32)):
            _, plus = decoded(name, block_of(0.25, 1, -1, 0.5), importance)
            _, minus = decoded(name, block_of(0.25, -1, 1, 0.5), importance)
            assert plus.scale[0, 0] < 0 < minus.scale[0, 0]


def test_halves_are_cut_up_without_importance_and_rounded_to_even_with_it():
    """Peak -8 gives q4_0 a scale of one: 0.5 becomes 1 where codes are trunc(x + 8.5), and 0 where they are rint(x)."""
    w = block_of(-8, 0.5, 1.5, 2.5, -0.5, -1.5)
    codes, _ = decoded("q4_0", w)
    assert codes[0, :6].tolist() == [-8, 1, 2, 3, 0, -1]
    weight = np.full(32, 1e-6, F32)
    weight[0] = 1e6  # nothing but the peak counts, so the first candidate, scale one, stays
    codes, grid = decoded("q4_0", w, weight)
    assert grid.scale[0, 0] == 1
    assert codes[0, :6].tolist() == [-8, 0, 2, 2, 0, -2]


def test_a_point_half_way_between_levels_takes_the_upper_one():
    """IQ4 where only weights equal to levels count, so that the scale is one: what of the means of two levels?"""
    levels = base.get("iq4_nl").fit(np.zeros((1, 32), F32), None).levels
    middles = (levels[1:] + levels[:-1]) / 2
    w = block_of(-127, *levels, *middles)
    weight = np.full(32, 1e-6, F32)
    weight[:17] = 1e6
    codes, grid = decoded("iq4_nl", w, weight)
    assert grid.scale[0, 0] == 1
    assert codes[0, 17:32].tolist() == list(range(1, 16))
    below = np.where(np.arange(32) < 17, w, np.nextafter(w, F32(-np.inf)))
    codes, _ = decoded("iq4_nl", below, weight)
    assert codes[0, 17:32].tolist() == list(range(15))


def test_zero_groups_inside_a_block_have_the_codes_of_the_reference():
    """A zero group's value is zero whatever its codes, but its bytes are not: raw 0, or the level nearest to 0."""
    w = weights.weights("gaussian", (1, 256))
    w[:, 64:96] = 0
    expected = {"q2_k": 0, "q3_k": -4, "q4_k": 0, "q5_k": 0, "q6_k": -32, "iq4_xs": 8}
    for name, code in expected.items():
        for importance in (None, np.ones(256, F32)):
            codes, grid = decoded(name, w, importance)
            assert (codes[0, 64:96] == code).all(), name
            assert not grid.values(codes)[0, 64:96].any()


@pytest.mark.parametrize("importance", [None, "smooth"])
@pytest.mark.parametrize("name", SUPER)
def test_groups_too_small_for_a_scale_keep_the_codes_of_their_search(name, importance):
    """Next to large groups the scale of a small one is zero; rounding on the grid would divide by it."""
    w = weights.weights("gaussian", (2, 512))
    w[:, 32:64] *= F32(1e-5)
    w[:, 288:320] *= F32(1e-5)
    codes, grid = decoded(name, w, weights.importances(512)[importance or "none"])
    per_group = 256 // grid.scale.shape[1]
    small = grid.scale[:, 32 // per_group]
    assert not small.any()
    kept = codes[:, 32:64]
    assert all(len(set(row)) > 1 for row in kept.tolist()) or name == "iq4_xs", "the search's codes, not zeros"


def test_a_q6_k_block_below_the_threshold_is_all_zero_bytes():
    """Groups above 1e-15 are searched, but scales below it empty the block; its neighbour is not touched."""
    w = weights.weights("gaussian", (1, 512))
    w[:, :256] *= F32(1e-15)
    assert np.abs(w[:, :256]).max() > 1e-15
    assert_ggml("q6_k", w)
    raw = base.get("q6_k").encode(w, None)
    assert not raw[0, :210].any()
    assert raw[0, 210:].any()


# The searches.


def test_search_c_starts_each_candidate_from_the_best_minimum_so_far():
    """The trap of make_qkx2_quants: candidates divide by maximum - minimum with the minimum already improved."""
    w, importance = weights.weights("gaussian", (8, 1024)), weights.importances(1024)["smooth"]
    assert_ggml("q4_1", w, importance)
    groups = Groups(w.reshape(-1, 32), Weighting.PURE_IMPORTANCE, importance)
    found = scales.search_offset(groups, 15, Steps(-0.9, 0.05, 36))
    first = np.minimum(groups.x.min(axis=1), 0)
    moved = found.origin != first
    assert 0.2 < moved.mean() < 1, "data that exercises the trap: an accepted candidate began at a moved minimum"
    assert (found.minimum <= 0).all()


@pytest.mark.parametrize("name", ["q4_k", "q5_k", "q2_k", "q4_1", "q5_1"])
def test_weights_that_nothing_activates_may_lie_far_outside_the_grid(name):
    """Columns of importance 0 do not count, so a spike there is 1e7 times the range: codes clip before they round."""
    w = weights.weights("gaussian", (16, 1280)) * F32(1e-6)
    w[:, ::97] *= F32(1e7)
    importance = (np.arange(1280) % 2).astype(F32)
    assert_ggml(name, w, importance)


@pytest.mark.parametrize("name", ["q3_k", "q6_k", "q4_0", "q5_0"])
@pytest.mark.parametrize("least", [0.99, 0.95, 0.6])
def test_weights_near_the_largest_are_cut_off_as_in_the_reference(name, least):
    """Of either sign, and between `least` and 1 of it: their codes are at the ends of the range, or beyond it."""
    rng = np.random.default_rng(2)
    w = (rng.uniform(least, 1, (8, 1024)) * rng.choice([-1, 1], (8, 1024))).astype(F32)
    for importance in (None, rng.integers(0, 4, 1024).astype(F32)):
        assert_ggml(name, w, importance)


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("case", ["1e-38", "1e-42", "mixed-exponents"])
def test_denormals_make_infinite_inverses_and_the_same_bytes(name, case):
    rng = np.random.default_rng(1)
    if case == "mixed-exponents":
        w = rng.standard_normal((8, 1024)) * 10.0 ** rng.uniform(-45, -25, (8, 1024))
    else:
        w = rng.standard_normal((8, 1024)) * float(case)
    w = w.astype(F32)
    for importance in (None, np.ones(1024, F32), np.full(1024, 1e-30, F32)):
        assert_ggml(name, w, importance)


@pytest.mark.parametrize("name", ["q4_k", "q5_k"])
@pytest.mark.parametrize("seed", [63, 171, 235])
def test_negative_scales_are_stored_as_in_the_reference(name, seed):
    """Of groups with spikes where nothing counts. A byte then runs over into another scale (Q4_K), or is cut off."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((16, 512)) * np.repeat(10.0 ** rng.choice([-6, -3, -1, 0, 1], (16, 16)), 32, axis=1)
    w[:, rng.integers(0, 512, 40)] *= 1e4
    importance = rng.integers(0, 2, 512).astype(F32)
    assert_ggml(name, np.clip(w, -6e4, 6e4).astype(F32), importance)


@pytest.mark.parametrize("name", ["q2_k", "q3_k", "q4_k", "q6_k"])
def test_importance_beyond_all_measure_makes_the_same_bytes(name):
    """From 1e-45 to 1e30 in one row, for groups as far apart: scales and their sums may be infinite."""
    rng = np.random.default_rng(11)
    scale = np.repeat(10.0 ** rng.choice([-45, -38, -30, -20, -15, -6, 0, 3.5], (200, 32)), 16, axis=1)
    w = (rng.standard_normal((200, 512)) * scale).astype(F32)
    importance = (10.0 ** rng.choice([-45, -38, -30, -20, -10, 0, 10, 20, 30], 512)).astype(F32)
    for row in w:
        qtype, one = base.get(name), row[None]
        with suppress(NonFiniteError):  # a scale that float16 cannot hold
            raw = qtype.encode(one, importance)
            assert np.array_equal(raw, ggml.quantize(qtype.gguf, one, importance))


@pytest.mark.parametrize("name", SEARCHED)
@settings(derandomize=True, max_examples=20, deadline=None)
@given(seed=st.integers(0, 1 << 30), step=st.sampled_from([0.25, 1.0, 3e-5]), top=st.integers(1, 33))
def test_ties_are_broken_as_in_the_reference(name, seed, step, top):
    """Small multiples of one step: equal magnitudes, equal errors and exact halves at every turn of the searches."""
    rng = np.random.default_rng(seed)
    w = (rng.integers(-top, top + 1, (2, 512)) * step).astype(F32)
    assert_ggml(name, w)
    assert_ggml(name, w, rng.integers(0, 3, 512).astype(F32))


def test_search_b_gives_the_same_codes_when_it_is_asked_for_them():
    """Scales come from tiles that stop early; codes are searched again for the groups that keep them."""
    groups = weights.weights("student-t", (100, 256)).reshape(-1, 16)
    scale, codes = scales.search_descent(groups, 4), scales.descent_codes(groups, 4)
    assert ((codes >= -4) & (codes <= 3)).all()
    fitted = np.add.reduce(groups**3 * codes, axis=1) / np.add.reduce(groups**2 * codes**2, axis=1)
    assert np.allclose(fitted, scale, rtol=1e-5), "the scale is the least-squares scale of its codes (float32 sums)"
    order = np.random.default_rng(0).permutation(len(groups))
    assert np.array_equal(scales.search_descent(groups[order], 4), scale[order])
    assert np.array_equal(scales.descent_codes(groups[order], 4), codes[order])


# Tiles, slabs, threads.


@pytest.mark.parametrize("rows", [1, 3, 31, 32, 33, 65])
@pytest.mark.parametrize("name", ["q4_0", "q5_1", "iq4_nl"])
def test_rows_that_fill_no_tile(name, rows):
    """Three blocks a row: importance starts over in the middle of a tile, and the last tile is not full."""
    w = weights.weights("gaussian", (rows, 256))[:, :96]
    assert_ggml(name, w)
    assert_ggml(name, w, weights.importances(96)["spread"])


@pytest.mark.parametrize("name", ["q4_0", "q3_k", "q4_k"])
def test_slabs_do_not_show(name):
    qtype = base.get(name)
    rows = blocks.LARGE_SLAB // 1024 + 5
    w = weights.weights("gaussian", (rows, 1024))
    importance = weights.importances(1024)["smooth"]
    raw = qtype.encode(w, importance)
    cuts = np.array_split(np.arange(rows), 3)
    assert np.array_equal(raw, np.concatenate([qtype.encode(w[cut], importance) for cut in cuts]))
    grid = qtype.fit(w, importance)
    assert np.array_equal(grid.scale, qtype.unpack(raw.reshape(-1, qtype.nbytes))[1].scale)


def test_a_scale_too_large_in_a_later_slab_is_located():
    rows = blocks.LARGE_SLAB // 1024 + 5
    w = np.zeros((rows, 1024), F32)
    w[-2, 300] = 3e38
    for name, block in (("q4_0", 32), ("q4_k", 256)):
        with pytest.raises(NonFiniteError, match="float16") as caught:
            base.get(name).encode(w, None)
        assert caught.value.index == ((rows - 2) * 1024 + 300) // block * block
        assert caught.value.hint


@pytest.mark.parametrize("name", SEARCHED)
def test_threads_share_nothing(name):
    qtype = base.get(name)
    slabs = [weights.weights("student-t", (9, 512), seed) for seed in range(8)]
    alone = [qtype.encode(w, None) for w in slabs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda w: qtype.encode(w, None), slabs * 4))
    assert all(np.array_equal(raw, alone[i % 8]) for i, raw in enumerate(together))


ENCODE = """
import numpy as np
from quantkit.qtypes import base
w = np.linspace(-1, 0.9, 32, dtype=np.float32).reshape(1, 32)
print(base.get("q4_0").encode(w, None).tobytes().hex())
"""


@pytest.mark.slow
def test_compiled_code_does_not_outlive_the_sources_it_came_from(tmp_path):
    """Most of a kernel is compiled from other files than its own: an edit there must not leave old code in use."""
    package = Path(base.__file__).parent.parent
    shutil.copytree(package, tmp_path / "quantkit", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def encode() -> str:
        command = [sys.executable, "-c", ENCODE]
        return subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    before = encode()
    assert encode() == before, "from the cache"
    tiles = tmp_path / "quantkit" / "qtypes" / "search" / "tiles.py"
    source = tiles.read_text()
    assert "larger = magnitude > largest" in source
    tiles.write_text(source.replace("larger = magnitude > largest", "larger = v > largest"))
    assert encode() != before


def test_without_a_place_for_the_cache_loops_are_compiled_all_the_same():
    """A function without a source file stands for an installation in which nothing can be written."""
    assert compiled(eval("lambda x: x + 1"))(41) == 42


def test_naming_a_type_does_not_load_the_compiler():
    """A plan needs names and sizes only; numba takes longer to import than the whole plan."""
    program = "import sys\nfrom quantkit.qtypes import base\n"
    program += "".join(f"base.get({name!r}).row_bytes(256)\n" for name in SEARCHED)
    program += "assert not {'numba', 'llvmlite'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
