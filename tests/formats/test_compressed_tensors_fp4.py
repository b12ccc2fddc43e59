"""NVFP4, MXFP4 and scales of keys and values in compressed-tensors checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers import compressed_tensors_config, compressed_tensors_kv
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.formats.containers.packed import Entry, PackedTensor, packed, values_of
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import Quantized
from quantkit.qtypes.schemes.microscaling import FACTOR, LEVELS, MXFP4, NVFP4, SCALE

M = "model.layers.0.mlp.up_proj"
ATTENTION = "model.layers.0.self_attn"
LAYOUTS = {"nvfp4": CompressedLayout(NVFP4()), "mxfp4": CompressedLayout(MXFP4())}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def by_name(tensors: tuple[PackedTensor, ...]) -> dict[str, PackedTensor]:
    return {tensor.entry.name: tensor for tensor in tensors}


def written(layout: CompressedLayout, rows: int = 4, cols: int = 64) -> dict[str, PackedTensor]:
    w = np.random.default_rng(0).standard_normal((rows, cols)).astype(np.float32)
    return by_name(layout.pack(M, layout.scheme.encode(w)))


def quantized(layout: CompressedLayout, codes: np.ndarray, scale: np.ndarray, factor: float) -> Quantized:
    scheme = layout.scheme
    grid = scheme.grid(scale) if isinstance(scheme, MXFP4) else scheme.grid(scale, np.float32(factor))
    return Quantized(codes.astype(np.int16), grid)


def test_names_types_and_shapes():
    assert LAYOUTS["nvfp4"].entries(M, 6, 64) == (
        Entry(f"{M}.weight_packed", "U8", (6, 32)),
        Entry(f"{M}.weight_scale", "F8_E4M3", (6, 4)),
        Entry(f"{M}.weight_global_scale", "F32", (1,)),
    )
    assert LAYOUTS["mxfp4"].entries(M, 6, 64) == (
        Entry(f"{M}.weight_packed", "U8", (6, 32)),
        Entry(f"{M}.weight_scale", "U8", (6, 2)),
    )


@each_layout
def test_golden_byte_has_the_even_element_in_its_low_half(layout):
    codes = np.tile([1, 2], (1, 16))
    groups = 32 // layout.scheme.group
    tensors = by_name(layout.pack(M, quantized(layout, codes, np.full((1, groups), 56, "u1"), 2)))
    assert set(tensors[f"{M}.weight_packed"].data.tolist()) == {0x21}


def test_golden_tensors():
    """Scale 0x38 is 1 and the factor 2: codes 7 and 9 are 6 / 2 and -0.5 / 2."""
    tensors = by_name(
        LAYOUTS["nvfp4"].pack(M, quantized(LAYOUTS["nvfp4"], np.tile([7, 9], (1, 8)), np.array([[0x38]], "u1"), 2))
    )
    assert tensors[f"{M}.weight_packed"].data.tolist() == [0x97] * 8
    assert tensors[f"{M}.weight_scale"].data.tolist() == [0x38]
    assert values_of(tensors[f"{M}.weight_global_scale"]).tolist() == [2]
    found = LAYOUTS["nvfp4"].unpack(M, tensors)
    assert found.values()[0, :2].tolist() == [3, -0.25]


@each_layout
@settings(derandomize=True, max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), groups=st.integers(1, 4), seed=st.integers(0, 1 << 30))
def test_any_codes_and_scales_come_back(layout, rows, groups, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (rows, groups * layout.scheme.group))
    scale = rng.integers(0, 0x7F, (rows, groups)).astype(np.uint8)
    before = quantized(layout, codes, scale, float(rng.uniform(0.1, 1e4)))
    tensors = layout.pack(M, before)
    after = layout.unpack(M, by_name(tensors))
    assert np.array_equal(before.codes, after.codes)
    assert np.array_equal(before.grid.scale, after.grid.scale)
    assert np.array_equal(before.values(), after.values())
    assert set(before.grid.fields) == set(after.grid.fields)
    again = layout.pack(M, after)
    assert [t.data.tolist() for t in tensors] == [t.data.tolist() for t in again]


def test_weights_that_share_a_factor_store_the_same_one():
    rng = np.random.default_rng(3)
    siblings = [rng.standard_normal((4, 64)).astype(np.float32) * size for size in (1, 3, 0.1)]
    scheme = NVFP4(largest=float(max(np.abs(w).max() for w in siblings)))
    stored = {CompressedLayout(scheme).pack(M, scheme.encode(w))[2].data.tobytes() for w in siblings}
    assert len(stored) == 1


def test_the_configuration_is_that_of_the_presets():
    """Keys and values of NVFP4A16 and MXFP4A16 as compressed-tensors 0.20 dumps them, nulls aside."""
    expected = {
        "nvfp4": ("tensor_group", 16, "torch.float8_e4m3fn"),
        "mxfp4": ("group", 32, "torch.uint8"),
    }
    for name, (strategy, size, dtype) in expected.items():
        config = json.loads(json.dumps(compressed_tensors_config.quantization_config({("Linear",): LAYOUTS[name]})))
        group = config["config_groups"]["group_0"]
        assert config["format"] == group["format"] == f"{name}-pack-quantized"
        assert group["input_activations"] is None
        assert {key: value for key, value in group["weights"].items() if value is not None} == {
            "num_bits": 4, "type": "float", "strategy": strategy, "symmetric": True, "dynamic": False,
            "group_size": size, "scale_dtype": dtype, "zp_dtype": dtype,
        }  # fmt: skip


@pytest.mark.parametrize("size", [64, 128, 8])
def test_groups_of_another_size_are_refused_by_key(size):
    config = compressed_tensors_config.quantization_config({("Linear",): LAYOUTS["mxfp4"]})
    config["config_groups"]["group_0"]["weights"]["group_size"] = size
    with pytest.raises(UnsupportedError, match="group_size") as caught:
        compressed_tensors_config.read_config(config)
    assert "16, 32" in caught.value.hint


def test_quantized_activations_are_read_past():
    """W4A4: the weights are the same, how activations would be rounded does not matter to a reader of weights."""
    config = compressed_tensors_config.quantization_config({("Linear",): LAYOUTS["nvfp4"]})
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 4, "type": "float", "dynamic": "local"}
    ((_, layout),) = compressed_tensors_config.read_config(config).items()
    tensors = written(LAYOUTS["nvfp4"])
    tensors[f"{M}.input_global_scale"] = packed(Entry(f"{M}.input_global_scale", "F32", (1,)), np.ones(1, np.float32))
    expected = LAYOUTS["nvfp4"].unpack(M, tensors).values()
    assert np.array_equal(layout.unpack(M, tensors).values(), expected)


# Hostile files


@each_layout
def test_a_scale_that_is_no_number_is_refused_by_name(layout):
    tensors = written(layout)
    name = f"{M}.weight_scale"
    data = tensors[name].data.copy()
    data[3] = 0xFF
    with pytest.raises(InputError, match="scale 3 is not a number") as caught:
        layout.unpack(M, tensors | {name: replace(tensors[name], data=data)})
    assert caught.value.tensor == name
    assert name in caught.value.message


@pytest.mark.parametrize("factor", [0, -2, np.nan, np.inf])
def test_a_global_scale_that_is_no_divisor_is_refused(factor):
    name = f"{M}.weight_global_scale"
    broken = packed(Entry(name, "F32", (1,)), np.array([factor], np.float32))
    with pytest.raises(InputError):
        LAYOUTS["nvfp4"].unpack(M, written(LAYOUTS["nvfp4"]) | {name: broken})


def test_a_global_scale_per_row_is_refused():
    name = f"{M}.weight_global_scale"
    broken = packed(Entry(name, "F32", (4,)), np.ones(4, np.float32))
    with pytest.raises(InputError, match=r"shape \[4\], expected \[1\]"):
        LAYOUTS["nvfp4"].unpack(M, written(LAYOUTS["nvfp4"]) | {name: broken})


@each_layout
def test_codes_that_are_no_whole_groups_are_refused(layout):
    name = f"{M}.weight_packed"
    broken = packed(Entry(name, "U8", (4, 33)), np.zeros((4, 33), np.uint8))
    with pytest.raises(InputError, match="no groups of"):
        layout.unpack(M, written(layout) | {name: broken})


def test_mxfp4_does_not_read_nvfp4():
    with pytest.raises(InputError):
        LAYOUTS["mxfp4"].unpack(M, written(LAYOUTS["nvfp4"]))


def test_levels_are_one_table():
    grid: Grid = LAYOUTS["nvfp4"].scheme.fit(np.ones((1, 16), np.float32))
    assert grid.levels is LEVELS
    assert {SCALE, FACTOR} == set(grid.fields)


# Keys and values


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_scales_of_keys_and_values_come_back(dtype):
    tensors = compressed_tensors_kv.pack_kv_scales(ATTENTION, (448, 3), dtype)
    assert tuple(t.entry for t in tensors) == compressed_tensors_kv.kv_cache_entries(ATTENTION, dtype)
    assert [(t.entry.name, t.entry.shape) for t in tensors] == [
        (f"{ATTENTION}.k_scale", (1,)), (f"{ATTENTION}.v_scale", (1,)),
    ]  # fmt: skip
    found = compressed_tensors_kv.unpack_kv_scales(ATTENTION, by_name(tensors))
    assert found[0].tolist() == [1]
    assert found[1] == pytest.approx(3 / 448, rel=2**-8)
    assert found[1] == values_of(tensors[1])


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
@pytest.mark.parametrize("which", ["k_scale", "v_scale"])
def test_a_scale_of_keys_or_values_that_is_no_scale_is_refused(which, bad):
    tensors = by_name(compressed_tensors_kv.pack_kv_scales(ATTENTION, (448, 448), "F32"))
    name = f"{ATTENTION}.{which}"
    tensors[name] = packed(Entry(name, "F32", (1,)), np.array([bad], np.float32))
    with pytest.raises(InputError) as caught:
        compressed_tensors_kv.unpack_kv_scales(ATTENTION, tensors)
    assert caught.value.tensor == name


def test_the_configuration_names_the_scheme_of_keys_and_values():
    config = compressed_tensors_config.quantization_config({("Linear",): LAYOUTS["nvfp4"]}, kv_cache=True)
    assert config["kv_cache_scheme"] == {
        "num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False,
    }  # fmt: skip
    assert compressed_tensors_config.quantization_config({("Linear",): LAYOUTS["nvfp4"]})["kv_cache_scheme"] is None
