"""Checkpoints for servers, decoded by llama.cpp's converter: a second reader that shares no code with ours."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from reference import REFERENCE

from quantkit.formats import compressed_tensors, fp8, gptq
from quantkit.formats.compressed_tensors import CompressedLayout
from quantkit.formats.gptq import GPTQLayout
from quantkit.formats.packed import PackedTensor, values_of
from quantkit.qtypes.integers import Integers
from quantkit.qtypes.minifloat import Float8
from quantkit.qtypes.scheme import Quantized, nearest

pytestmark = pytest.mark.reference

M = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def converter() -> ModuleType:
    """llama.cpp's conversion package."""
    assert REFERENCE.is_dir(), "run `make reference`"
    sys.path.insert(0, str(REFERENCE))
    try:
        return importlib.import_module("conversion.base")
    finally:
        sys.path.remove(str(REFERENCE))


def as_torch(tensor: PackedTensor) -> torch.Tensor:
    if tensor.entry.dtype == "F8_E4M3":
        return torch.from_numpy(values_of(tensor).copy()).view(torch.float8_e4m3fn)
    if tensor.entry.dtype == "BF16":
        patterns = torch.from_numpy(tensor.data.copy()).view(torch.bfloat16)
        return patterns.reshape(tensor.entry.shape)
    values = tensor.data.view(np.float16).reshape(tensor.entry.shape) if tensor.entry.dtype == "F16" else None
    return torch.from_numpy((values_of(tensor) if values is None else values).copy())


def decoded(converter: ModuleType, config: dict, tensors: tuple[PackedTensor, ...]) -> np.ndarray:
    """The weight that the converter makes of these tensors."""
    model = SimpleNamespace(
        _is_nvfp4=False,
        _fp8_as_q8=False,
        _fp8_dequantized=set(),
        lazy=False,
        hparams={"quantization_config": config},
        model_tensors={t.entry.name: lambda t=t: as_torch(t) for t in tensors},
    )
    converter.ModelBase.dequant_model(model)
    assert list(model.model_tensors) == [f"{M}.weight"]
    return model.model_tensors[f"{M}.weight"]().float().numpy()


def gaussian(shape: tuple[int, int]) -> np.ndarray:
    return (np.random.default_rng(5).standard_normal(shape) * 0.05).astype(np.float32)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("symmetry", ["symmetric", "full-range", "asymmetric"])
@pytest.mark.parametrize("group", [-1, 32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq(converter, bits, group, symmetry, version):
    layout = GPTQLayout(Integers(bits, group, symmetry, lowest_zero=2 - version), version)
    quantized = layout.scheme.encode(gaussian((96, 256)))
    config = gptq.quantization_config(layout, quantizer="quantkit:1")
    assert np.array_equal(decoded(converter, config, gptq.pack(layout, M, quantized)), quantized.values())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq_in_the_order_of_activations(converter, bits):
    layout = GPTQLayout(Integers(bits, 32), act_order=True)
    order = np.random.default_rng(6).permutation(256).astype(np.int32)
    w = np.ascontiguousarray(gaussian((64, 256))[:, order])
    grid = layout.scheme.fit(w)
    quantized = Quantized(nearest(w, grid), grid, order)
    config = gptq.quantization_config(layout, quantizer="quantkit:1")
    assert np.array_equal(decoded(converter, config, gptq.pack(layout, M, quantized)), quantized.values())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("symmetry", ["symmetric", "full-range", "asymmetric"])
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_words(converter, bits, group, symmetry, dtype):
    layout = CompressedLayout(Integers(bits, group, symmetry, dtype))
    quantized = layout.scheme.encode(gaussian((100, 256)))
    config = compressed_tensors.quantization_config({("Linear",): layout})
    tensors = compressed_tensors.pack(layout, M, quantized)
    assert np.array_equal(decoded(converter, config, tensors), quantized.values())


@pytest.mark.parametrize("activations", ["none", "dynamic"])
@pytest.mark.parametrize(
    "scheme", [Float8("channel", "BF16"), Float8("block", "BF16"), Float8("block", "F32"), Float8("channel", "F16")]
)
def test_float8(converter, scheme, activations):
    layout = CompressedLayout(scheme, activations)
    quantized = scheme.encode(gaussian((192, 256)))
    config = compressed_tensors.quantization_config({("Linear",): layout})
    tensors = compressed_tensors.pack(layout, M, quantized)
    assert np.array_equal(decoded(converter, config, tensors), quantized.values())


def test_int8_channels(converter):
    layout = CompressedLayout(Integers(8, -1, scale_dtype="BF16"), "dynamic")
    quantized = layout.scheme.encode(gaussian((96, 200)))
    config = compressed_tensors.quantization_config({("Linear",): layout})
    tensors = compressed_tensors.pack(layout, M, quantized)
    assert np.array_equal(decoded(converter, config, tensors), quantized.values())


def test_native_float8(converter):
    quantized = fp8.SCHEME.encode(gaussian((256, 384)))
    found = decoded(converter, fp8.quantization_config(), fp8.pack(M, quantized))
    assert np.array_equal(found, quantized.values())
