"""Float conversions: every 16-bit pattern, every rounding boundary, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import NonFiniteError
from quantkit.qtypes import floats

ALL_PATTERNS = np.arange(1 << 16, dtype=np.uint16)


def widened(patterns: np.ndarray, dtype: str) -> np.ndarray:
    """`to_float32` of 16-bit patterns."""
    out = np.empty(patterns.shape, np.float32)
    floats.to_float32(patterns.reshape(-1).view(np.uint8), dtype, out)
    return out


def truth(patterns: np.ndarray, dtype: str) -> np.ndarray:
    """The values by definition, in float64: sign, exponent and fraction put together."""
    exponent_bits, fraction_bits = {"F16": (5, 10), "BF16": (8, 7)}[dtype]
    bias = (1 << (exponent_bits - 1)) - 1
    sign = np.where(patterns >> 15, -1.0, 1.0)
    exponent = (patterns >> fraction_bits & ((1 << exponent_bits) - 1)).astype(np.int64)
    fraction = (patterns & ((1 << fraction_bits) - 1)) / 2.0**fraction_bits
    value = np.where(exponent > 0, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    special = np.where(fraction > 0, np.nan, np.inf)
    return sign * np.where(exponent == (1 << exponent_bits) - 1, special, value)


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    return {"F16": floats.to_f16, "BF16": floats.to_bf16}[dtype](values)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_all_patterns_widen_exactly(dtype):
    found, expected = widened(ALL_PATTERNS, dtype), truth(ALL_PATTERNS, dtype)
    nan = np.isnan(expected)
    assert np.isnan(found[nan]).all()
    assert np.array_equal(found[~nan].astype(np.float64), expected[~nan])
    assert np.array_equal(np.signbit(found[~nan]), np.signbit(expected[~nan]))


def test_all_float16_patterns_widen_as_in_numpy():
    found, expected = widened(ALL_PATTERNS, "F16"), ALL_PATTERNS.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    assert np.array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    assert np.isnan(found[nan]).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_all_finite_patterns_survive_the_round_trip(dtype):
    finite = ALL_PATTERNS[np.isfinite(truth(ALL_PATTERNS, dtype))]
    assert np.array_equal(narrowed(widened(finite, dtype), dtype), finite)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_rounding_boundary_goes_to_the_even_neighbour(dtype):
    """Between all neighbours of one sign: the middle goes to the even pattern, one float32 step decides the rest."""
    below = ALL_PATTERNS[: np.isfinite(truth(ALL_PATTERNS, dtype)[:0x8000]).sum() - 1]
    above = below + np.uint16(1)
    middle = (truth(below, dtype) + truth(above, dtype)) / 2
    exact = middle.astype(np.float32)
    assert np.array_equal(exact.astype(np.float64), middle)
    even = np.where(below % 2 == 0, below, above)
    for sign, bit in ((np.float32(1), 0), (np.float32(-1), 0x8000)):
        assert np.array_equal(narrowed(sign * exact, dtype), even | np.uint16(bit))
        assert np.array_equal(narrowed(sign * np.nextafter(exact, np.float32(0)), dtype), below | np.uint16(bit))
        assert np.array_equal(narrowed(sign * np.nextafter(exact, np.float32(np.inf)), dtype), above | np.uint16(bit))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_float16_rounding_equals_numpy(values):
    x = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    if np.isfinite(expected).all():
        assert np.array_equal(floats.to_f16(x), expected.view(np.uint16))
        return
    with pytest.raises(NonFiniteError) as caught:
        floats.to_f16(x)
    assert caught.value.index == int(np.argmax(np.isinf(expected)))


@pytest.mark.parametrize(
    ("dtype", "largest", "first_too_large"),
    [("F16", 65504.0, 65520.0), ("BF16", 3.3895313892515355e38, 3.3961775292304957e38)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_is_an_error_that_names_the_weight(dtype, largest, first_too_large, sign):
    x = np.zeros((3, 50), np.float32)
    x[1, 7] = sign * np.nextafter(np.float32(first_too_large), np.float32(0))
    assert widened(narrowed(x, dtype), dtype)[1, 7] == np.float32(sign * largest)
    x[1, 7] = sign * first_too_large
    x[2, 9] = sign * np.inf
    with pytest.raises(NonFiniteError, match=r"at index 57\b") as caught:
        narrowed(x, dtype)
    assert caught.value.index == 57
    assert caught.value.hint


def test_scales_that_overflow_name_their_block():
    scale = np.array([1, 2, 65519, 65520], np.float32)
    with pytest.raises(NonFiniteError, match="block of 32 weights at index 96") as caught:
        floats.f16_scales(scale, 32)
    assert caught.value.index == 96
    raw = floats.f16_scales(scale[:3], 32)
    assert np.array_equal(raw.reshape(-1).view("<f2"), [1, 2, 65504])


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 1, 4095, 4096, 9999])
def test_first_nonfinite_finds_the_first(bad, index):
    x = np.full((100, 100), 3e38, np.float32)
    assert floats.first_nonfinite(x) == -1
    x.flat[index] = bad
    x.flat[-1] = np.nan
    assert floats.first_nonfinite(x) == index
    assert floats.first_nonfinite(np.asfortranarray(x)) == index


def test_first_nonfinite_of_nothing():
    assert floats.first_nonfinite(np.empty((0, 5), np.float32)) == -1


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_to_float32_reads_any_alignment_and_read_only_bytes(dtype):
    values = np.array([[1.0, -0.5], [0.0, 384.0]], np.float32)
    raw = values.tobytes() if dtype == "F32" else narrowed(values, dtype).tobytes()
    for shift in range(4):
        mapped = np.frombuffer(b"x" * shift + raw, np.uint8)[shift:]
        out = np.empty((2, 2), np.float32)
        floats.to_float32(mapped, dtype, out)
        assert np.array_equal(out, values)
    assert values.tobytes() == np.array([[1.0, -0.5], [0.0, 384.0]], np.float32).tobytes()


def test_to_float32_of_nothing():
    for dtype in ("F32", "F16", "BF16"):
        floats.to_float32(np.empty(0, np.uint8), dtype, np.empty((0, 3), np.float32))


@pytest.mark.parametrize(("dtype", "code"), [("F16", "<u2"), ("BF16", "<u2"), ("F32", "<u4")])
@pytest.mark.parametrize("sign", [0, 1])
def test_all_finite_knows_every_exponent_from_infinity(dtype, code, sign):
    infinity = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000}[dtype]
    top = sign << (8 * np.dtype(code).itemsize - 1)
    for magnitude in (0, 1, infinity - 1):
        around = np.array([0, infinity - 1 | top, magnitude | top, 0], code)
        assert floats.all_finite(around.view(np.uint8), dtype)
    for magnitude in (infinity, infinity + 1, infinity | (infinity & -infinity) - 1):
        around = np.array([0, magnitude | top, infinity - 1, 0], code)
        assert not floats.all_finite(around.view(np.uint8).reshape(2, -1), dtype)
    assert floats.all_finite(np.empty(0, np.uint8), dtype)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_numpy_widens_as_compiled_loops_do(dtype, monkeypatch):
    every = np.arange(1 << 16, dtype=np.uint16)
    found = []
    for few in (True, False):
        monkeypatch.setattr(floats, "_few", lambda size, few=few: few)
        out = np.empty(every.size, np.float32)
        floats.to_float32(every.view(np.uint8), dtype, out)
        found.append(out.view(np.uint32))
    assert np.array_equal(*found)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_numpy_finds_what_is_not_finite(bad, monkeypatch):
    monkeypatch.setattr(floats, "_few", lambda size: True)
    x = np.array([1, -3.4e38, 0, bad, np.nan], np.float32)
    assert floats.first_nonfinite(x) == 3
    assert floats.first_nonfinite(x[:3]) == -1
    assert floats.first_nonfinite(x[:0]) == -1
