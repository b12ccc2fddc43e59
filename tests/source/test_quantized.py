"""Quantized checkpoints as sources: what is read is what the container decodes, to the bit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from quantized_folder import (
    VARIANTS,
    WEIGHTS,
    plain_tensor,
    round_weight,
    write_folder,
)

from quantkit.qtypes.scheme import Quantized
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
        assert whole.dtype == np.float32
        assert whole.view(np.uint32).tobytes() == expected.view(np.uint32).tobytes()
        cuts = [0, 1, 7, 8, 33, min(64, rows - 2), rows - 1, rows]
        slabs = [ref.read(start, stop) for start, stop in pairwise(cuts)]
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
