"""Checkpoints for servers: golden words, what goes in comes out, what loaders misread is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers import awq, bitsandbytes, compressed_tensors_config, fp8, gptq, modelopt
from quantkit.formats.containers.awq import AWQLayout
from quantkit.formats.containers.bitsandbytes import BitsandbytesLayout
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.packed import Entry, PackedTensor, pack_words, packed, unpack_words, values_of
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import ZERO, Quantized, nearest
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8

GPTQ = [
    GPTQLayout(Integers(bits, group, symmetry, lowest_zero=2 - version), version)
    for bits in (2, 3, 4, 8)
    for group in (-1, 32, 64)
    for symmetry in ("symmetric", "full-range", "asymmetric")
    for version in (1, 2)
]
AWQ = [AWQLayout(Integers(4, group, symmetry)) for group in (-1, 32) for symmetry in ("symmetric", "asymmetric")]
COMPRESSED = [
    *(CompressedLayout(Integers(bits, group, symmetry, dtype))
      for bits in range(2, 9) for group in (-1, 32) for symmetry in ("symmetric", "asymmetric")
      for dtype in ("BF16", "F16")),
    *(CompressedLayout(Integers(8, -1, scale_dtype="BF16"), activations) for activations in ("dynamic", "static")),
    *(CompressedLayout(Float8(strategy, "BF16"), activations)
      for strategy in ("tensor", "channel", "block") for activations in ("none", "dynamic", "static")),
    CompressedLayout(NVFP4()),
    CompressedLayout(MXFP4()),
]  # fmt: skip
BITSANDBYTES = [
    *(BitsandbytesLayout(Codebook(table, double, block))
      for table in ("nf4", "fp4") for double in (False, True) for block in (64, 128)),
    BitsandbytesLayout(RowInt8()),
]  # fmt: skip
SHAPES = [(64, 64), (96, 128), (160, 192)]
M = "model.layers.0.mlp.up_proj"


def gaussian(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.05).astype(np.float32)


def by_name(tensors: tuple[PackedTensor, ...]) -> dict[str, PackedTensor]:
    return {tensor.entry.name: tensor for tensor in tensors}


def same(a: Quantized, b: Quantized) -> None:
    """Codes, grid and values are equal, and so is everything that a container stores."""
    assert np.array_equal(a.codes, b.codes)
    assert (a.grid.qmin, a.grid.qmax) == (b.grid.qmin, b.grid.qmax)
    assert np.array_equal(a.grid.scale, b.grid.scale)
    assert (a.grid.offset is None) == (b.grid.offset is None)
    assert a.grid.offset is None or np.array_equal(a.grid.offset, b.grid.offset)
    assert set(a.grid.fields) == set(b.grid.fields)
    for key, value in a.grid.fields.items():
        assert np.array_equal(value, b.grid.fields[key]), key
    assert (a.order is None) == (b.order is None)
    assert a.order is None or np.array_equal(a.order, b.order)
    assert np.array_equal(a.values(), b.values())


def check_round_trip(layout, shape: tuple[int, int]) -> None:
    quantized = layout.scheme.encode(gaussian(shape))
    extra = (0.5,) if layout.traits.activations == "static" else ()
    tensors = layout.pack(M, quantized, *extra)
    assert tuple(tensor.entry for tensor in tensors) == layout.entries(M, *shape)
    for tensor in tensors:
        assert tensor.data.dtype == np.uint8
        assert tensor.data.shape == (tensor.entry.nbytes,)
    found = layout.unpack(M, by_name(tensors))
    same(quantized, found)
    again = layout.pack(M, found, *extra)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(tensors, again, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", GPTQ, ids=str)
def test_gptq_round_trip(layout, shape):
    check_round_trip(layout, shape)


@pytest.mark.parametrize("shape", [*SHAPES, (8, 32)])
@pytest.mark.parametrize("layout", AWQ, ids=str)
def test_awq_round_trip(layout, shape):
    check_round_trip(layout, shape)


@pytest.mark.parametrize("shape", [(64, 128), (37, 256), (1, 384)])
@pytest.mark.parametrize("layout", COMPRESSED, ids=str)
def test_compressed_tensors_round_trip(layout, shape):
    check_round_trip(layout, shape)


@pytest.mark.parametrize("shape", [(64, 64), (7, 9), (96, 320), (1, 100)])
@pytest.mark.parametrize("layout", BITSANDBYTES, ids=str)
def test_bitsandbytes_round_trip(layout, shape):
    check_round_trip(layout, shape)


@pytest.mark.parametrize("shape", [(128, 128), (64, 128), (384, 256), (100, 40)])
def test_fp8_round_trip(shape):
    quantized = fp8.SCHEME.encode(gaussian(shape))
    tensors = FP8Layout().pack(M, quantized)
    assert tuple(tensor.entry for tensor in tensors) == FP8Layout().entries(M, *shape)
    same(quantized, FP8Layout().unpack(M, by_name(tensors)))


# Words


def stream(codes: list[int], bits: int) -> list[int]:
    """Words of a dense stream, by arithmetic on one large number."""
    number = sum(code << (bits * place) for place, code in enumerate(codes))
    count = -(-len(codes) * bits // 32)
    return [number >> (32 * word) & 0xFFFFFFFF for word in range(count)]


@settings(derandomize=True, max_examples=150, deadline=None)
@given(bits=st.integers(1, 8), rows=st.integers(1, 3), count=st.integers(1, 70), seed=st.integers(0, 1 << 30))
def test_words_are_a_dense_stream(bits, rows, count, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count))
    words = pack_words(codes, bits)
    assert words.dtype == np.int32
    assert words.view(np.uint32).tolist() == [stream(row.tolist(), bits) for row in codes]
    assert np.array_equal(unpack_words(words, bits, count), codes)


def hexadecimal(tensor: PackedTensor) -> list[str]:
    return [f"{word:08x}" for word in values_of(tensor).view(np.uint32).reshape(-1)]


def quantized(codes: np.ndarray, zero: int | None, low: int = 0) -> Quantized:
    """Codes with one group per row and scales of one."""
    rows = len(codes)
    scale = np.ones((rows, 1), np.float32)
    if zero is None:
        return Quantized(codes.astype(np.int16), Grid(scale, None, low, low + 15))
    fields = {ZERO: np.full((rows, 1), zero, np.int16)}
    return Quantized(codes.astype(np.int16), Grid(scale, scale * -zero, 0, 15, fields=fields))


def test_golden_word():
    """The first code in the lowest bits, as in every container of words but AWQ (MLX has the same)."""
    assert [f"{word:08x}" for word in pack_words(np.arange(8)[None], 4).view(np.uint32).reshape(-1)] == ["76543210"]


def test_golden_gptq_words():
    codes = np.tile(np.arange(8), (32, 4))
    layout = GPTQLayout(Integers(4, -1, "asymmetric", lowest_zero=1))
    tensors = by_name(layout.pack(M, quantized(codes, 8)))
    assert set(hexadecimal(tensors[f"{M}.qweight"])) == {"76543210"}
    assert set(hexadecimal(tensors[f"{M}.qzeros"])) == {"77777777"}
    assert values_of(tensors[f"{M}.g_idx"]).tolist() == [0] * 32


@pytest.mark.parametrize(
    ("bits", "version", "word"),
    [(4, 1, "77777777"), (4, 2, "88888888"), (8, 1, "7f7f7f7f"), (8, 2, "80808080"), (2, 1, "55555555"),
     (2, 2, "aaaaaaaa")],
)  # fmt: skip
def test_golden_symmetric_zero_points(bits, version, word):
    layout = GPTQLayout(Integers(bits, -1), version)
    tensors = by_name(layout.pack(M, layout.scheme.encode(gaussian((32, 32)))))
    assert set(hexadecimal(tensors[f"{M}.qzeros"])) == {word}


def test_golden_three_bits():
    codes = np.tile(np.arange(8), (32, 4))
    expected = ["88fac688", "c688fac6", "fac688fa"]
    grid = Grid(np.ones((32, 1), np.float32), None, -4, 3)
    signed = Quantized((codes - 4).astype(np.int16), grid)
    words = by_name(GPTQLayout(Integers(3)).pack(M, signed))[f"{M}.qweight"]
    assert words.entry.shape == (3, 32)
    assert [word for word in hexadecimal(words)[::32]] == expected
    packed_words = by_name(CompressedLayout(Integers(3)).pack(M, signed))[f"{M}.weight_packed"]
    assert packed_words.entry.shape == (32, 3)
    assert hexadecimal(packed_words)[:3] == expected


def test_golden_awq_word():
    codes = np.tile(np.arange(8)[:, None], (1, 32))
    tensors = by_name(AWQLayout(Integers(4, -1, "asymmetric")).pack(M, quantized(codes, 8)))
    assert tensors[f"{M}.qweight"].entry.shape == (32, 1)
    assert set(hexadecimal(tensors[f"{M}.qweight"])) == {"75316420"}
    assert hexadecimal(tensors[f"{M}.qzeros"]) == ["88888888"]


def test_golden_compressed_tensors_words():
    layout = CompressedLayout(Integers(4, -1, scale_dtype="BF16"))
    tensors = by_name(layout.pack(M, quantized(np.arange(-8, 8)[None], None, -8)))
    assert hexadecimal(tensors[f"{M}.weight_packed"]) == ["76543210", "fedcba98"]
    assert values_of(tensors[f"{M}.weight_shape"]).tolist() == [1, 16]
    assert tensors[f"{M}.weight_scale"].entry == Entry(f"{M}.weight_scale", "BF16", (1, 1))


def test_golden_compressed_tensors_zero_points():
    """Stored signed, 1 7 -8 0 1 2 3 4; ours count from 0."""
    zero = np.array([[1], [7], [-8], [0], [1], [2], [3], [4]], np.int16) + 8
    scale = np.ones((8, 1), np.float32)
    found = Quantized(np.zeros((8, 32), np.int16), Grid(scale, -(scale * zero), 0, 15, fields={ZERO: zero}))
    tensors = by_name(CompressedLayout(Integers(4, -1, "asymmetric")).pack(M, found))
    assert tensors[f"{M}.weight_zero_point"].entry.shape == (1, 1)
    assert hexadecimal(tensors[f"{M}.weight_zero_point"]) == ["cba980f9"]


def test_golden_bitsandbytes_byte_and_state():
    scheme = Codebook("nf4")
    found = Quantized(np.array([[1, 2]], np.int16), scheme.grid(np.ones(1, np.float32), 1, 2))
    tensors = by_name(BitsandbytesLayout(scheme).pack(M, found))
    weight = tensors[f"{M}.weight"]
    assert (weight.entry.shape, weight.data.tolist()) == ((1, 1), [0x12])
    state = tensors[f"{M}.weight.quant_state.bitsandbytes__nf4"].data.tobytes()
    assert state == b'{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [1, 2]}'


def test_the_state_of_double_quantization_has_one_size():
    layout = BitsandbytesLayout(Codebook("nf4", double=True))
    sizes = set()
    for scale in (1e-30, 0.05, 1, 1e20, 0):
        w = gaussian((128, 128)) * np.float32(scale)
        tensors = by_name(layout.pack(M, layout.scheme.encode(w)))
        raw = tensors[f"{M}.weight.quant_state.bitsandbytes__nf4"].data.tobytes()
        assert json.loads(raw)["nested_offset"] == layout.scheme.encode(w).grid.fields["nested_offset"][0]
        assert list(json.loads(raw)) == [
            "quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_dtype", "nested_offset",
        ]  # fmt: skip
        sizes.add(len(raw))
    assert len(sizes) == 1


def test_int8_tensors():
    w = gaussian((3, 40))
    tensors = by_name(BitsandbytesLayout(RowInt8()).pack(M, RowInt8().encode(w)))
    assert [t.entry.name for t in tensors.values()] == [f"{M}.weight", f"{M}.SCB", f"{M}.weight_format"]
    scb = values_of(tensors[f"{M}.SCB"])
    assert np.array_equal(scb, np.abs(w).max(axis=1))
    decoded = values_of(tensors[f"{M}.weight"]) * scb[:, None] / 127
    assert np.abs(decoded - w).max() <= np.abs(w).max() / 127 * 0.501
    assert tensors[f"{M}.weight_format"].data.tolist() == [0]


# Activation order, and groups that are nowhere in order


def test_gptq_keeps_the_order_of_activations():
    w = gaussian((32, 128))
    order = np.random.default_rng(1).permutation(128).astype(np.int32)
    layout = GPTQLayout(Integers(4, 32, "asymmetric"), 2, act_order=True)
    ordered = np.ascontiguousarray(w[:, order])
    grid = layout.scheme.fit(ordered)
    written = Quantized(nearest(ordered, grid), grid, order)
    tensors = by_name(layout.pack(M, written))
    group = values_of(tensors[f"{M}.g_idx"])
    assert np.array_equal(group[order], np.arange(128) // 32)
    found = layout.unpack(M, tensors)
    assert np.array_equal(found.values(), written.values())
    assert np.abs(found.values() - w).max() < 0.02
    codes = unpack_words(values_of(tensors[f"{M}.qweight"]).T, 4, 128).astype(np.float32)
    zero = unpack_words(values_of(tensors[f"{M}.qzeros"]), 4, 32).astype(np.float32)
    scales = values_of(tensors[f"{M}.scales"])
    expected = scales[group].T * (codes - zero[group].T)
    assert np.array_equal(found.values(), expected)


def test_gptq_reads_groups_of_unequal_size():
    layout = GPTQLayout(Integers(4, 32, "asymmetric"), 2)
    tensors = by_name(layout.pack(M, layout.scheme.encode(gaussian((32, 96)))))
    group = np.minimum(np.arange(96) // 40, 2).astype(np.int32)
    tensors[f"{M}.g_idx"] = packed(Entry(f"{M}.g_idx", "I32", (96,)), group)
    codes = unpack_words(values_of(tensors[f"{M}.qweight"]).T, 4, 96).astype(np.float32)
    zero = unpack_words(values_of(tensors[f"{M}.qzeros"]), 4, 32).astype(np.float32)
    expected = values_of(tensors[f"{M}.scales"])[group].T * (codes - zero[group].T)
    assert np.array_equal(layout.unpack(M, tensors).values(), expected)


# What loaders misread


def test_gptq_refuses_a_zero_point_of_zero_in_version_1_only():
    w = np.abs(gaussian((32, 32)))
    scheme = Integers(4, -1, "asymmetric")
    with pytest.raises(UnsupportedError, match="zero point of 0") as caught:
        GPTQLayout(scheme, 1).pack(M, scheme.encode(w))
    assert "gptq_v2" in caught.value.hint
    assert caught.value.tensor == M
    GPTQLayout(scheme, 2).pack(M, scheme.encode(w))
    GPTQLayout(replace(scheme, lowest_zero=1), 1).pack(M, replace(scheme, lowest_zero=1).encode(w))


def test_gptq_notices_version_2_zero_points_that_claim_version_1():
    layout = GPTQLayout(Integers(4, 32), 2)
    tensors = by_name(layout.pack(M, layout.scheme.encode(gaussian((32, 64)))))
    with pytest.raises(InputError, match="zero point of 9, expected 8") as caught:
        replace(layout, version=1).unpack(M, tensors)
    assert "gptq_v2" in caught.value.hint


@pytest.mark.parametrize(
    ("layout", "shape", "why"),
    [
        (GPTQLayout(Integers(5, 32)), (64, 64), "5 bits"),
        (GPTQLayout(Integers(4, 32, scale_dtype="BF16")), (64, 64), "BF16"),
        (GPTQLayout(Integers(4, -1)), (48, 64), "multiples of 32"),
        (GPTQLayout(Integers(4, -1)), (64, 40), "multiples of 32"),
        (GPTQLayout(Integers(4, 128)), (64, 192), "do not divide into groups of 128"),
        (AWQLayout(Integers(3, 32)), (64, 64), "3 bits"),
        (AWQLayout(Integers(4, 32)), (60, 64), "60 outputs"),
        (AWQLayout(Integers(4, 32)), (64, 48), "do not divide into groups of 32"),
        (CompressedLayout(Integers(4, 32)), (64, 48), "do not divide into groups of 32"),
        (CompressedLayout(Float8("block")), (64, 320), "320 inputs"),
        (CompressedLayout(Integers(4, -1), "dynamic"), (64, 64), "W8A8"),
        (CompressedLayout(NVFP4()), (64, 40), "do not divide into groups of 16"),
        (CompressedLayout(MXFP4()), (64, 48), "do not divide into groups of 32"),
        (CompressedLayout(NVFP4(), "dynamic"), (64, 64), "dynamic activations"),
        (CompressedLayout(MXFP4(), "static"), (64, 64), "static activations"),
        (CompressedLayout(Integers(8, 32), "dynamic"), (64, 64), "W8A8"),
        (CompressedLayout(Integers(8, -1, "asymmetric"), "static"), (64, 64), "W8A8"),
        (BitsandbytesLayout(Codebook(block=48)), (64, 64), "blocks of 48"),
    ],
)
def test_what_no_loader_takes_is_refused_before_any_weight(layout, shape, why):
    with pytest.raises(UnsupportedError, match=why) as caught:
        layout.entries(M, *shape)
    assert caught.value.hint


@pytest.mark.parametrize("shape", [(192, 128), (128, 320), (256, 129)])
def test_fp8_refuses_blocks_that_transformers_misreads(shape):
    with pytest.raises(UnsupportedError, match="no multiple of 128"):
        FP8Layout().entries(M, *shape)


def test_fp8_reads_ragged_blocks():
    """Files of others may have them."""
    w = gaussian((192, 320))
    quantized = fp8.SCHEME.encode(w)
    scale = quantized.grid.fields["scale"]
    weight = Entry(f"{M}.weight", "F8_E4M3", w.shape)
    raw = fp8.to_bytes(quantized.codes)
    tensors = by_name((packed(weight, raw), packed(Entry(f"{M}.weight_scale_inv", "F32", (2, 3)), scale)))
    decoded = torch.from_numpy(raw).view(torch.float8_e4m3fn).float().numpy()
    expected = decoded * np.repeat(np.repeat(scale, 128, axis=0), 128, axis=1)[:192, :320]
    assert np.array_equal(FP8Layout().unpack(M, tensors).values(), expected)


# Hostile files

ALL = [
    GPTQLayout(Integers(4, 32, "asymmetric"), 2),
    AWQLayout(Integers(4, 32, "asymmetric")),
    CompressedLayout(Integers(3, 32, "asymmetric")),
    CompressedLayout(Integers(8), "dynamic"),
    CompressedLayout(Float8("block"), "dynamic"),
    CompressedLayout(NVFP4()),
    CompressedLayout(MXFP4()),
    BitsandbytesLayout(Codebook("nf4", double=True)),
    BitsandbytesLayout(RowInt8()),
]
OPTIONAL = ("weight_format",)  # nothing depends on it


def stored(layout) -> dict[str, PackedTensor]:
    return by_name(layout.pack(M, layout.scheme.encode(gaussian((256, 128)))))


@pytest.mark.parametrize("layout", ALL, ids=lambda value: str(value)[:60])
def test_a_missing_or_misshapen_tensor_is_an_input_error(layout):
    for name, tensor in stored(layout).items():
        if name.endswith(OPTIONAL):
            continue
        entry = tensor.entry
        short = tensor.data[: tensor.data.size // 2]
        broken = {
            "missing": None,
            "type": PackedTensor(replace(entry, dtype="F64"), tensor.data),
            "rank": PackedTensor(replace(entry, shape=(*entry.shape, 1, 1)), tensor.data),
            "empty": PackedTensor(replace(entry, shape=(0, 0)), tensor.data[:0]),
            "short": PackedTensor(replace(entry, shape=(entry.shape[0] // 2, *entry.shape[1:])), short),
            "claims more": PackedTensor(entry, short),
        }
        for what, found in broken.items():
            if what == "rank" and "quant_state" in name:
                continue  # bytes of JSON, however they are shaped
            if what == "missing" and name.endswith(".g_idx"):
                continue  # in checkpoints of 2023 the groups lie side by side
            tensors = stored(layout) | {name: found}
            tensors = {key: value for key, value in tensors.items() if value is not None}
            with pytest.raises(InputError):
                layout.unpack(M, tensors)
                pytest.fail(f"{name}: {what} was accepted")


@pytest.mark.parametrize("layout", ALL, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_that_is_no_number_is_an_input_error(layout, bad):
    tensors = stored(layout)
    for name, tensor in tensors.items():
        if tensor.entry.dtype in ("F16", "F32"):
            dtype = np.float16 if tensor.entry.dtype == "F16" else np.float32
            values = tensor.data.view(dtype).copy()
            values[-1] = bad
            broken = tensors | {name: PackedTensor(tensor.entry, values.view(np.uint8))}
            with pytest.raises(InputError, match="holds"):
                layout.unpack(M, broken)


@pytest.mark.parametrize("group", [[4] * 128, [-1] * 128])
def test_gptq_refuses_groups_that_do_not_exist(group):
    layout = ALL[0]
    name = f"{M}.g_idx"
    tensors = stored(layout) | {name: packed(Entry(name, "I32", (128,)), np.array(group, np.int32))}
    with pytest.raises(InputError, match="one of 4 groups"):
        layout.unpack(M, tensors)


@pytest.mark.parametrize("shape", [[1 << 40, 128], [256, 1 << 40], [-1, 128], [256, 0]])
def test_a_shape_that_its_words_cannot_hold_is_refused_before_anything_is_allocated(shape):
    layout = ALL[2]
    name = f"{M}.weight_shape"
    tensors = stored(layout) | {name: packed(Entry(name, "I64", (2,)), np.array(shape, np.int64))}
    with pytest.raises(InputError, match="claims a weight"):
        layout.unpack(M, tensors)


def test_words_of_before_0_18_are_refused_with_a_reason():
    layout = ALL[2]
    name = f"{M}.weight_packed"
    entry = Entry(name, "I32", (256, 13))
    tensors = stored(layout) | {name: packed(entry, np.zeros(entry.shape, np.int32))}
    with pytest.raises(UnsupportedError, match=r"before compressed-tensors 0\.18"):
        layout.unpack(M, tensors)


@pytest.mark.parametrize(
    "state",
    [
        b"", b"\xff", b"[]", b"{}", b'{"quant_type": "fp4"}', b"[" * 5000,
        b'{"quant_type": "nf4", "blocksize": 64, "shape": [128]}',
        b'{"quant_type": "nf4", "blocksize": 64, "shape": [128, -128]}',
        b'{"quant_type": "nf4", "blocksize": 64, "shape": [1e9, 128]}',
        b'{"quant_type": "nf4", "blocksize": 0, "shape": [128, 128]}',
        b'{"quant_type": "nf4", "blocksize": 64, "shape": [1280, 128]}',
        b'{"quant_type": "nf4", "blocksize": 64, "shape": [128, 128], "nested_blocksize": 7}',
        b'{"quant_type": "nf4", "blocksize": 64, "shape": [128, 128], "nested_blocksize": 256, "nested_offset": NaN}',
        b'{"quant_type": "nf4", "blocksize": 64, "shape": [128, 128], "nested_blocksize": 256, "nested_offset": "x"}',
    ],
)  # fmt: skip
def test_a_hostile_state_is_an_input_error(state):
    layout = ALL[7]
    name = f"{M}.weight.quant_state.bitsandbytes__nf4"
    raw = np.frombuffer(state, np.uint8)
    tensors = stored(layout) | {name: PackedTensor(Entry(name, "U8", raw.shape), raw)}
    with pytest.raises(InputError):
        layout.unpack(M, tensors)


# Configurations


@pytest.mark.parametrize("layout", GPTQ, ids=str)
def test_gptq_config_says_what_it_is(layout):
    config = json.loads(json.dumps(gptq.quantization_config(layout, quantizer="quantkit:1")))
    assert config["format"] == config["checkpoint_format"] == ("gptq" if layout.version == 1 else "gptq_v2")
    found = gptq.read_config(config)
    symmetry = "asymmetric" if layout.scheme.symmetry == "asymmetric" else "symmetric"
    assert found == replace(layout, scheme=replace(layout.scheme, symmetry=symmetry))


@pytest.mark.parametrize("layout", AWQ, ids=str)
def test_awq_config_says_what_it_is(layout):
    config = json.loads(json.dumps(awq.quantization_config(layout, exclude=["lm_head"])))
    assert awq.read_config(config).scheme == replace(layout.scheme, symmetry="asymmetric")
    assert awq.read_config({"w_bit": 4, "q_group_size": 64, "version": "GEMM"}).scheme.group == 64


@pytest.mark.parametrize("layout", COMPRESSED, ids=str)
def test_compressed_tensors_config_says_what_it_is(layout):
    config = json.loads(json.dumps(compressed_tensors_config.quantization_config({("Linear",): layout}, kv_cache=True)))
    assert config["format"] == layout.format
    ((targets, found),) = compressed_tensors_config.read_config(config).items()
    assert targets == ("Linear",)
    if isinstance(layout.scheme, Integers | Float8):  # the type of scales is not in the config, but the stored tensor's
        found = replace(found, scheme=replace(found.scheme, scale_dtype=layout.scheme.scale_dtype))
    assert found == layout


def test_several_groups_are_mixed_precision():
    groups = {("re:.*q_proj",): CompressedLayout(Integers(8, 32)), ("Linear",): CompressedLayout(Float8("channel"))}
    config = compressed_tensors_config.quantization_config(groups)
    assert config["format"] == "mixed-precision"
    assert [group["format"] for group in config["config_groups"].values()] == ["pack-quantized", "naive-quantized"]


@pytest.mark.parametrize("layout", BITSANDBYTES, ids=str)
def test_bitsandbytes_config_says_what_it_is(layout):
    config = json.loads(json.dumps(bitsandbytes.quantization_config(layout)))
    found = bitsandbytes.read_config(config).scheme
    assert found == (layout.scheme if isinstance(layout.scheme, RowInt8) else replace(layout.scheme, block=64))


def test_fp8_config_says_what_it_is():
    assert fp8.read_config(json.loads(json.dumps(fp8.quantization_config()))) == fp8.SCHEME
    config = modelopt.hf_quant_config("tensor", version="1", kv_cache=True)
    assert config["quantization"]["quant_algo"] == config["quantization"]["kv_cache_quant_algo"] == "FP8"


@pytest.mark.parametrize(
    ("read", "config", "error", "why"),
    [
        (gptq.read_config, {}, InputError, "bits is missing"),
        (gptq.read_config, {"bits": 5}, UnsupportedError, "bits is 5"),
        (gptq.read_config, {"bits": True}, InputError, "bits is True"),
        (gptq.read_config, {"bits": 4, "sym": "yes"}, InputError, "sym is 'yes'"),
        (gptq.read_config, {"bits": 4, "format": "marlin"}, UnsupportedError, "marlin"),
        (awq.read_config, {"bits": 4, "version": "gemv"}, UnsupportedError, "gemv"),
        (compressed_tensors_config.read_config, {}, InputError, "config_groups"),
        (compressed_tensors_config.read_config, {"config_groups": {"W4A16": ["Linear"]}}, UnsupportedError, "presets"),
        (bitsandbytes.read_config, {}, InputError, "neither"),
        (fp8.read_config, {"weight_block_size": [64, 64]}, UnsupportedError, "64"),
        (fp8.read_config, {}, UnsupportedError, "None"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_by_key(read, config, error, why):
    with pytest.raises(error, match=why) as caught:
        read(config)
    assert caught.value.key
