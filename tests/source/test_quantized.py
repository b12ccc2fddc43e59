"""Quantized checkpoints as sources: what is read is what the container decodes, to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_folder import (
    VARIANTS,
    WEIGHTS,
    pack_module,
    plain_tensor,
    round_weight,
    write_folder,
    write_tensors,
)

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.packed import Entry, PackedTensor, packed, values_of
from quantkit.qtypes.schemes.base import Quantized
from quantkit.source import open_source
from quantkit.source.quantized import LINE_BYTES

UP = "model.layers.0.mlp.experts.3.up_proj"
DOWN = "model.layers.0.mlp.experts.3.down_proj"
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def gaussian(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, cols)) * 0.05).astype(np.float32)


def modules(name: str) -> dict[str, Quantized]:
    """Two modules of a variant, of shapes that its container takes and whose edges lie where pieces do not end."""
    layout = VARIANTS[name].layout
    shapes = [(160, 256), (96, 128)]
    if name.startswith(("packed", "int8", "fp8-channel", "fp8-tensor", "modelopt-fp8-channel", "llm")):
        shapes = [(101, 256), (67, 128)]
    if name.startswith(("fp8-block", "modelopt-fp8-block")):
        shapes = [(300, 384), (64, 256)]
    if name.startswith(("nf4", "fp4")):
        shapes = [(96, 320), (37, 111)]
    if name == "native-fp8":
        shapes = [(384, 256), (100, 40)]
    return {m: round_weight(layout, gaussian(*shape)) for m, shape in zip((UP, DOWN), shapes, strict=True)}


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Quantized]]:
    rounded = modules(request.param)
    norm = plain_tensor("model.norm.weight", gaussian(1, 256)[0])
    cache = plain_tensor("model.layers.0.self_attn.k_scale", np.ones(1, np.float32))
    path = write_folder(tmp_path / "m", VARIANTS[request.param], rounded, [norm, cache], {"dtype": "float16"})
    return path, rounded


each_folder = pytest.mark.parametrize("folder", VARIANTS, indirect=True)


@each_folder
def test_weights_are_what_the_container_decodes(folder):
    path, rounded = folder
    checkpoint = open_source(str(path))
    assert set(checkpoint.tensors()) == {*(f"{name}.weight" for name in rounded), "model.norm.weight"}
    assert "quantization_config" not in checkpoint.config
    for name, quantized in rounded.items():
        ref = checkpoint.ref(f"{name}.weight")
        expected = quantized.values()
        rows, cols = expected.shape
        info = checkpoint.tensors()[f"{name}.weight"]
        assert (info.shape, info.dtype, ref.info) == (expected.shape, "F16", info)
        assert info.stored_as
        whole = ref.read(0, rows)
        assert (whole.dtype, whole.flags.c_contiguous, whole.flags.writeable) == (np.float32, True, True)
        assert whole.view(np.uint32).tobytes() == expected.view(np.uint32).tobytes()
        cuts = [0, 1, 7, 8, 33, min(64, rows - 2), rows - 1, rows]
        slabs = [ref.read(start, stop) for start, stop in pairwise(cuts)]
        assert all(slab.flags.c_contiguous and slab.flags.writeable for slab in slabs)
        assert np.concatenate(slabs).tobytes() == expected.tobytes()
        assert ref.read(5, rows - 3).tobytes() == expected[5 : rows - 3].tobytes()
        assert ref.read(4, 4).shape == (0, cols)
        assert ref.read_packed(3, 9).view(np.float16).tobytes() == expected[3:9].astype(np.float16).tobytes()
    checkpoint.close()


@each_folder
def test_sizes_are_those_of_all_parts(folder):
    path, rounded = folder
    checkpoint = open_source(str(path))
    raw = path.joinpath(WEIGHTS).read_bytes()
    sizes = {
        name: entry["data_offsets"][1] - entry["data_offsets"][0]
        for name, entry in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]).items()
        if name != "__metadata__" and not name.endswith(("input_scale", "weight_format"))
    }
    for name in rounded:
        mine = sum(size for part, size in sizes.items() if part.startswith(f"{name}."))
        assert checkpoint.tensors()[f"{name}.weight"].nbytes == mine
    checkpoint.close()


@pytest.mark.parametrize("name", ["gptq-v1-3-asymmetric-g64-act", "gptq-v2-4-symmetric-g32", "awq-asymmetric-g32"])
def test_long_lines_are_read_in_pieces(name, tmp_path):
    layout = VARIANTS[name].layout
    rows = 8 * (LINE_BYTES + 32) if name.startswith("awq") else LINE_BYTES // 4 + 32
    quantized = round_weight(layout, gaussian(rows, 64))
    ref = open_source(str(write_folder(tmp_path / "m", VARIANTS[name], {UP: quantized}))).ref(f"{UP}.weight")
    expected = quantized.values()
    assert np.array_equal(ref.read(rows - 100, rows - 3), expected[rows - 100 : rows - 3])
    assert np.array_equal(ref.read(0, rows), expected)


def reshaped(tensors: Mapping[str, PackedTensor], name: str, shape: tuple[int, ...]) -> dict[str, PackedTensor]:
    tensor = tensors[name]
    return {**tensors, name: PackedTensor(Entry(name, tensor.entry.dtype, shape), tensor.data)}


@pytest.mark.parametrize(
    ("name", "part", "shape"),
    [
        ("modelopt-fp8-tensor", "weight_scale", ()),
        ("modelopt-fp8-channel", "weight_scale", (256,)),
        ("modelopt-fp8-block", "weight_scale", (2, 1, 2, 1)),
        ("fp8-tensor-static", "weight_scale", ()),
        ("fp8-channel-none", "weight_scale", (256,)),
        ("int8-dynamic", "weight_scale", (256,)),
        ("packed-4-symmetric-g-1", "weight_scale", (256,)),
    ],
)
def test_scales_of_other_shapes(name, part, shape, tmp_path):
    tensors = reshaped(parts(name), f"{UP}.{part}", shape)
    expected = round_weight(VARIANTS[name].layout, gaussian(256, 256)).values()
    assert np.array_equal(read_all(damaged(tmp_path / "m", name, tensors.values())), expected)


def test_one_scale_for_all_rows(tmp_path):
    tensors = dict(parts("int8-dynamic"))
    codes = values_of(tensors[f"{UP}.weight"])
    tensors[f"{UP}.weight_scale"] = plain_tensor(f"{UP}.weight_scale", np.array([0.25], np.float32))
    found = read_all(damaged(tmp_path / "m", "int8-dynamic", tensors.values()))
    assert np.array_equal(found, codes.astype(np.float32) / 4)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq_groups_of_unequal_size(bits, version, tmp_path):
    """Against the plain formula, for columns that belong to groups in no order at all."""
    random = np.random.default_rng(bits)
    rows, cols, groups, per_word = 64, 96, 5, 32 // bits
    codes, zeros = random.integers(0, 1 << bits, (cols, rows)), random.integers(1, 1 << bits, (groups, rows))
    group = random.integers(0, groups, cols)
    scales = random.standard_normal((groups, rows)).astype(np.float16).astype(np.float32)
    shifts = bits * np.arange(per_word)
    qweight = (codes.reshape(-1, per_word, rows) << shifts[:, None]).sum(axis=1).astype(np.uint32).view(np.int32)
    stored = zeros - (version == 1)
    qzeros = (stored.reshape(groups, -1, per_word) << shifts).sum(axis=2).astype(np.uint32).view(np.int32)
    name = f"gptq-v{version}-{bits}-asymmetric-g64-act"
    tensors = [
        packed(Entry(f"{UP}.qweight", "I32", qweight.shape), qweight),
        packed(Entry(f"{UP}.qzeros", "I32", qzeros.shape), qzeros),
        plain_tensor(f"{UP}.scales", scales, "F16"),
        packed(Entry(f"{UP}.g_idx", "I32", (cols,)), group.astype(np.int32)),
    ]
    checkpoint = open_source(str(damaged(tmp_path / "m", name, tensors)))
    found = checkpoint.ref(f"{UP}.weight")
    expected = ((codes - zeros[group]).astype(np.float32) * scales[group]).T
    assert np.array_equal(found.read(0, rows), expected)
    assert np.array_equal(found.read(13, 37), expected[13:37])
    checkpoint.close()


# Damage


@cache
def parts(name: str) -> Mapping[str, PackedTensor]:
    """The tensors of one module of a variant that its weight needs: made once."""
    found = pack_module(VARIANTS[name], UP, round_weight(VARIANTS[name].layout, gaussian(256, 256)))
    kept = {t.entry.name: t for t in found if not t.entry.name.endswith(("input_scale", "weight_format"))}
    return MappingProxyType(kept)


def damaged(folder: Path, name: str, tensors: Iterable[PackedTensor]) -> Path:
    """A checkpoint of a variant that holds these tensors instead of its own."""
    path = write_folder(folder, VARIANTS[name], {UP: round_weight(VARIANTS[name].layout, gaussian(256, 256))})
    write_tensors(path / WEIGHTS, tensors)
    return path


def read_all(path: Path) -> np.ndarray:
    checkpoint = open_source(str(path))
    try:
        return checkpoint.ref(f"{UP}.weight").read(0, 256)
    finally:
        checkpoint.close()


CASES = [(name, part) for name in VARIANTS for part in parts(name)]
each_part = pytest.mark.parametrize(("name", "part"), CASES, ids=[f"{n}-{p.removeprefix(UP + '.')}" for n, p in CASES])


@each_part
def test_a_missing_part_is_named(name, part, tmp_path):
    rest = [tensor for other, tensor in parts(name).items() if other != part]
    if part.endswith(".g_idx"):  # of checkpoints older than it, none of whose modules has one
        rest.append(packed(Entry("model.layers.1.mlp.up_proj.g_idx", "I32", (32,)), np.zeros(32, np.int32)))
    with pytest.raises(InputError, match=f'there is no tensor "{part}"') as caught:
        open_source(str(damaged(tmp_path / "m", name, rest)))
    assert caught.value.tensor == part
    assert caught.value.hint


@each_part
def test_a_part_of_another_shape_is_named(name, part, tmp_path):
    found = parts(name)
    entry = found[part].entry
    if "fp8-tensor" in name and part.endswith(".weight"):
        return  # nothing else knows the shape of a weight with one scale
    awq = name.startswith("awq") and part.endswith("qweight")  # whose columns nothing else knows
    shape = (entry.shape[0], entry.shape[1] + 1) if awq else (entry.shape[0] + 1, *entry.shape[1:])
    longer = PackedTensor(Entry(part, entry.dtype, shape), np.zeros(Entry(part, entry.dtype, shape).nbytes, np.uint8))
    with pytest.raises(InputError) as caught:
        open_source(str(damaged(tmp_path / "m", name, {**found, part: longer}.values())))
    assert caught.value.tensor in found
    assert caught.value.hint


@each_part
def test_a_part_of_another_type_is_named(name, part, tmp_path):
    found = parts(name)
    shape = found[part].entry.shape
    other = PackedTensor(Entry(part, "I16", shape), np.zeros(Entry(part, "I16", shape).nbytes, np.uint8))
    with pytest.raises(InputError, match=f'"{part}" is stored as I16, expected') as caught:
        open_source(str(damaged(tmp_path / "m", name, {**found, part: other}.values())))
    assert caught.value.tensor == part


NOT_A_NUMBER = {"F16": b"\x00\x7e", "BF16": b"\xc0\x7f", "F32": b"\x00\x00\xc0\x7f", "F8_E4M3": b"\x7f"}
FLOATS = [(name, part) for name, part in CASES if parts(name)[part].entry.dtype in NOT_A_NUMBER]


@pytest.mark.parametrize(("name", "part"), FLOATS, ids=[f"{n}-{p.removeprefix(UP + '.')}" for n, p in FLOATS])
def test_a_number_that_is_none_is_named(name, part, tmp_path):
    found = parts(name)
    pattern = NOT_A_NUMBER[found[part].entry.dtype]
    raw = found[part].data.copy()
    raw[: len(pattern)] = np.frombuffer(pattern, np.uint8)
    path = damaged(tmp_path / "m", name, {**found, part: PackedTensor(found[part].entry, raw)}.values())
    with pytest.raises(InputError) as caught:
        read_all(path)
    assert caught.value.tensor == part


@settings(derandomize=True, max_examples=60, deadline=None)
@given(name=st.sampled_from(list(VARIANTS)), seed=st.integers(0, 1 << 30))
def test_random_bytes_are_decoded_or_refused(tmp_path_factory, name, seed):
    rng = np.random.default_rng(seed)
    found = parts(name)
    part = rng.choice(sorted(found))
    raw = found[part].data.copy()
    raw[rng.integers(0, raw.size, 8)] = rng.integers(0, 256, 8)
    path = damaged(
        tmp_path_factory.mktemp("r") / "m", name, {**found, part: PackedTensor(found[part].entry, raw)}.values()
    )
    with suppress(InputError, UnsupportedError):
        assert read_all(path).shape == (256, 256)


def test_threads_read_the_same(tmp_path):
    """Slabs of several modules at once, as the quantize stage reads them."""
    rounded = {f"m.{i}": round_weight(VARIANTS["awq-asymmetric-g32"].layout, gaussian(256, 256, i)) for i in range(4)}
    checkpoint = open_source(str(write_folder(tmp_path / "m", VARIANTS["awq-asymmetric-g32"], rounded)))
    slabs = [(f"{name}.weight", start) for start in range(0, 256, 16) for name in rounded]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda slab: checkpoint.ref(slab[0]).read(slab[1], slab[1] + 16), slabs))
    for (name, start), values in zip(slabs, found, strict=True):
        assert np.array_equal(values, rounded[name.removesuffix(".weight")].values()[start : start + 16])
    checkpoint.close()
