"""Quantized checkpoints as llama.cpp's converter sees them: the same weights under the same names, to the bit."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from quantized_folder import VARIANTS, WEIGHTS, quantized_model
from reference import REFERENCE
from safetensors.torch import load_file

from quantkit.source import open_source

pytestmark = pytest.mark.reference

# It reads no AWQ and no bitsandbytes, no 3-bit words, no groups of a whole row in packed words, no FP8 with one scale.
READ = [
    name
    for name in VARIANTS
    if name.startswith(("gptq", "packed", "int8", "fp8", "native"))
    and not ("-3-" in name or (name.startswith("packed") and name.endswith("g-1")) or name.startswith("fp8-tensor"))
]


@pytest.fixture(scope="module")
def converter() -> ModuleType:
    """llama.cpp's conversion package."""
    assert REFERENCE.is_dir(), "run `make reference`"
    sys.path.insert(0, str(REFERENCE))
    try:
        return importlib.import_module("conversion.base")
    finally:
        sys.path.remove(str(REFERENCE))


@pytest.mark.parametrize("name", READ)
def test_weights_of_a_whole_model(converter, name, tmp_path):
    quantized_model(tmp_path / "m", VARIANTS[name], layers=1)
    tensors = load_file(tmp_path / "m" / WEIGHTS)
    model = SimpleNamespace(
        _is_nvfp4=False,
        _fp8_as_q8=False,
        _fp8_dequantized=set(),
        lazy=False,
        hparams=json.loads((tmp_path / "m" / "config.json").read_text()),
        model_tensors={key: lambda tensor=tensor: tensor for key, tensor in tensors.items()},
    )
    converter.ModelBase.dequant_model(model)
    checkpoint = open_source(str(tmp_path / "m"))
    expected = {key: read for key, read in model.model_tensors.items() if not key.endswith("input_scale")}
    assert set(checkpoint.tensors()) == set(expected)
    for key, info in checkpoint.tensors().items():
        found = checkpoint.ref(key).read(0, info.rows).reshape(info.shape)
        assert np.array_equal(found, expected[key]().float().numpy()), key
    checkpoint.close()
