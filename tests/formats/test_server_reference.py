"""Checkpoints for servers, decoded by llama.cpp's converter: a second reader that shares no code with ours."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from quantized_folder import CONTAINERS
from reference import REFERENCE

from quantkit.consumers import Module, Subject, verdicts
from quantkit.families.roles import Role
from quantkit.formats.containers import compressed_tensors_config, fp8, gptq
from quantkit.formats.containers.awq import AWQLayout
from quantkit.formats.containers.base import Written
from quantkit.formats.containers.bitsandbytes import BitsandbytesLayout
from quantkit.formats.containers.compressed_tensors_kv import pack_kv_scales
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.packed import PackedTensor, values_of
from quantkit.formats.containers.table import writing
from quantkit.qtypes.schemes.base import Quantized, nearest
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import FACTOR, MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8

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
    left = tensors_left(converter, config, tensors)
    assert list(left) == [f"{M}.weight"]
    return left[f"{M}.weight"]().float().numpy()


def tensors_left(converter: ModuleType, config: dict, tensors: tuple[PackedTensor, ...]) -> dict:
    """What is left to be renamed after the converter has decoded these tensors."""
    model = SimpleNamespace(
        _is_nvfp4=False,
        _fp8_as_q8=False,
        _fp8_dequantized=set(),
        lazy=False,
        hparams={"quantization_config": config},
        model_tensors={t.entry.name: lambda t=t: as_torch(t) for t in tensors},
    )
    converter.ModelBase.dequant_model(model)
    return model.model_tensors


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
    assert np.array_equal(decoded(converter, config, layout.pack(M, quantized)), quantized.values())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq_in_the_order_of_activations(converter, bits):
    layout = GPTQLayout(Integers(bits, 32), act_order=True)
    order = np.random.default_rng(6).permutation(256).astype(np.int32)
    w = np.ascontiguousarray(gaussian((64, 256))[:, order])
    grid = layout.scheme.fit(w)
    quantized = Quantized(nearest(w, grid), grid, order)
    config = gptq.quantization_config(layout, quantizer="quantkit:1")
    assert np.array_equal(decoded(converter, config, layout.pack(M, quantized)), quantized.values())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("symmetry", ["symmetric", "full-range", "asymmetric"])
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_words(converter, bits, group, symmetry, dtype):
    layout = CompressedLayout(Integers(bits, group, symmetry, dtype))
    quantized = layout.scheme.encode(gaussian((100, 256)))
    config = compressed_tensors_config.quantization_config({("Linear",): layout})
    tensors = layout.pack(M, quantized)
    assert np.array_equal(decoded(converter, config, tensors), quantized.values())


@pytest.mark.parametrize("activations", ["none", "dynamic"])
@pytest.mark.parametrize(
    "scheme", [Float8("channel", "BF16"), Float8("block", "BF16"), Float8("block", "F32"), Float8("channel", "F16")]
)
def test_float8(converter, scheme, activations):
    layout = CompressedLayout(scheme, activations)
    quantized = scheme.encode(gaussian((192, 256)))
    config = compressed_tensors_config.quantization_config({("Linear",): layout})
    tensors = layout.pack(M, quantized)
    assert np.array_equal(decoded(converter, config, tensors), quantized.values())


def test_int8_channels(converter):
    layout = CompressedLayout(Integers(8, -1, scale_dtype="BF16"), "dynamic")
    quantized = layout.scheme.encode(gaussian((96, 200)))
    config = compressed_tensors_config.quantization_config({("Linear",): layout})
    tensors = layout.pack(M, quantized)
    assert np.array_equal(decoded(converter, config, tensors), quantized.values())


def test_native_float8(converter):
    quantized = fp8.SCHEME.encode(gaussian((256, 384)))
    found = decoded(converter, fp8.quantization_config(), FP8Layout().pack(M, quantized))
    assert np.array_equal(found, quantized.values())


def test_nvfp4_is_repacked_without_loss(converter):
    """Blocks of GGUF, which ggml multiplies with the reciprocal of the factor later."""
    quantized = NVFP4().encode(gaussian((32, 256)))
    codes, scale, _ = CompressedLayout(NVFP4()).pack(M, quantized)
    raw, shape = converter.ModelBase._nvfp4_pack(as_torch(codes), as_torch(scale))
    assert shape == [32, 256]
    found = quants.NVFP4.dequantize_blocks(raw.reshape(-1, 36)).reshape(32, 256) / quantized.grid.fields[FACTOR]
    assert np.allclose(found, quantized.values(), rtol=3e-7, atol=0)


# The table of consumers says what the converter does with these.

CLAIMS = [
    *(CompressedLayout(Integers(bits, group)) for bits in range(2, 9) for group in (-1, 32)),
    *(CompressedLayout(Float8(strategy), activations)
      for strategy in ("tensor", "channel", "block") for activations in ("none", "dynamic", "static")),
    *(CompressedLayout(Integers(8), activations) for activations in ("dynamic", "static")),
    CompressedLayout(MXFP4()),
    *(GPTQLayout(Integers(bits, 32), version) for bits in (2, 3, 4, 8) for version in (1, 2)),
    AWQLayout(Integers(4, 32, "asymmetric")),
    BitsandbytesLayout(Codebook()),
    BitsandbytesLayout(RowInt8()),
    FP8Layout(),
]  # fmt: skip


@pytest.mark.parametrize("kv_cache", [False, True])
@pytest.mark.parametrize("layout", CLAIMS, ids=str)
def test_the_table_of_consumers_is_right(converter, layout, kv_cache):
    """The converter stops, or meets a tensor that it has no name for, exactly where the table says so."""
    container = CONTAINERS[type(layout)]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    shape = (256, 256)
    tensors = layout.pack(M, layout.scheme.encode(gaussian(shape)), 1.0)
    if kv_cache:
        tensors += pack_kv_scales(M.rpartition(".")[0], (448, 448), "BF16")
    config = writing(container).config(Written({M: layout}, (), (), "quantkit:1", kv_cache))["quantization_config"]
    try:
        left = tensors_left(converter, config, tuple(tensors))
        loads = all(names.get_name(name, try_suffixes=(".weight", ".bias")) for name in left)
        for tensor in left.values():
            tensor()
    except (NotImplementedError, AssertionError, RuntimeError):
        loads = False
    subject = Subject(container, (Module(M, Role.ATTN_Q, *shape, layout),), kv_cache=kv_cache)
    (verdict,) = verdicts(subject, ["llama.cpp"])
    assert verdict.ok == loads, verdict
