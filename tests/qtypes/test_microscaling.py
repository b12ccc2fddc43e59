"""NVFP4 and MXFP4, against what compressed-tensors 0.20 makes of the same weights.

The golden bytes come from `calculate_qparams` and `generate_gparam` with the presets NVFP4A16 and MXFP4A16, then
`compress` of the format, run once on a CPU on the weights of `sample`, as float32 and as bfloat16.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import weights
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import InputError, UnsupportedError
from quantkit.qtypes.schemes.microscaling import FACTOR, LEVELS, MXFP4, NVFP4, SCALE, round_to_codes

SCHEMES = [NVFP4(), NVFP4(dtype="BF16"), MXFP4()]
each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)

NVFP4_CODES = (
    "9fe6724dafe6703dc7f5691ed6f35b9e0000000000000000f46a1ed6735b9ee6"
    "1032547698badc0e6a0ed6735c9fe671199ba1280f92a1180ed6735c9fe6613d"
)
MXFP4_CODES = (
    "8ee6724cafe6603d80800808808008880000000000000000d3490cb5623a9dc4"
    "20426476a8caec0e280aa231198ba230199ba2280f93b1290aa231198ba23019"
)
# -6.99 is -7 in bfloat16, which doubles the scale of the last group.
MXFP4_CODES_BF16 = MXFP4_CODES[:96] + "098a91180e9191180991201889911009"
JOINT_CODES = (
    "9fe6724cafe6603dc7f56a1ed7f45c9f0000000000000000f46a1ed6735b9ee6"
    "21436577a9cbed0f5a0ed6735c9fe671199ba1280f92a1180ed6735cafe6714d"
)


def sample() -> np.ndarray:
    """Weights (2, 64): a group of small ones, one of zeros of both signs, one of large ones, one of ties."""
    w = ((np.arange(128) * 37 + 11) % 101 - 50).astype(np.float32).reshape(2, 64) / 32
    w[0, 16:32] /= 1024
    w[0, 32:48] *= 0
    w[0, 48:64] *= 37
    w[1, :16] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -0.0]
    w[1, 40] = -6.99
    return w


def bfloat16(w: np.ndarray) -> np.ndarray:
    return torch.from_numpy(w).bfloat16().float().numpy()


def half_bytes(codes: np.ndarray) -> str:
    return (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8).tobytes().hex()


@pytest.mark.parametrize(
    ("scheme", "w", "codes", "scales", "factor"),
    [
        (NVFP4(), sample(), NVFP4_CODES, "5306207e64546654", 46.49513626098633),
        (NVFP4(dtype="BF16"), bfloat16(sample()), NVFP4_CODES, "5306207e64546654", 46.5),
        (NVFP4(largest=100), sample(), JOINT_CODES, "4d0320785d4e604d", 26.8799991607666),
        (MXFP4(), sample(), MXFP4_CODES, "7d837f7f", None),
        (MXFP4(), bfloat16(sample()), MXFP4_CODES_BF16, "7d837f80", None),
    ],
    ids=["nvfp4", "nvfp4 bf16", "nvfp4 joint", "mxfp4", "mxfp4 bf16"],
)
def test_bytes_are_those_of_compressed_tensors(scheme, w, codes, scales, factor):
    quantized = scheme.encode(w)
    fields = quantized.grid.fields
    assert half_bytes(quantized.codes) == codes
    assert fields[SCALE].tobytes().hex() == scales
    assert factor is None or fields[FACTOR].tolist() == [pytest.approx(factor, rel=1e-7)]


def test_golden_half_bytes():
    assert half_bytes(round_to_codes(np.array([[0.5, 1, -0.5, 6]], np.float32))) == "2179"


@pytest.mark.parametrize(
    ("amax", "exponent"),
    [(5.9, 127), (6, 127), (6.9, 127), (6.99, 127), (7, 128), (8, 128), (0, 0), (2.0**-140, 0), (3e38, 252)],
)
def test_golden_exponents(amax, exponent):
    w = np.zeros((1, 32), np.float32)
    w[0, 9] = -amax
    assert MXFP4().fit(w).fields[SCALE].tolist() == [[exponent]]


def test_golden_factor():
    """448 * 6 / 3; ModelOpt stores the reciprocal."""
    assert NVFP4().factor(3) == 896
    assert 1 / NVFP4().factor(3) == pytest.approx(0.00111607, rel=1e-5)


@pytest.mark.parametrize(("largest", "factor"), [(1.0390625, 2576), (1.046875, 2576), (1.1015625, 2432), (3, 896)])
def test_a_factor_of_bfloat16_weights_is_rounded_twice(largest, factor):
    """`generate_gparam` of bfloat16: first the reciprocal, then the product."""
    assert NVFP4(dtype="BF16").factor(largest) == factor


@pytest.mark.parametrize(("amax", "byte"), [(0.68359375, 0x79), (0.75390625, 0x7B), (0.828125, 0x7B)])
def test_a_scale_of_bfloat16_weights_has_a_rounded_quotient(amax, byte):
    """Bytes of `calculate_qparams` for a group of this magnitude beside one of 1.0078125, in bfloat16."""
    w = np.zeros((1, 32), np.float32)
    w[0, [0, 16]] = 1.0078125, amax
    assert NVFP4(dtype="BF16").fit(w).fields[SCALE][0, 1] == byte


@pytest.mark.parametrize("largest", [0, 1e-40, 1e-37])
def test_a_factor_that_float32_cannot_hold_is_one(largest):
    assert NVFP4().factor(largest) == 1


@pytest.mark.parametrize(
    ("x", "level"),
    [(0.25, 0), (0.75, 1), (1.25, 1), (1.75, 2), (2.5, 2), (3.5, 4), (5, 4), (6, 6), (9, 6), (np.inf, 6)],
)
def test_ties_go_to_the_even_code_and_what_is_larger_to_six(x, level):
    found = LEVELS[round_to_codes(np.array([x, -x], np.float32))]
    assert found.tolist() == [level, -level]
    beside = np.nextafter(np.float32([x, x]), np.float32([0, 99]))
    below, above = LEVELS[round_to_codes(beside)]
    assert below <= level <= above


def test_what_rounds_to_zero_keeps_its_sign_but_minus_zero_does_not():
    assert round_to_codes(np.array([0.1, -0.1, 0, -0.0], np.float32)).tolist() == [0, 8, 0, 0]


@each_scheme
@pytest.mark.parametrize("case", ["gaussian", "student-t", "bf16", "few-values", "mixed-scales"])
def test_rounding_is_to_nearest_on_its_grid(scheme, case):
    w = weights.weights(case, (4, 256))
    quantized = scheme.encode(w)
    scale = np.repeat(quantized.grid.scale, scheme.group, axis=1)
    found = np.abs(quantized.values() - w)
    best = np.abs(scale[:, :, None] * LEVELS - w[:, :, None]).min(axis=2)
    assert (found <= best + 1e-6 * scale).all()


@each_scheme
def test_levels_reach_the_largest_magnitude(scheme):
    """E4M3 scales lose a sixteenth at most; a power of two clips what lies between 6 and 7."""
    w = weights.weights("gaussian", (16, 512))
    largest = np.abs(w).reshape(16, -1, scheme.group).max(axis=2)
    ratio = largest / (scheme.fit(w).scale * 6)
    low, high = (7 / 12, 7 / 6) if isinstance(scheme, MXFP4) else (15 / 16, 17 / 16)
    assert low - 1e-3 < ratio.min()
    assert ratio.max() < high + 1e-3


@each_scheme
def test_scaling_by_two_scales_values(scheme):
    w = weights.weights("gaussian", (4, 128))
    assert np.array_equal(scheme.encode(w * 2).values(), scheme.encode(w).values() * 2)


def test_a_joint_factor_scales_groups_of_several_weights_alike():
    """Rows of a stacked weight get the bytes that they get alone, given the largest magnitude of all."""
    w = weights.weights("student-t", (6, 128))
    stacked = NVFP4().encode(w)
    alone = replace(NVFP4(), largest=float(np.abs(w).max()))
    for rows in (slice(0, 4), slice(4, 5), slice(5, 6)):
        part = alone.encode(w[rows])
        assert np.array_equal(part.codes, stacked.codes[rows])
        assert np.array_equal(part.grid.fields[SCALE], stacked.grid.fields[SCALE][rows])
        assert part.grid.fields[FACTOR] == stacked.grid.fields[FACTOR]


@settings(derandomize=True, max_examples=50, deadline=None)
@given(seed=st.integers(0, 1 << 30), rows=st.integers(1, 3), groups=st.integers(1, 4))
def test_mxfp4_values_are_those_of_ggml(seed, rows, groups):
    """The blocks of GGUF hold the same numbers: any codes, any exponent whose values are finite."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (rows, groups, 32))
    exponent = rng.integers(1, 253, (rows, groups, 1)).astype(np.uint8)
    raw = np.concatenate([exponent, codes[:, :, :16] | codes[:, :, 16:] << 4], axis=2).astype(np.uint8)
    expected = quants.MXFP4.dequantize_blocks(raw.reshape(-1, 17)).reshape(rows, -1)
    grid = MXFP4().grid(exponent[:, :, 0])
    assert np.array_equal(grid.values(codes.reshape(rows, -1).astype(np.int16)), expected)


def test_nvfp4_values_are_those_of_ggml():
    """Scales and codes repacked into ggml's blocks of 64; ggml multiplies with the reciprocal of the factor, later."""
    quantized = NVFP4().encode(weights.weights("gaussian", (4, 256)))
    fields = quantized.grid.fields
    codes = quantized.codes.reshape(4, 4, 4, 16)
    qs = (codes[..., :8] | codes[..., 8:] << 4).reshape(16, 32)
    raw = np.concatenate([fields[SCALE].reshape(16, 4), qs], axis=1).astype(np.uint8)
    expected = quants.NVFP4.dequantize_blocks(raw).reshape(4, 256) / fields[FACTOR]
    assert np.allclose(quantized.values(), expected, rtol=3e-7, atol=0)


# Numbers of a file


@pytest.mark.parametrize("byte", [0x7F, 0xFF])
def test_an_nvfp4_scale_that_is_no_number_is_refused(byte):
    with pytest.raises(InputError, match=f"scale 1 is not a number .byte 0x{byte:02X}"):
        NVFP4().grid(np.array([[1, byte]], np.uint8), np.float32(1))


@pytest.mark.parametrize("factor", [0, -1, np.inf, np.nan, 1e-40])
def test_a_factor_that_nothing_can_be_divided_by_is_refused(factor):
    with pytest.raises(InputError, match="expected a positive number"):
        NVFP4().grid(np.ones((1, 1), np.uint8), np.float32(factor))


def test_an_mxfp4_scale_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="scale 2 is not a number"):
        MXFP4().grid(np.array([[0, 254], [255, 1]], np.uint8))


@each_scheme
def test_groups_must_divide_rows(scheme):
    with pytest.raises(UnsupportedError, match="do not divide into groups") as caught:
        scheme.encode(np.ones((2, 40), np.float32))
    assert "unquantized" in caught.value.hint
