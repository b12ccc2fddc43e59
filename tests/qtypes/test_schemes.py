"""Schemes of server checkpoints: their grids, against what torch and exhaustive search say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import weights

from quantkit.errors import InputError, NonFiniteError, UnsupportedError
from quantkit.qtypes.schemes import minifloat
from quantkit.qtypes.schemes.affine import Affine
from quantkit.qtypes.schemes.base import ZERO, decode, nearest, stored_scales
from quantkit.qtypes.schemes.codebook import DYNAMIC_MAP, Codebook, quantize_nested
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8

INTEGERS = [
    Integers(bits, group, symmetry, dtype)
    for bits in (2, 3, 4, 8)
    for group in (-1, 32, 128)
    for symmetry in ("symmetric", "full-range", "asymmetric")
    for dtype in ("F16", "BF16")
]
FLOAT8 = [Float8(strategy, dtype) for strategy in ("tensor", "channel", "block") for dtype in ("F32", "BF16")]
CODEBOOKS = [Codebook(table, double) for table in ("nf4", "fp4") for double in (False, True)]
AFFINE = [Affine(bits, group, dtype) for bits in (2, 4, 8) for group in (32, 64) for dtype in ("F16", "BF16")]
MICROSCALED = [NVFP4(), NVFP4(largest=7.5), NVFP4(dtype="BF16"), MXFP4()]
SCHEMES = [*INTEGERS, *AFFINE, *FLOAT8, *CODEBOOKS, *MICROSCALED, RowInt8(), Integers(4, 32, "asymmetric", "F32")]
CASES = ("gaussian", "zeros", "minus-zeros", "zero-sub-blocks", "positive", "negative", "mixed-scales", "denormal")

each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


def torch_float8(values: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(np.array(values, np.float32)).clamp(-448, 448)
    return tensor.to(torch.float8_e4m3fn).view(torch.uint8).numpy()


@each_scheme
@pytest.mark.parametrize("case", CASES)
def test_a_grid_has_one_block_per_row_and_codes_in_range(scheme, case):
    w = weights.weights(case, (3, 512))
    before = w.copy()
    quantized = scheme.encode(w)
    grid = quantized.grid
    assert grid.scale.dtype == np.float32
    assert grid.scale.shape[0] == len(w)
    assert w.shape[1] % grid.scale.shape[1] == 0
    assert quantized.codes.dtype == np.int16
    assert quantized.codes.shape == w.shape
    assert quantized.codes.min() >= grid.qmin
    assert quantized.codes.max() <= grid.qmax
    assert np.isfinite(quantized.values()).all()
    assert np.array_equal(w, before)


@each_scheme
@pytest.mark.parametrize("case", ["gaussian", "halves", "positive"])
def test_nearest_is_nearest(scheme, case):
    """No other code is closer than the one that `nearest` gives, up to float32 rounding of the quotient."""
    w = weights.weights(case, (2, 256))
    grid = scheme.fit(w)
    found = np.abs(grid.values(nearest(w, grid)) - w)
    others = range(grid.qmin, grid.qmax + 1)
    best = np.min([np.abs(grid.values(np.full(w.shape, code, np.int16)) - w) for code in others], axis=0)
    assert (found <= best + 4e-7 * np.abs(w).max()).all()


@pytest.mark.parametrize("scheme", INTEGERS, ids=str)
@pytest.mark.parametrize("case", ["gaussian", "positive", "negative", "mixed-scales", "bf16"])
def test_integers_decode_as_the_grid_says_and_scales_are_stored_exactly(scheme, case):
    w = weights.weights(case, (3, 512))
    quantized = scheme.encode(w)
    grid = quantized.grid
    assert np.array_equal(decode(quantized.codes, grid), grid.values(quantized.codes))
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[scheme.scale_dtype]
    assert np.array_equal(torch.from_numpy(grid.scale).to(dtype).float().numpy(), grid.scale)
    if not scheme.symmetric:
        zero = grid.fields[ZERO]
        assert np.array_equal(grid.offset, -(zero * grid.scale))
        assert zero.min() >= 0
        assert zero.max() <= scheme.qmax


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_errors_stay_within_half_a_step(bits):
    w = weights.weights("gaussian", (8, 256))
    for symmetry in ("symmetric", "asymmetric"):
        quantized = Integers(bits, 32, symmetry, "F32").encode(w)
        step = np.repeat(np.abs(quantized.grid.scale), 32, axis=1)
        assert (np.abs(quantized.values() - w) <= step * 0.501).all()


def test_scale_rules():
    """What compressed-tensors' observer computes: 3 / 7.5, and (1.5 + 3) / 15 with zero point 10 - 8."""
    w = np.array([[-3, 1.5, 0, 1]], np.float32)
    assert Integers(4, -1, "symmetric", "F32").fit(w).scale[0, 0] == np.float32(0.4)
    grid = Integers(4, -1, "asymmetric", "F32").fit(w)
    assert (grid.scale[0, 0], grid.fields[ZERO][0, 0]) == (np.float32(0.3), 10)
    assert Float8("tensor").fit(w).scale[0, 0] == np.float32(3) / np.float32(448)


def test_full_range_puts_the_largest_weight_on_the_lowest_code():
    w = np.array([[3, -1, 2, 0.5], [-3, 1, 2, 0.5]], np.float32)
    quantized = Integers(4, -1, "full-range").encode(w)
    assert quantized.grid.scale.tolist() == [[-0.375], [0.375]]
    assert quantized.codes[:, 0].tolist() == [-8, -8]
    assert np.array_equal(quantized.values()[:, 0], w[:, 0])


def test_full_range_of_32_is_q4_0():
    """The same scales and codes as ggml's q4_0, but for its way of breaking ties: the exchange format."""
    from quantkit.qtypes import q4_0

    w = weights.weights("gaussian", (16, 1024))
    ours = Integers(4, 32, "full-range").encode(w)
    codes, grid = q4_0.unpack(q4_0.encode(w, None).reshape(-1, q4_0.NBYTES))
    assert np.array_equal(ours.grid.scale.reshape(-1), grid.scale.reshape(-1))
    assert (ours.codes.reshape(codes.shape) != codes).mean() < 0.001


@pytest.mark.parametrize("lowest", [0, 1])
@pytest.mark.parametrize("case", ["positive", "negative", "gaussian", "zeros"])
def test_zero_points_start_where_they_are_told_and_still_reach_the_largest_weight(lowest, case):
    w = weights.weights(case)
    scheme = Integers(4, 32, "asymmetric", "F32", lowest)
    quantized = scheme.encode(w)
    assert quantized.grid.fields[ZERO].min() >= lowest
    step = np.repeat(quantized.grid.scale, 32, axis=1)
    assert (np.abs(quantized.values() - w) <= step * 0.501).all()


@pytest.mark.parametrize("scheme", [scheme for scheme in INTEGERS if scheme.group != 128], ids=str)
def test_a_weighted_search_is_never_worse_than_the_range(scheme):
    w = weights.weights("student-t", (3, 256))
    for importance in weights.importances(256).values():
        if importance is None:
            continue
        errors = []
        for grid in (scheme.fit(w), scheme.fit(w, importance)):
            square = (grid.values(nearest(w, grid)) - w) ** 2 * importance
            errors.append(square.reshape(3, grid.scale.shape[1], -1).sum(axis=2))
        assert (errors[1] <= errors[0]).all()
        assert scheme.bits > 4 or not importance.any() or errors[1].sum() < errors[0].sum()


def test_the_search_does_not_depend_on_its_slabs(monkeypatch):
    from quantkit.qtypes.schemes import integers

    w, importance = weights.weights("student-t", (7, 512)), weights.importances(512)["spread"]
    scheme = Integers(3, 64, "asymmetric")
    whole = scheme.fit(w, importance)
    monkeypatch.setattr(integers, "SLAB", 1000)
    sliced = scheme.fit(w, importance)
    assert np.array_equal(whole.scale, sliced.scale)
    assert np.array_equal(whole.fields[ZERO], sliced.fields[ZERO])


@each_scheme
def test_what_is_not_finite_is_refused_by_index(scheme):
    w = weights.weights("gaussian", (4, 256))
    w[2, 5] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        scheme.fit(w)
    assert caught.value.index == 2 * 256 + 5


def test_a_scale_that_overflows_is_refused_by_index():
    w = np.zeros((3, 128), np.float32)
    w[1, 70] = 1e6
    with pytest.raises(NonFiniteError, match="F16") as caught:
        Integers(4, 64).fit(w)
    assert caught.value.index == 128 + 64


@pytest.mark.parametrize(("dtype", "expected"), [("F16", 2.0**-10), ("BF16", 2.0**-7), ("F32", 2.0**-23)])
def test_a_scale_that_would_be_zero_is_epsilon(dtype, expected):
    assert stored_scales(np.array([[0, 1e-42, -0.0]], np.float32), dtype, 1).tolist() == [[expected] * 3]


def test_groups_must_divide_rows():
    with pytest.raises(UnsupportedError, match="do not divide") as caught:
        Integers(4, 128).fit(np.ones((2, 192), np.float32))
    assert caught.value.hint == "use a group size of 64"
    with pytest.raises(UnsupportedError, match="9 bits"):
        Integers(9)


# FP8


def test_e4m3_bytes_mean_what_torch_reads():
    read = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(minifloat.BYTE_VALUES, read, equal_nan=True)
    numbers = np.array([byte for byte in range(256) if byte & 127 != 127], np.uint8)
    assert np.array_equal(minifloat.to_bytes(minifloat.to_codes(numbers)), numbers)
    assert np.array_equal(minifloat.LEVELS[minifloat.to_codes(numbers)], read[numbers])
    assert (np.diff(minifloat.LEVELS[:253]) > 0).all()
    assert len(minifloat.LEVELS) == 254


def test_rounding_to_e4m3_is_torchs():
    levels = np.sort(minifloat.LEVELS[:253])
    middles = (levels[:-1] + levels[1:]) / 2
    edges = np.concatenate([levels, middles, np.nextafter(middles, np.float32(9)), np.nextafter(middles, -9)])
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(20000).astype(np.float32) * 10.0 ** rng.uniform(-12, 4, 20000)
    values = np.concatenate([edges, spread, [0, -0.0, 448, 464, 1e30, -1e30, 2**-9, 2**-10, -(2**-10)]]).astype("f4")
    assert np.array_equal(minifloat.round_to_bytes(values), torch_float8(values))


@pytest.mark.parametrize("byte", [0x7F, 0xFF])
def test_a_byte_that_is_no_number_is_refused(byte):
    with pytest.raises(InputError, match="weight 3 is not a number"):
        minifloat.to_codes(np.array([[1, 2], [0, byte]], np.uint8))


@pytest.mark.parametrize("scheme", FLOAT8, ids=str)
@pytest.mark.parametrize("shape", [(128, 128), (300, 320), (64, 40), (1, 1), (129, 256)])
def test_float8_codes_are_a_cast_of_scaled_weights(scheme, shape):
    w = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    quantized = scheme.encode(w)
    rows, cols = shape
    high, wide = {"tensor": shape, "channel": (1, cols), "block": (128, 128)}[scheme.strategy]
    dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[scheme.scale_dtype]
    for top in range(0, rows, high):
        for left in range(0, cols, wide):
            tile = w[top : top + high, left : left + wide]
            scale = (torch.tensor(np.abs(tile).max()) / 448).to(dtype).float().numpy()
            expected = torch_float8(tile / scale)
            codes = quantized.codes[top : top + high, left : left + wide]
            assert np.array_equal(minifloat.to_bytes(codes), expected)
            value = torch.from_numpy(expected).view(torch.float8_e4m3fn).float().numpy() * scale
            assert np.array_equal(quantized.values()[top : top + high, left : left + wide], value)


# NF4 and FP4


def reference_4bit(w: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and largest magnitudes as bitsandbytes' torch kernel computes them, for whole blocks."""
    table = torch.from_numpy(levels)
    order = torch.argsort(table, stable=True)
    blocks = torch.from_numpy(w.copy()).reshape(-1, 64)
    absmax = blocks.abs().amax(dim=1)
    scaled = (blocks * (1.0 / absmax.clamp(min=1e-38))[:, None]).clamp(-1, 1)
    bounds = (table[order][:-1] + table[order][1:]) / 2
    return order[torch.bucketize(scaled, bounds)].numpy().reshape(w.shape), absmax.numpy()


@pytest.mark.parametrize("table", ["nf4", "fp4"])
@pytest.mark.parametrize("case", weights.CASES)
def test_four_bit_codes_are_those_of_bitsandbytes(table, case):
    w = weights.weights(case)
    scheme = Codebook(table)
    codes, absmax = reference_4bit(w, scheme.levels)
    quantized = scheme.encode(w)
    assert np.array_equal(quantized.codes, codes)
    assert np.array_equal(quantized.grid.fields["absmax"], absmax)


@pytest.mark.parametrize("shape", [(3, 50), (1, 7), (7, 9), (2, 96), (64, 64)])
@pytest.mark.parametrize("scheme", CODEBOOKS, ids=str)
def test_blocks_cross_rows_and_the_last_one_may_be_short(scheme, shape):
    w = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    quantized = scheme.encode(w)
    flat = np.concatenate([w.reshape(-1), np.zeros(-w.size % 64, np.float32)]).reshape(-1, 64)
    absmax = np.abs(flat).max(axis=1)
    if not scheme.double:
        assert np.array_equal(quantized.grid.fields["absmax"], absmax)
    error = np.abs(quantized.values() - w).reshape(-1)
    assert (error <= 0.2 * np.repeat(absmax, 64)[: w.size]).all()
    assert quantized.grid.scale.shape == ((shape[0], 1) if shape[1] == 64 else shape)


def test_double_quantization_keeps_magnitudes_and_counts():
    absmax = np.abs(np.random.default_rng(3).standard_normal(1000)).astype(np.float32)
    nested = quantize_nested(absmax)
    assert (nested.codes.dtype, nested.codes.size, nested.absmax.size) == (np.uint8, 1000, 4)
    assert np.abs(nested.values() - absmax).max() < 0.02 * absmax.max()
    assert nested.offset == np.float32(absmax.mean(dtype=np.float64))
    zero = quantize_nested(np.zeros(300, np.float32))
    assert not zero.codes.any()
    assert not zero.values().any()


def test_the_dynamic_map():
    assert len(DYNAMIC_MAP) == 256
    assert (np.diff(DYNAMIC_MAP) > 0).all()
    assert DYNAMIC_MAP[[0, 127, 255]].tolist() == [np.float32(-0.99296875), 0, 1]
    assert DYNAMIC_MAP[128] == pytest.approx(5.5e-7, rel=1e-6)  # the middle of 1e-7 and 1e-6


def test_int8_rows_reach_127():
    w = weights.weights("gaussian", (5, 64))
    quantized = RowInt8().encode(w)
    assert (np.abs(quantized.codes).max(axis=1) == 127).all()
    assert np.array_equal(quantized.grid.fields["absmax"][:, 0], np.abs(w).max(axis=1))
    zeros = RowInt8().encode(np.zeros((2, 8), np.float32))
    assert not zeros.values().any()


@pytest.mark.parametrize("case", ["gaussian", "bf16", "few-values", "outlier", "1e-6"])
def test_int8_codes_are_those_of_bitsandbytes(case):
    w = weights.weights(case)
    rows = torch.from_numpy(w.copy())
    expected = torch.round(rows * (127.0 / rows.abs().amax(dim=1, keepdim=True))).to(torch.int8)
    assert np.array_equal(RowInt8().encode(w).codes, expected.numpy())


def test_double_quantization_goes_through_the_bins_of_bitsandbytes():
    """Codes that bitsandbytes 0.50.2 gives to numbers just beside a middle, where the nearest level is another."""
    beside = np.array([-0.0054934677, 0.008307645, 0.03812308, -0.09719457, 0.0060666697, 1], np.float32)
    nested = quantize_nested(beside, np.float32(0))
    assert nested.codes.tolist() == [103, 156, 169, 65, 151, 255]
    assert nested.absmax.tolist() == [1]


def test_weights_may_lie_in_any_order_in_memory() -> None:
    w = np.random.default_rng(3).standard_normal((64, 128)).astype(np.float32)
    scheme = Integers(4, 32, "asymmetric")
    plain, turned = scheme.encode(w), scheme.encode(np.asfortranarray(w))
    assert np.array_equal(plain.codes, turned.codes)
    assert np.array_equal(plain.grid.scale, turned.grid.scale)
