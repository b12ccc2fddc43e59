"""Stacks of experts in FP8: decoded like the matrices that they are made of, and as llama.cpp's converter does."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from quantized_folder import WEIGHTS, write_tensors
from reference import REFERENCE

from quantkit.errors import InputError
from quantkit.formats.containers.packed import Entry, packed
from quantkit.qtypes.schemes.minifloat import BYTE_VALUES
from quantkit.source import open_source

NAME = "model.layers.0.mlp.experts.gate_up_proj"
SHAPE = (3, 192, 320)  # neither is a number of whole tiles
SCALES = {
    "block": (3, 2, 3), "tensor": (3,), "tensors": (3, 1, 1), "channel": (3, 192, 1), "channels": (3, 192),
}  # fmt: skip


def folder_of(root: Path, shape: tuple[int, ...], end: str = "_scale_inv", scales: np.ndarray | None = None) -> Path:
    random = np.random.default_rng(3)
    weight = random.integers(0, 0x7F, SHAPE, np.uint8) | random.integers(0, 2, SHAPE, np.uint8) << 7
    scale = random.uniform(1e-4, 2e-4, shape).astype(np.float32) if scales is None else scales
    tensors = [
        packed(Entry(NAME, "F8_E4M3", SHAPE), weight),
        packed(Entry(NAME + end, "F32", scale.shape), scale),
        packed(Entry(f"{NAME}_activation_scale", "F32", (3,)), np.ones(3, np.float32)),
    ]
    root.mkdir()
    write_tensors(root / WEIGHTS, tensors)
    block = {"weight_block_size": [128, 128]} if len(shape) == 3 and shape[1:] == (2, 3) else {}
    said = {"quant_method": "fp8", "activation_scheme": "static", **block}
    (root / "config.json").write_text(json.dumps({"quantization_config": said}))
    return root


def expected(root: Path) -> np.ndarray:
    """By the definition: each element times the scale of its matrix, row or tile."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(root / WEIGHTS)
    scale = next(t for n, t in tensors.items() if n.startswith(f"{NAME}_scale")).numpy()
    weight = BYTE_VALUES[tensors[NAME].view(torch.uint8).numpy()]
    if scale.shape == SCALES["block"]:
        scale = np.repeat(np.repeat(scale, 128, 1)[:, : SHAPE[1]], 128, 2)[:, :, : SHAPE[2]]
    return weight * scale.reshape(*scale.shape, *[1] * (3 - scale.ndim))


@pytest.mark.parametrize("end", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("kind", SCALES)
def test_any_rows_are_those_of_the_definition(kind, end, tmp_path):
    root = folder_of(tmp_path / "m", SCALES[kind], end)
    source, whole = open_source(str(root)), expected(root).reshape(-1, SHAPE[2])
    assert set(source.tensors()) == {NAME}
    info = source.tensors()[NAME]
    assert (info.shape, info.dtype, info.stored_bits) == (SHAPE, "BF16", 8)
    for start, stop in ((0, info.rows), (5, 6), (100, 300), (191, 193), (384, 384)):
        assert np.array_equal(source.ref(NAME).read(start, stop), whole[start:stop])
    source.close()


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["block", "tensor", "tensors"])
def test_they_are_what_the_converter_decodes(kind, tmp_path):
    from safetensors.torch import load_file

    root = folder_of(tmp_path / "m", SCALES[kind])
    sys.path.insert(0, str(REFERENCE))
    try:
        converter = importlib.import_module("conversion.base")
    finally:
        sys.path.remove(str(REFERENCE))
    tensors = load_file(root / WEIGHTS)
    model = SimpleNamespace(
        _is_nvfp4=False, _fp8_as_q8=False, _fp8_dequantized=set(), lazy=False,
        hparams=json.loads((root / "config.json").read_text()),
        model_tensors={key: lambda tensor=tensor: tensor for key, tensor in tensors.items()},
    )  # fmt: skip
    converter.ModelBase.dequant_model(model)
    source = open_source(str(root))
    found = source.ref(NAME).read(0, source.tensors()[NAME].rows).reshape(SHAPE)
    assert np.array_equal(found, model.model_tensors[NAME]().float().numpy())
    source.close()


@pytest.mark.parametrize("shape", [(2,), (3, 2, 2), (3, 191, 1), (192, 3)])
def test_scales_of_another_shape_are_named(shape, tmp_path):
    root = folder_of(tmp_path / "m", shape, scales=np.ones(shape, np.float32))
    with pytest.raises(InputError, match="no scales of a stack") as caught:
        open_source(str(root))
    assert caught.value.tensor == f"{NAME}_scale_inv"


def test_a_scale_that_is_no_number_is_named(tmp_path):
    root = folder_of(tmp_path / "m", (3,), scales=np.array([1, np.nan, 1], np.float32))
    source = open_source(str(root))
    with pytest.raises(InputError, match="nan"):
        source.ref(NAME).read(192, 193)
    source.close()
