"""Every quantization type: its bytes against ggml, its values against the gguf package, its grid against itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
import weights
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ggml

from quantkit import qtypes
from quantkit.errors import NonFiniteError, UnsupportedError
from quantkit.formats.gguf.layout import TypeLayout
from quantkit.qtypes import base
from quantkit.qtypes.base import Grid, QuantType
from quantkit.quality.tensor_errors import undecodable

NAMES = base.names()
CODED = tuple(name for name in NAMES if base.get(name).widen is None)
FREE = tuple(name for name in CODED if base.get(name).columnwise)
TOGETHER = tuple(name for name in CODED if not base.get(name).columnwise)
IN_GGUF = tuple(name for name in NAMES if base.get(name).gguf is not None)


def assert_ggml_bytes(qtype: QuantType, w: np.ndarray, importance: np.ndarray | None) -> None:
    """Our bytes are ggml's; where ggml refuses its own bytes, we raise or write bytes that it accepts."""
    expected = ggml.quantize(qtype.gguf, w, importance)
    if ggml.validate(qtype.gguf, expected):
        found = qtype.encode(w, importance)
        blocks = (found != expected).reshape(-1, qtype.nbytes).any(axis=1)
        assert not blocks.any(), f"{blocks.sum()} of {blocks.size} blocks differ, first {blocks.argmax()}"
        return
    try:
        found = qtype.encode(w, importance)
    except NonFiniteError as error:
        assert 0 <= error.index < w.size
        return
    assert ggml.validate(qtype.gguf, found)


def reference_values(qtype: QuantType, raw: np.ndarray) -> np.ndarray:
    """What the gguf package decodes from bytes (rows, row_bytes), or ggml where the package does not know the type."""
    if undecodable(frozenset({qtype.name})):
        return ggml.dequantize(qtype.gguf, raw, raw.shape[1] // qtype.nbytes * qtype.block)
    number = gguf.GGMLQuantizationType(qtype.gguf)
    native = {0: np.float32, 1: np.float16}.get(qtype.gguf)
    return gguf.quants.dequantize(raw if native is None else raw.view(native), number).astype(np.float32)


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids hold the same numbers and the same private fields."""
    if (a.qmin, a.qmax, a.offset is None, set(a.fields)) != (b.qmin, b.qmax, b.offset is None, set(b.fields)):
        return False
    pairs = [(a.scale, b.scale), *((a.fields[key], b.fields[key]) for key in a.fields)]
    pairs += [] if a.offset is None or b.offset is None else [(a.offset, b.offset)]
    return all(np.array_equal(x, y) for x, y in pairs)


def nearest_codes(w: np.ndarray, grid: Grid) -> np.ndarray:
    """The best code for every weight of blocks (n, block), by trying all of them."""
    shape = w.shape
    candidates = np.arange(grid.qmin, grid.qmax + 1, dtype=np.int16)
    errors = np.stack([np.abs(grid.values(np.full(shape, code, np.int16)) - w) for code in candidates])
    return candidates[errors.argmin(axis=0)]


def test_the_registry_finds_types_and_no_tools():
    assert {"f32", "f16", "bf16", "q8_0", "tq1_0"} <= set(NAMES)
    assert not {"base", "floats", "bits", "search"} & set(NAMES)
    assert isinstance(qtypes.NUMERICS, int)


def test_an_unknown_type_suggests_the_nearest():
    with pytest.raises(UnsupportedError, match='"q8-0"; did you mean "q8_0"') as caught:
        base.get("q8-0")
    assert "q8_0" in str(caught.value.hint)


@pytest.mark.parametrize("name", NAMES)
def test_facts_of_a_type(name):
    qtype = base.get(name)
    assert qtype.name == name
    assert qtype.row_bytes(3 * qtype.block) == 3 * qtype.nbytes
    assert (qtype.widen is None) == (qtype.code_bytes is not None), "float types have no codes, all others count them"
    if qtype.code_bytes is not None:
        assert 0 < qtype.code_bytes < qtype.nbytes


@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_number_and_sizes(name):
    qtype = base.get(name)
    assert ggml.TYPE_IDS[name] == qtype.gguf
    assert ggml.row_size(qtype.gguf, 3 * qtype.block) == 3 * qtype.nbytes
    assert ggml.inputs_type(qtype.gguf).lower() == qtype.inputs
    if qtype.gguf in set(gguf.GGMLQuantizationType):
        number = gguf.GGMLQuantizationType(qtype.gguf)
        assert number.name.lower() == name
        assert gguf.GGML_QUANT_SIZES[number] == (qtype.block, qtype.nbytes)


@pytest.mark.parametrize("case", weights.CASES)
@pytest.mark.parametrize("name", IN_GGUF)
def test_encode_writes_the_bytes_of_ggml(name, case):
    w = weights.weights(case)
    for importance in weights.importances(w.shape[1]).values():
        assert_ggml_bytes(base.get(name), w, importance)


@pytest.mark.parametrize("importance", ["none", "spread"])
@pytest.mark.parametrize("name", IN_GGUF)
def test_encode_writes_the_bytes_of_ggml_for_a_trained_model(name, importance):
    step = 1 if base.get(name).columnwise else 16  # ggml takes half a microsecond for a weight of the others
    for _, w in weights.tiny_tensors():
        w = w[::step]
        assert_ggml_bytes(base.get(name), w, weights.importances(w.shape[1])[importance])


@pytest.mark.parametrize("name", IN_GGUF)
@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    case=st.sampled_from(sorted(weights.CASES)),
    seed=st.integers(0, 1 << 30),
    scale=st.floats(1e-6, 1e6),
    rows=st.integers(1, 5),
    blocks=st.integers(1, 3),
)
def test_encode_writes_the_bytes_of_ggml_for_any_shape(name, case, seed, scale, rows, blocks):
    qtype = base.get(name)
    cols = max(qtype.block, 16) * blocks
    w = np.clip(weights.weights(case, (rows, -(-cols // 256) * 256), seed)[:, :cols] * np.float32(scale), -3e38, 3e38)
    for importance in (None, weights.importances(cols)["spread"]):
        assert_ggml_bytes(qtype, w, importance)


@pytest.mark.parametrize("name", NAMES)
def test_types_that_claim_to_ignore_importance_do(name):
    qtype = base.get(name)
    w = weights.weights("gaussian")
    importance = weights.importances(w.shape[1])["spread"]
    same = np.array_equal(qtype.encode(w, None), qtype.encode(w, importance))
    assert same == (not qtype.uses_importance)


@pytest.mark.parametrize("importance", ["none", "spread"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_encoded_independently(name, importance):
    qtype = base.get(name)
    w = weights.weights("student-t", (37, 768))
    weight = weights.importances(768)[importance]
    whole = qtype.encode(w, weight)
    assert whole.shape == (37, qtype.row_bytes(768))
    assert whole.dtype == np.uint8
    order = np.random.default_rng(1).permutation(37)
    assert np.array_equal(qtype.encode(w[order], weight), whole[order])
    cuts = [(0, 1), (1, 1), (1, 18), (18, 36), (36, 37)]
    with ThreadPoolExecutor(4) as pool:
        slabs = list(pool.map(lambda cut: qtype.encode(w[cut[0] : cut[1]], weight), cuts))
    assert np.array_equal(np.concatenate(slabs), whole)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_slab_is_fine(name):
    qtype = base.get(name)
    assert qtype.encode(np.empty((0, 512), np.float32), None).shape == (0, qtype.row_bytes(512))
    assert qtype.decode(np.empty((0, qtype.row_bytes(512)), np.uint8), 512).shape == (0, 512)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": lambda w: np.frombuffer(w.tobytes(), np.float32).reshape(w.shape),
    "fortran": np.asfortranarray,
    "columns of a wider matrix": lambda w: np.concatenate([w, w], axis=1)[:, : w.shape[1]],
    "every second row": lambda w: np.repeat(w, 2, axis=0)[::2],
    "reversed twice": lambda w: np.ascontiguousarray(w[::-1])[::-1],
    "misaligned": lambda w: np.frombuffer(b"x" + w.tobytes(), np.uint8)[1:].view(np.float32).reshape(w.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_any_memory_layout_is_accepted_and_never_written_to(name, layout):
    qtype = base.get(name)
    w = weights.weights("gaussian", (5, 512))
    importance = weights.importances(512)["smooth"]
    kept, kept_importance = w.copy(), importance.copy()
    expected = qtype.encode(w, importance)
    assert np.array_equal(qtype.encode(LAYOUTS[layout](w), importance), expected)
    if name in CODED:
        assert same_grid(qtype.fit(LAYOUTS[layout](w), importance), qtype.fit(w, importance))
    assert np.array_equal(w, kept)
    assert np.array_equal(importance, kept_importance)


@pytest.mark.parametrize("name", NAMES)
def test_the_result_does_not_share_memory_with_the_weights(name):
    w = weights.weights("gaussian", (2, 256))
    assert not np.shares_memory(base.get(name).encode(w, None), w)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["zeros", "minus-zeros"])
def test_zeros_stay_zeros(name, case):
    qtype = base.get(name)
    w = weights.weights(case)
    for importance in weights.importances(w.shape[1]).values():
        assert not qtype.decode(qtype.encode(w, importance), w.shape[1]).any()


@pytest.mark.parametrize("importance", ["none", "spread"])
@pytest.mark.parametrize("name", NAMES)
def test_four_times_the_weights_decode_to_four_times_the_values(name, importance):
    """Exact: with no overflow or underflow, every operation of every encoder scales by powers of two, roots too."""
    qtype = base.get(name)
    w = weights.weights("student-t")
    weight = weights.importances(w.shape[1])[importance]
    once, four = (qtype.decode(qtype.encode(x, weight), w.shape[1]) for x in (w, w * 4))
    assert np.array_equal(once * 4, four)


@pytest.mark.parametrize("name", CODED)
def test_more_bits_and_importance_help(name):
    """An encoder that picks absurd codes fails here even where no oracle exists."""
    qtype = base.get(name)
    w = weights.weights("gaussian")
    error = np.square(qtype.decode(qtype.encode(w, None), w.shape[1]) - w).mean()
    # A uniform quantizer of b bits over +-4 sigma has an error near (8 / 2**b)**2 / 12; ternary types are far from it.
    assert error < 2 * (8 / 2**qtype.bits_per_weight) ** 2 / 12 or name in {"tq1_0", "tq2_0", "q2_0"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"f32", "bf16", "mxfp4", "nvfp4"}))
def test_a_scale_that_float16_cannot_hold_names_the_block(name):
    """Up to about 1e12: beyond that the sums of a search overflow, and ggml writes zeros that it accepts."""
    qtype = base.get(name)
    w = np.zeros((2, 512), np.float32)
    w[1, 256:] = np.linspace(-1e10, 1e10, 256, dtype=np.float32)
    with pytest.raises(NonFiniteError) as caught:
        qtype.encode(w, None)
    assert 512 + 256 <= caught.value.index < 1024
    assert caught.value.index // qtype.block * qtype.block >= 512 + 256
    if name in CODED:
        with pytest.raises(NonFiniteError):
            qtype.fit(w, None)


@pytest.mark.parametrize("name", IN_GGUF)
def test_decode_equals_another_reader_bit_for_bit(name):
    qtype = base.get(name)
    for case in weights.CASES:
        w = weights.weights(case)
        for importance in weights.importances(w.shape[1]).values():
            raw = ggml.quantize(qtype.gguf, w, importance)
            if ggml.validate(qtype.gguf, raw):
                found, expected = qtype.decode(raw, w.shape[1]), reference_values(qtype, raw)
                assert found.dtype == np.float32
                assert np.array_equal(found.view(np.uint32), expected.view(np.uint32)), case


@pytest.mark.parametrize("name", IN_GGUF)
def test_decode_equals_another_reader_for_random_bytes(name):
    """All codes and scales, also those that no encoder writes; only the payload of a NaN may differ."""
    qtype = base.get(name)
    raw = np.random.default_rng(3).integers(0, 256, (64, qtype.row_bytes(1024)), np.uint8)
    with np.errstate(all="ignore"):
        found, expected = qtype.decode(raw, 1024), reference_values(qtype, raw)
    both_nan = np.isnan(found) & np.isnan(expected)
    assert np.array_equal(found.view(np.uint32)[~both_nan], expected.view(np.uint32)[~both_nan])


@pytest.mark.parametrize("name", NAMES)
def test_decode_accepts_any_memory_layout(name):
    qtype = base.get(name)
    raw = qtype.encode(weights.weights("gaussian", (5, 512)), None)
    expected = qtype.decode(raw, 512)
    wide = np.concatenate([raw, raw], axis=1)[:, : raw.shape[1]]
    shifted = np.frombuffer(b"x" + raw.tobytes(), np.uint8)[1:].reshape(raw.shape)
    kept = raw.copy()
    assert np.array_equal(qtype.decode(wide, 512), expected)
    assert np.array_equal(qtype.decode(shifted, 512), expected)
    assert np.array_equal(raw, kept)


@pytest.mark.parametrize("name", CODED)
def test_pack_is_the_inverse_of_unpack(name):
    qtype = base.get(name)
    for case in weights.CASES:
        w = weights.weights(case)
        try:
            raw = qtype.encode(w, None).reshape(-1, qtype.nbytes)
        except NonFiniteError:
            continue
        codes, grid = qtype.unpack(raw)
        assert codes.dtype == np.int16
        assert codes.shape == (len(raw), qtype.block)
        assert (grid.qmin <= codes).all()
        assert (codes <= grid.qmax).all()
        assert np.array_equal(qtype.pack(codes, grid), raw), case


@pytest.mark.parametrize("importance", ["none", "spread"])
@pytest.mark.parametrize("name", FREE)
def test_unpack_is_the_inverse_of_pack(name, importance):
    qtype = base.get(name)
    w = weights.weights("student-t")
    grid = qtype.fit(w, weights.importances(w.shape[1])[importance])
    assert grid.scale.dtype == np.float32
    assert qtype.block % grid.scale.shape[1] == 0
    rng = np.random.default_rng(5)
    codes = rng.integers(grid.qmin, grid.qmax + 1, (len(grid.scale), qtype.block)).astype(np.int16)
    kept = codes.copy()
    raw = qtype.pack(codes, grid)
    assert raw.dtype == np.uint8
    assert raw.shape == (len(codes), qtype.nbytes)
    assert np.array_equal(codes, kept)
    found, stored = qtype.unpack(raw)
    assert np.array_equal(found, codes)
    assert same_grid(stored, grid), "fit must return scales as the bytes store them"
    assert np.array_equal(
        grid.values(codes), qtype.decode(raw.reshape(w.shape[0], -1), w.shape[1]).reshape(codes.shape)
    )


@pytest.mark.parametrize("importance", ["none", "spread"])
@pytest.mark.parametrize("name", [name for name in CODED if name in IN_GGUF])
def test_a_layout_stores_the_encoder_s_bytes(name, importance):
    """Calibrated runs round types whose codes are chosen together this way: codes and grid, then bytes."""
    w = weights.weights("zero-sub-blocks", (4, 512))
    weight = weights.importances(512)[importance]
    layout = TypeLayout(name)
    [stored] = layout.pack("m", layout.scheme.encode(w, weight))
    assert np.array_equal(stored.data, base.get(name).encode(w, weight).reshape(-1))


@pytest.mark.parametrize("name", TOGETHER)
def test_codes_that_are_chosen_together_give_way_to_the_nearest(name):
    """What `pack` writes is a fixed point, and no other vector that it writes is much nearer to the codes asked for."""
    qtype = base.get(name)
    w = weights.weights("gaussian", (1, 512))
    grid = qtype.fit(w, None)
    rng = np.random.default_rng(5)
    codes = rng.integers(grid.qmin, grid.qmax + 1, (2, 256)).astype(np.int16)
    found, stored = qtype.unpack(qtype.pack(codes, grid))
    assert same_grid(stored, grid)
    again, _ = qtype.unpack(qtype.pack(found, grid))
    assert np.array_equal(again, found)
    error = np.square(grid.levels[found] - grid.levels[codes]).mean()
    others = [qtype.unpack(qtype.pack(rng.permuted(codes, axis=1), grid))[0] for _ in range(20)]
    assert all(error < 0.5 * np.square(grid.levels[other] - grid.levels[codes]).mean() for other in others)


@pytest.mark.parametrize("case", ["gaussian", "student-t", "bf16", "zero-sub-blocks", "positive"])
@pytest.mark.parametrize("name", FREE)
def test_rounding_on_the_fitted_grid_is_as_good_as_the_encoder(name, case):
    """Methods round to `fit`'s grid themselves; that must not cost accuracy against `encode` (same search behind
    both, so the error differs only by ties and by scales that the encoder uses unrounded: 5 % is generous)."""
    qtype = base.get(name)
    w = weights.weights(case, (4, 512))
    grid = qtype.fit(w, None)
    blocks = w.reshape(-1, qtype.block)
    rounded = np.square(grid.values(nearest_codes(blocks, grid)) - blocks).sum()
    encoded = np.square(qtype.decode(qtype.encode(w, None), 512) - w).sum()
    assert rounded <= 1.05 * encoded


@pytest.mark.parametrize("name", CODED)
def test_zero_blocks_have_a_usable_grid(name):
    qtype = base.get(name)
    w = np.zeros((2, 512), np.float32)
    grid = qtype.fit(w, None)
    codes = nearest_codes(w.reshape(-1, qtype.block), grid)
    assert not qtype.decode(qtype.pack(codes, grid).reshape(2, -1), 512).any()


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(CODED)))
def test_float_types_say_that_they_have_no_codes(name):
    qtype = base.get(name)
    with pytest.raises(UnsupportedError, match="no codes"):
        qtype.fit(np.zeros((1, 32), np.float32), None)
    with pytest.raises(UnsupportedError, match="no codes"):
        qtype.unpack(np.zeros((1, 4), np.uint8))
