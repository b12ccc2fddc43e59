"""Configurations of quantized checkpoints, old and new, and which modules they are about."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from quantized_folder import VARIANTS, config_of, pack_module, plain_tensor, round_weight

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.formats.containers.declared import PLAIN, declared, undeclared
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.packed import PackedTensor
from quantkit.formats.containers.stored import Stored, stored_modules
from quantkit.formats.containers.table import readings
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.tensors import TensorInfo

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.11.mlp.experts.7.up_proj"
HEAD = "lm_head"


def found_in(quantization: Mapping[str, Any], tensors: Mapping[str, PackedTensor]) -> Stored:
    infos = {n: TensorInfo(n, t.entry.dtype, t.entry.shape, t.entry.nbytes) for n, t in tensors.items()}
    return stored_modules(declared({"quantization_config": dict(quantization)}, {}), infos, tensors.__getitem__)


def tensors_of(*modules: tuple[str, str]) -> dict[str, PackedTensor]:
    """Tensors of modules, each in a variant; "plain" ones are floats."""
    weight = (np.random.default_rng(1).standard_normal((128, 256)) * 0.05).astype(np.float32)
    found: list[PackedTensor] = []
    for name, variant in modules:
        if variant == "plain":
            found.append(plain_tensor(f"{name}.weight", weight))
        else:
            found += pack_module(VARIANTS[variant], name, round_weight(VARIANTS[variant].layout, weight))
    return {tensor.entry.name: tensor for tensor in found}


def said_by(variant: str) -> dict[str, Any]:
    said = config_of(VARIANTS[variant], [Q])
    return json.loads(json.dumps(said.get("config.json") or said["hf_quant_config.json"]))


# Where a checkpoint says it

AUTOGPTQ = {
    "bits": 4, "group_size": 32, "damp_percent": 0.1, "desc_act": False, "static_groups": False, "sym": True,
    "true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model",
}  # fmt: skip
AUTOAWQ = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
LLM_AWQ_IN_CONFIG = {
    "bits": 4, "do_fuse": False, "exllama_config": None, "fuse_max_seq_len": None, "group_size": 32,
    "modules_to_fuse": None, "modules_to_not_convert": None, "quant_method": "awq", "version": "gemm",
    "zero_point": True,
}  # fmt: skip
DEEPSEEK = {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128],
}  # fmt: skip
MODELOPT = {
    "producer": {"name": "modelopt", "version": "0.37.0"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}
MODELOPT_IN_CONFIG = {
    "config_groups": {"group_0": {"input_activations": {"dynamic": False, "num_bits": 8, "type": "float"},
                                  "weights": {"dynamic": False, "num_bits": 8, "type": "float"}}},
    "ignore": ["lm_head"], "quant_algo": "FP8", "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
    "producer": {"name": "modelopt", "version": "0.47.0"}, "quant_method": "modelopt",
}  # fmt: skip
BITSANDBYTES_2023 = {
    "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
}  # fmt: skip
LLM_COMPRESSOR = {
    "config_groups": {"group_0": {
        "input_activations": None, "output_activations": None, "targets": ["Linear"],
        "weights": {"actorder": "weight", "block_structure": None, "dynamic": False, "group_size": 32, "num_bits": 4,
                    "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": True, "type": "int"},
    }},
    "format": "pack-quantized", "global_compression_ratio": 1.5, "ignore": ["lm_head", "re:.*mlp.gate$"],
    "kv_cache_scheme": None, "quant_method": "compressed-tensors", "quantization_status": "compressed",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "sides", "variant"),
    [
        ({}, {"quantize_config.json": AUTOGPTQ}, "gptq-v1-4-symmetric-g32"),
        ({}, {"quantize_config.json": {**AUTOGPTQ, "quant_method": "gptq"}}, "gptq-v1-4-symmetric-g32"),
        ({}, {"quant_config.json": AUTOAWQ}, "awq-asymmetric-g32"),
        ({}, {"quantize_config.json": {**AUTOAWQ, "quant_method": "awq"}}, "awq-asymmetric-g32"),
        ({"quantization_config": LLM_AWQ_IN_CONFIG}, {"quant_config.json": AUTOGPTQ}, "awq-asymmetric-g32"),
        ({"quantization_config": DEEPSEEK}, {}, "native-fp8"),
        ({"text_config": {"quantization_config": DEEPSEEK}}, {}, "native-fp8"),
        ({}, {"hf_quant_config.json": MODELOPT}, "modelopt-fp8-tensor"),
        ({"quantization_config": MODELOPT_IN_CONFIG}, {"hf_quant_config.json": MODELOPT}, "modelopt-fp8-tensor"),
        ({"quantization_config": BITSANDBYTES_2023}, {}, "nf4-nested-64"),
        ({"quantization_config": LLM_COMPRESSOR}, {}, "packed-4-symmetric-g32"),
        ({"compression_config": LLM_COMPRESSOR}, {}, "packed-4-symmetric-g32"),
    ],
)
def test_configurations_of_other_writers(config, sides, variant):
    tensors = tensors_of((Q, variant), (HEAD, "plain"))
    infos = {n: TensorInfo(n, t.entry.dtype, t.entry.shape, t.entry.nbytes) for n, t in tensors.items()}
    found = stored_modules(declared(config, sides), infos, tensors.__getitem__)
    assert list(found.modules) == [Q]
    assert found.hidden == set(tensors) - {f"{HEAD}.weight"}
    expected = round_weight(
        VARIANTS[variant].layout, (np.random.default_rng(1).standard_normal((128, 256)) * 0.05).astype(np.float32)
    )
    parts = {part.name: part for part in found.modules[Q].outline.parts}
    values = found.modules[Q].decode(0, 128, lambda part, low, high: tensors[parts[part.name].name].data)
    assert np.array_equal(values, expected.values())


def test_nothing_said_is_nothing_quantized():
    assert declared({"text_config": {"quantization_config": None}, "quantization_config": None}, {}) is None


@pytest.mark.parametrize(
    ("config", "error", "why"),
    [
        ({"quant_method": "aqlm", "bits": 2}, UnsupportedError, '"aqlm"'),
        ({"quant_method": ["gptq"]}, UnsupportedError, "gptq"),
        ({"bits": 4, "mode": "affine"}, UnsupportedError, "none"),
        ({}, UnsupportedError, "none"),
        ("gptq", InputError, "expected an object"),
        (["gptq"], InputError, "expected an object"),
    ],
)
def test_unknown_methods_are_refused(config, error, why):
    with pytest.raises(error, match=why) as caught:
        declared({"quantization_config": config}, {})
    assert caught.value.key == "quantization_config"
    if error is UnsupportedError:
        assert all(name in str(caught.value.hint) for name in readings())


# Which modules


@pytest.mark.parametrize("variant", ["gptq-v2-4-symmetric-g32", "awq-symmetric-g32", "packed-4-symmetric-g32",
                                     "fp8-channel-dynamic", "nf4-64", "llm-int8", "native-fp8"])  # fmt: skip
def test_modules_with_plain_weights_stay_as_they_are(variant):
    tensors = tensors_of((Q, variant), (UP, "plain"), (HEAD, "plain"))
    found = found_in(said_by(variant), tensors)
    assert list(found.modules) == [Q]
    assert found.hidden.isdisjoint({f"{UP}.weight", f"{HEAD}.weight"})


def test_scales_of_activations_and_caches_are_no_weights():
    tensors = tensors_of((Q, "fp8-tensor-static"), (UP, "plain"))
    extra = ["model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.attn.v_scale", f"{UP}.input_scale",
             "model.layers.0.self_attn.k_proj.output_scale"]  # fmt: skip
    tensors |= {name: plain_tensor(name, np.ones(1, np.float32)) for name in extra}
    found = found_in(said_by("fp8-tensor-static"), tensors)
    assert found.hidden == set(tensors) - {f"{UP}.weight"}


def test_scales_beside_plain_weights_are_out_of_sight():
    """A checkpoint whose quantization was never compressed."""
    tensors = tensors_of((Q, "packed-4-symmetric-g32"), (UP, "plain"))
    tensors[f"{UP}.weight_scale"] = plain_tensor(f"{UP}.weight_scale", np.ones((128, 8), np.float32))
    found = found_in(LLM_COMPRESSOR, tensors)
    assert list(found.modules) == [Q]
    assert f"{UP}.weight_scale" in found.hidden


def group(weights: dict[str, Any], *targets: str) -> dict[str, Any]:
    return {"targets": list(targets), "weights": weights, "input_activations": None, "output_activations": None}


W4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
W8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}


def mixed(**groups: dict[str, Any]) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups, "ignore": []}


@pytest.mark.parametrize(
    "config",
    [
        mixed(a=group(W8, r"re:.*layers\.0\.self_attn\.(q|k|v)_proj$"), b=group(W4, "Linear"), c=group(FP8, HEAD)),
        mixed(a=group(W4, "Linear"), b=group(FP8, "re:^lm_"), c=group(W8, Q)),
        mixed(a=group(W4, "re:model.*experts.*"), b=group(W8, Q, "re:.*k_proj"), c=group(FP8, "Linear")),
    ],
)
def test_groups_are_found_by_their_targets(config):
    tensors = tensors_of((Q, "packed-8-asymmetric-g-1"), (UP, "packed-4-symmetric-g32"), (HEAD, "fp8-channel-none"))
    modules = found_in(config, tensors).modules
    assert {name: module.layout for name, module in modules.items()} == {
        Q: CompressedLayout(Integers(8, -1, "asymmetric")),
        UP: CompressedLayout(Integers(4, 32)),
        HEAD: CompressedLayout(Float8("channel")),
    }
    assert modules[UP].summary == "compressed-tensors pack-quantized w4g32 symmetric"


def test_dynamic_settings_of_gptq_go_by_module():
    tensors = tensors_of((Q, "gptq-v2-8-symmetric-g32"), (UP, "gptq-v2-4-symmetric-g32"), (HEAD, "plain"))
    config = said_by("gptq-v2-4-symmetric-g32")
    dynamic = {"-:lm_head": {}, r"+:.*\.0\.self_attn\.": {"bits": 8}, r".*q_proj": {"bits": 2}}
    modules = found_in({**config, "dynamic": dynamic}, tensors).modules
    layouts = {name: module.layout for name, module in modules.items()}
    assert {name: layout.scheme.bits for name, layout in layouts.items() if isinstance(layout, GPTQLayout)} == {
        Q: 8, UP: 4,
    }  # fmt: skip
    with pytest.raises(InputError, match="qweight"):
        found_in(config, tensors)


@pytest.mark.parametrize(
    ("variant", "changes", "error", "why"),
    [
        ("packed-4-symmetric-g32", {"ignore": ["re:.*q_proj"]}, InputError, "ignore names it"),
        ("packed-4-symmetric-g32", {"ignore": "lm_head"}, InputError, "no list"),
        ("packed-4-symmetric-g32", {"ignore": ["re:(a"]}, UnsupportedError, "does not end"),
        ("packed-4-symmetric-g32", mixed(a=group(W4, "re:.*k_proj")), InputError, "no target"),
        ("packed-4-symmetric-g32", mixed(a=group(W8, "Linear")), InputError, "claims a weight"),
        ("packed-4-symmetric-g32", mixed(a=group({**W4, "group_size": 48}, "Linear")), InputError, "no groups of 48"),
        ("packed-4-symmetric-g32", mixed(a=group({**W4, "group_size": 64}, "Linear")), InputError, "weight_scale"),
        ("packed-4-symmetric-g32", {"config_groups": {"MXFP6A16": ["Linear"]}}, UnsupportedError, "MXFP6A16"),
        ("packed-4-symmetric-g32", {"sparsity_config": {"format": "sparse-24-bitmask"}}, UnsupportedError, "sparsity"),
        ("packed-4-symmetric-g32", {"transform_config": {"config_groups": {"R1": {}}}}, UnsupportedError, "transform"),
        ("packed-4-symmetric-g32", {"transform_config": ["R1"]}, InputError, "transform_config"),
        ("int8-dynamic", mixed(a=group(W8, "Linear")), UnsupportedError, "zero points"),
        ("gptq-v2-4-symmetric-g32", {"bits": 3}, InputError, "qweight"),
        ("gptq-v2-4-symmetric-g32", {"dynamic": ["x"]}, InputError, "dynamic"),
        ("gptq-v2-4-symmetric-g32", {"dynamic": {"x": 4}}, InputError, "dynamic"),
        ("gptq-v2-4-symmetric-g32", {"dynamic": {"(x": {"bits": 8}}}, UnsupportedError, "does not end"),
        ("awq-asymmetric-g32", {"group_size": 100}, InputError, "no groups of 100"),
        ("awq-asymmetric-g32", {"version": "gemv"}, UnsupportedError, "gemv"),
        ("native-fp8", {"weight_block_size": [64, 64]}, UnsupportedError, "64"),
        ("modelopt-fp8-tensor", {"quantization": {"quant_algo": "W4A8_AWQ"}}, UnsupportedError, "W4A8"),
    ],
)
def test_settings_that_do_not_fit_the_tensors(variant, changes, error, why):
    with pytest.raises(error, match=why) as caught:
        found_in({**said_by(variant), **changes}, tensors_of((Q, variant)))
    assert caught.value.hint


def test_a_module_stored_twice_is_refused():
    tensors = tensors_of((Q, "gptq-v2-4-symmetric-g32")) | tensors_of((Q, "plain"))
    with pytest.raises(InputError, match="stored twice"):
        found_in(said_by("gptq-v2-4-symmetric-g32"), tensors)


def test_what_is_asked_of_files_is_small():
    """Shapes come from tensors of some bytes; nothing else is read before weights are."""
    for variant in VARIANTS:
        tensors = tensors_of((Q, variant))
        infos = {n: TensorInfo(n, t.entry.dtype, t.entry.shape, t.entry.nbytes) for n, t in tensors.items()}

        def read(name: str, tensors: Mapping[str, PackedTensor] = tensors) -> PackedTensor:
            assert tensors[name].data.size <= 200
            return tensors[name]

        said = said_by(variant)
        assert stored_modules(declared({"quantization_config": said}, {}), infos, read).modules


def test_a_long_state_is_not_read():
    tensors = tensors_of((Q, "nf4-64"))
    name = f"{Q}.weight.quant_state.bitsandbytes__nf4"
    infos = {n: TensorInfo(n, t.entry.dtype, t.entry.shape, t.entry.nbytes) for n, t in tensors.items()}
    infos[name] = TensorInfo(name, "U8", (1 << 40,), 1 << 40)
    with pytest.raises(QuantkitError, match="at most 4,096 bytes"):
        stored_modules(declared({"quantization_config": said_by("nf4-64")}, {}), infos, tensors.__getitem__)


@pytest.mark.parametrize("method", readings())
def test_no_tensor_that_tells_of_a_method_ends_as_plain_weights_do(method: str) -> None:
    """Checkpoints whose names all end like those are plain, without a look at any container."""
    reading = readings()[method]
    endings = [ending for ending, *_ in (*reading.unsaid, *reading.untold)]
    assert [ending for ending in endings if ending.endswith(PLAIN)] == []
    for ending in endings:
        try:
            assert undeclared([f"{Q}.weight", f"{Q}{ending}"])
        except InputError as error:
            assert ending in error.message


def test_plain_weights_need_no_container() -> None:
    code = """
import sys
from quantkit.formats.containers.declared import undeclared
assert undeclared(["a.weight", "a.bias"]) is None
assert "quantkit.formats.containers.gptq" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
