"""Checkpoints that quantkit never writes, made here by the formulas that their tools publish, in plain numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.quality.made_checkpoint import open_checkpoint
from quantkit.source import open_source

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float64)
Arrays = dict[str, Any]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def write(folder: Path, tensors: Arrays, config: dict[str, Any] | None, **sides: Any) -> Path:
    """A folder with these tensors, torch's or numpy's."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch_tensors = {n: t if isinstance(t, torch.Tensor) else torch.from_numpy(np.array(t)) for n, t in tensors.items()}
    save_file(torch_tensors, folder / "model.safetensors")
    base = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"}
    section = {} if config is None else {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps({**base, **section}))
    for name, body in sides.items():
        (folder / f"{name}.json").write_text(json.dumps(body))
    return folder


def weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """What quantkit reads: whole tensors, after some rows out of the middle agreed with them."""
    checkpoint = open_source(str(folder))
    found = {}
    for name, info in checkpoint.tensors().items():
        ref = checkpoint.ref(name)
        found[name] = ref.read(0, info.rows).reshape(info.shape)
        some = ref.read(info.rows // 3, info.rows // 2 + 1)
        assert np.array_equal(some, found[name].reshape(info.rows, -1)[info.rows // 3 : info.rows // 2 + 1])
    checkpoint.close()
    require_second_opinion(folder, found)
    return found


def require_second_opinion(folder: Path, found: dict[str, NDArray[np.float32]]) -> None:
    """The decoder of the checks, which shares nothing with that of sources, reads the same."""

    def read(name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).exists() else None

    with open_checkpoint([folder / "model.safetensors"], (), read) as made:
        held = made.held()
        assert held.keys() == found.keys()
        assert not any(one.own for one in held.values())
        for name, values in found.items():
            rows = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
            assert np.array_equal(made.rows(name, 0, len(rows)), rows)
            assert np.array_equal(made.rows(name, len(rows) // 3, len(rows)), rows[len(rows) // 3 :])


def stream(codes: NDArray[np.int64], bits: int) -> NDArray[np.uint32]:
    """Codes (n, count) as words: one number of count * bits bits per row, the first code lowest, cut every 32."""
    count = codes.shape[1]
    numbers = [sum(int(code) << bits * place for place, code in enumerate(row)) for row in codes]
    words = -(-count * bits // 32)
    return np.array([[number >> 32 * word & 0xFFFFFFFF for word in range(words)] for number in numbers], np.uint32)


def fp8(shape: tuple[int, ...], seed: int = 1) -> tuple[Any, NDArray[np.float32]]:
    """FP8 weights of torch, and their values."""
    import torch

    stored = torch.from_numpy(random(seed).standard_normal(shape).astype(np.float32) * 20).to(torch.float8_e4m3fn)
    return stored, stored.float().numpy()


def nvfp4(rows: int, cols: int, seed: int = 0) -> tuple[Arrays, NDArray[np.float32]]:
    """NVFP4 as ModelOpt stores it, and W = level * (scale * scale_2), each product rounded to float32."""
    codes = random(seed).integers(0, 16, (rows, cols))
    scale, scales = fp8((rows, cols // 16), seed + 1)
    second = np.float32(0.00173)
    values = E2M1[codes].astype(np.float32) * np.repeat(scales * second, 16, axis=1)
    raw = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)
    parts = {"weight": raw, "weight_scale": scale, "weight_scale_2": second, "input_scale": np.float32(0.1)}
    return parts, values


def module(name: str, parts: Arrays) -> Arrays:
    return {f"{name}.{part}": value for part, value in parts.items()}


MODELOPT = {"producer": {"name": "modelopt", "version": "0.37.0"}}
NVFP4 = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}
NVFP4_CONFIG = {
    **MODELOPT, "quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}}},
}  # fmt: skip


@pytest.mark.parametrize(("config", "side"), [(NVFP4_CONFIG, None), (None, NVFP4), ({"quant_algo": "NVFP4"}, None)])
def test_nvfp4_of_modelopt(config, side, tmp_path):
    parts, values = nvfp4(48, 64)
    sides = {} if side is None else {"hf_quant_config": {**MODELOPT, "quantization": side}}
    folder = write(tmp_path, {**module(Q, parts), f"{Q}.k_scale": np.float32(1)}, config, **sides)
    assert np.array_equal(weights(folder)[f"{Q}.weight"], values)


MIXED = {"quant_algo": "MIXED_PRECISION", "quantized_layers": {Q: {"quant_algo": "NVFP4", "group_size": 16},
                                                               UP: {"quant_algo": "FP8"}}}  # fmt: skip


@pytest.mark.parametrize("said", [True, False])
def test_mixed_precision_of_modelopt(said, tmp_path):
    parts, values = nvfp4(32, 32)
    stored, levels = fp8((32, 64))
    tensors = {
        **module(Q, parts),
        **module(UP, {"weight": stored, "weight_scale": np.float32(0.25), "input_scale": np.float32(1)}),
        "model.norm.weight": np.ones(4, np.float32),
    }
    sides = {"hf_quant_config": {**MODELOPT, "quantization": MIXED}} if said else {}
    found = weights(write(tmp_path, tensors, None, **sides))
    assert set(found) == {f"{Q}.weight", f"{UP}.weight", "model.norm.weight"}
    assert np.array_equal(found[f"{Q}.weight"], values)
    assert np.array_equal(found[f"{UP}.weight"], levels * np.float32(0.25))


FP8_IN_CONFIG = {
    "config_groups": {"group_0": {"input_activations": {"dynamic": False, "num_bits": 8, "type": "float"},
                                  "weights": {"dynamic": False, "num_bits": 8, "type": "float"}}},
    "ignore": ["lm_head"], "quant_algo": "FP8", "kv_cache_scheme": "FP8", "producer": MODELOPT["producer"],
}  # fmt: skip
AUTO_FP8 = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
MISTRAL = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}


@pytest.mark.parametrize("config", [FP8_IN_CONFIG, AUTO_FP8, MISTRAL, {"activation_scheme": "dynamic"}])
@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (48,), (48, 1)])
def test_fp8_with_scales_of_any_shape(config, name, shape, tmp_path):
    stored, levels = fp8((48, 80))
    scale = random(3).uniform(0.001, 0.01, shape).astype(np.float32)
    others = {"input_scale": np.float32(1), "activation_scale": np.float32(1)}
    folder = write(tmp_path, module(Q, {"weight": stored, name: scale, **others}), config)
    assert np.array_equal(weights(folder)[f"{Q}.weight"], levels * scale.reshape(-1, 1))


def test_fp8_in_blocks_by_its_tensors(tmp_path):
    stored, levels = fp8((200, 300))
    scale = random(3).uniform(0.001, 0.01, (2, 3)).astype(np.float32)
    side = {**MODELOPT, "quantization": {"quant_algo": "FP8_PB_WO", "exclude_modules": []}}
    tensors = module(Q, {"weight": stored, "weight_scale": scale.reshape(2, 1, 3, 1)})
    spread = np.repeat(np.repeat(scale, 128, 0)[:200], 128, 1)[:, :300]
    assert np.array_equal(weights(write(tmp_path, tensors, None, hf_quant_config=side))[f"{Q}.weight"], levels * spread)


NATIVE_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}


@pytest.mark.parametrize("name", ["scale", "weight_scale_inv"])
def test_fp8_in_blocks_with_powers_of_two(name, tmp_path):
    """DeepSeek V4's; a tensor that is called scale beside a plain weight, or beside none, is no scale of it."""
    import torch

    stored, levels = fp8((200, 300))
    exponents = random(3).integers(110, 125, (2, 3), np.uint8)
    plain = {f"{UP}.weight": np.ones((2, 4), np.float32), f"{UP}.scale": np.ones(3, np.float32), "hc.scale": np.ones(1)}
    tensors = module(Q, {"weight": stored, name: torch.from_numpy(exponents).view(torch.float8_e8m0fnu)})
    found = weights(write(tmp_path, {**tensors, **{n: t.astype(np.float32) for n, t in plain.items()}}, NATIVE_FP8))
    spread = np.repeat(np.repeat(2.0 ** (exponents.astype(np.float32) - 127), 128, 0)[:200], 128, 1)[:, :300]
    assert np.array_equal(found.pop(f"{Q}.weight"), levels * spread)
    assert found.keys() == plain.keys()


def test_fp4_of_deepseek_v4(tmp_path):
    import torch

    codes, exponents = random().integers(0, 16, (48, 64)), random(1).integers(110, 125, (48, 2), np.uint8)
    raw = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8).view(np.int8)
    tensors = module(Q, {"weight": raw, "scale": torch.from_numpy(exponents).view(torch.float8_e8m0fnu)})
    values = E2M1[codes] * np.repeat(2.0 ** (exponents.astype(np.float64) - 127), 32, 1)
    assert np.array_equal(weights(write(tmp_path, tensors, NATIVE_FP8))[f"{Q}.weight"], values)


def mlx(rows: int, cols: int, bits: int, group: int, seed: int = 0) -> tuple[Arrays, NDArray[np.float32]]:
    """Affine integers of MLX, and W = scale * code + bias in float32."""
    codes = random(seed).integers(0, 1 << bits, (rows, cols))
    scale, bias = random(seed + 1).standard_normal((2, rows, cols // group)).astype(np.float32)
    values = np.repeat(scale, group, 1) * codes.astype(np.float32) + np.repeat(bias, group, 1)
    return {"weight": stream(codes, bits), "scales": scale, "biases": bias}, values


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_affine_integers_of_mlx(bits, group, tmp_path):
    parts, values = mlx(40, 256, bits, group)
    embedding, rows = mlx(24, 256, bits, group, 5)
    said = {"group_size": group, "bits": bits}
    tensors = {**module(Q, parts), **module("model.embed_tokens", embedding), f"{Q}.bias": np.zeros(40, np.float32)}
    folder = write(tmp_path, tensors, said)
    config = json.loads((folder / "config.json").read_text()) | {"quantization": said}
    (folder / "config.json").write_text(json.dumps(config))
    found = weights(folder)
    assert np.allclose(found[f"{Q}.weight"], values, rtol=1e-6, atol=1e-6)
    assert np.abs(found["model.embed_tokens.weight"] - rows).max() < 1e-4
    assert set(found) == {f"{Q}.weight", "model.embed_tokens.weight", f"{Q}.bias"}
    config.pop("quantization_config")  # older ones have only the other key
    (folder / "config.json").write_text(json.dumps(config))
    assert np.array_equal(weights(folder)[f"{Q}.weight"], found[f"{Q}.weight"])


def test_settings_of_single_modules_of_mlx(tmp_path):
    first, q = mlx(32, 64, 4, 32)
    second, up = mlx(32, 64, 8, 64)
    said = {"group_size": 32, "bits": 4, "mode": "affine", UP: {"group_size": 64, "bits": 8}, "lm_head": False}
    found = weights(write(tmp_path, {**module(Q, first), **module(UP, second)}, said))
    assert np.abs(found[f"{Q}.weight"] - q).max() < 1e-5
    assert np.abs(found[f"{UP}.weight"] - up).max() < 1e-4


def gptq(
    rows: int, cols: int, bits: int, groups: int, index: NDArray[np.int64], seed: int = 0
) -> tuple[Arrays, NDArray[np.float32]]:
    """GPTQ of AutoGPTQ 0.2 (spring 2023): symmetric, zero points stored less one."""
    codes = random(seed).integers(0, 1 << bits, (rows, cols))
    scales = random(seed + 1).uniform(0.001, 0.1, (groups, rows)).astype(np.float16)
    middle = 1 << bits - 1
    values = scales.astype(np.float32)[index].T * (codes - middle).astype(np.float32)
    zeros = np.full((groups, rows), middle - 1)
    parts = {
        "qweight": np.ascontiguousarray(stream(codes, bits).T).view(np.int32), "scales": scales,
        "qzeros": stream(zeros, bits).view(np.int32), "g_idx": index.astype(np.int32),
    }  # fmt: skip
    return parts, values


SPRING = {"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": False, "sym": True, "true_sequential": True}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, -1])
@pytest.mark.parametrize("indexed", [True, False])
def test_gptq_of_spring_2023(bits, group, indexed, tmp_path):
    cols = 96
    groups = 1 if group == -1 else cols // group
    parts, values = gptq(64, cols, bits, groups, np.arange(cols) // (cols // groups))
    if not indexed:
        parts.pop("g_idx")
    said = {**SPRING, "bits": bits, "group_size": group}
    folder = write(tmp_path, module(Q, parts), None, quantize_config=said)
    assert np.array_equal(weights(folder)[f"{Q}.weight"], values)


def test_three_bits_with_one_group_in_the_order_of_activations(tmp_path):
    parts, values = gptq(64, 128, 3, 1, np.zeros(128, np.int64))
    said = {**SPRING, "bits": 3, "group_size": -1, "desc_act": True, "quant_method": "gptq"}
    assert np.array_equal(weights(write(tmp_path, module(Q, parts), said))[f"{Q}.weight"], values)


def test_three_bits_in_the_order_of_activations(tmp_path):
    index = random(9).permutation(np.arange(128) // 32)
    parts, values = gptq(64, 128, 3, 4, index)
    said = {**SPRING, "bits": 3, "desc_act": True, "quant_method": "gptq"}
    assert np.array_equal(weights(write(tmp_path, module(Q, parts), said))[f"{Q}.weight"], values)


def llm_int8(rows: int, cols: int) -> tuple[Arrays, NDArray[np.float32]]:
    """LLM.int8(): W = code * SCB / 127."""
    codes = random(4).integers(-127, 128, (rows, cols)).astype(np.int8)
    largest = random(5).uniform(0.1, 3, rows).astype(np.float32)
    values = codes.astype(np.float32) * (largest / np.float32(127))[:, None]
    return {"weight": codes, "SCB": largest, "weight_format": np.zeros((), np.uint8)}, values


@pytest.mark.parametrize("config", [{"quant_method": "bitsandbytes", "load_in_8bit": True}, None])
def test_llm_int8_with_and_without_its_word_in_the_configuration(config, tmp_path):
    parts, values = llm_int8(48, 32)
    found = weights(write(tmp_path, module(Q, parts), config))
    assert set(found) == {f"{Q}.weight"}
    assert np.allclose(found[f"{Q}.weight"], values, rtol=2e-7)


WORDS = {"bits": 4, "group_size": 32}


@pytest.mark.parametrize(
    ("tensors", "config", "kind", "why", "hint"),
    [
        (module(Q, {**llm_int8(32, 32)[0], "weight_format": np.full((), 2, np.uint8)}),
         {"quant_method": "bitsandbytes", "load_in_8bit": True}, UnsupportedError, "GPU kernel", "newer bitsandbytes"),
        (module(Q, mlx(32, 64, 4, 32)[0]), None, InputError, "quantized by MLX", "bits and group_size"),
        (module(Q, mlx(32, 64, 4, 32)[0]), {**WORDS, "mode": "mxfp4"}, UnsupportedError, "mxfp4", "affine"),
        (module(Q, mlx(32, 64, 4, 32)[0]), {**WORDS, "group_size": 64}, InputError, "scales", "fetch it again"),
        (module(Q, {**mlx(32, 64, 4, 32)[0], "weight": np.zeros((2, 32, 8), np.uint32)}), WORDS, UnsupportedError,
         "stack of experts", "original"),
        (module(Q, gptq(32, 64, 4, 2, np.arange(64) // 32)[0]), None, InputError, "GPTQ or AWQ", "quantize_config"),
        ({n: t for n, t in module(Q, gptq(32, 64, 4, 2, np.arange(64) // 32)[0]).items() if "g_idx" not in n},
         {**SPRING, "desc_act": True}, InputError, 'no "g_idx"', "fetch it again"),
        ({n: t for n, t in module(Q, nvfp4(32, 32)[0]).items() if "scale_2" not in n}, {"quant_algo": "NVFP4"},
         InputError, "weight_scale_2", "fetch it again"),
        (module(Q, {**nvfp4(32, 32)[0], "weight_scale_2": np.ones(3, np.float32)}), {"quant_algo": "NVFP4"},
         InputError, "one element", "fetch it again"),
        (module(Q, {**nvfp4(32, 32)[0], "pre_quant_scale": np.ones(32, np.float32)}), {"quant_algo": "NVFP4_AWQ"},
         UnsupportedError, "scales the inputs", "without AWQ"),
        (module(Q, {"weight": fp8((32, 32))[0], "weight_scale": np.ones(7, np.float32)}), AUTO_FP8, InputError,
         "expected", "fetch it again"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_called_by_its_name(tensors, config, kind, why, hint, tmp_path):
    with pytest.raises(kind, match=why) as caught:
        open_source(str(write(tmp_path, tensors, config)))
    assert type(caught.value) is kind
    assert hint in str(caught.value.hint)


def packed_words(rows: int, cols: int, bits: int, group: int) -> tuple[Arrays, NDArray[np.float32]]:
    """pack-quantized of compressed-tensors: codes from -2^(b-1) on, stored with that much added."""
    codes = random(6).integers(0, 1 << bits, (rows, cols))
    scale = random(7).uniform(0.01, 0.1, (rows, cols // group)).astype(np.float32)
    values = np.repeat(scale, group, 1) * (codes - (1 << bits - 1)).astype(np.float32)
    shape = np.array([rows, cols], np.int64)
    return {"weight_packed": stream(codes, bits).view(np.int32), "weight_scale": scale, "weight_shape": shape}, values


@pytest.mark.parametrize(
    ("preset", "bits", "group"),
    [("W4A16", 4, 128), ("w4a16", 4, 128), ("W8A16", 8, 128), ("W8A16", 8, 256), ("W3A16", 3, 128), ("W4A8", 4, 128)],
)
def test_presets_of_packed_integers(preset, bits, group, tmp_path):
    """Groups of 256 are whole rows here: what versions before 0.12 meant by W8A16."""
    parts, values = packed_words(16, 256, bits, group)
    said = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {preset: ["Linear"]}}
    found = weights(write(tmp_path, module(Q, parts), said))
    assert np.allclose(found[f"{Q}.weight"], values, rtol=1e-6)


@pytest.mark.parametrize(("preset", "shape"), [("FP8", (1,)), ("FP8_DYNAMIC", (48, 1)), ("FP8_BLOCK", (1, 2))])
def test_presets_of_fp8(preset, shape, tmp_path):
    stored, levels = fp8((48, 256))
    scale = random(8).uniform(0.01, 0.1, shape).astype(np.float32)
    said = {"quant_method": "compressed-tensors", "config_groups": {preset: ["Linear"]}, "ignore": ["lm_head"]}
    spread = np.repeat(scale, 128, 1) if preset == "FP8_BLOCK" else scale.reshape(-1, 1)
    tensors = module(Q, {"weight": stored, "weight_scale": scale})
    assert np.array_equal(weights(write(tmp_path, tensors, said))[f"{Q}.weight"], levels * spread)


def test_a_preset_of_eight_bit_integers(tmp_path):
    codes = random(4).integers(-127, 128, (48, 32)).astype(np.int8)
    scale = random(5).uniform(0.01, 0.1, (48, 1)).astype(np.float32)
    for preset in ("W8A8", "INT8"):
        said = {"quant_method": "compressed-tensors", "config_groups": {preset: ["Linear"]}}
        found = weights(write(tmp_path / preset, module(Q, {"weight": codes, "weight_scale": scale}), said))
        assert np.array_equal(found[f"{Q}.weight"], codes.astype(np.float32) * scale)


@pytest.mark.parametrize("tensors", [module(Q, llm_int8(32, 32)[0]), module(Q, nvfp4(32, 32)[0]),
                                     module(Q, mlx(32, 64, 4, 32)[0])])  # fmt: skip
def test_random_bytes_are_read_or_refused(tensors, tmp_path):
    """Any values in tensors of the right shapes and types: numbers, or an error that names the tensor."""
    said = {"bits": 4, "group_size": 32} if f"{Q}.scales" in tensors else None
    folder = write(tmp_path, tensors, said)
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    for seed in range(20):
        raw[start:] = random(seed).bytes(len(raw) - start)
        path.write_bytes(raw)
        try:
            checkpoint = open_source(str(folder))
            checkpoint.ref(f"{Q}.weight").read(0, 32)
        except QuantkitError as error:
            assert error.hint
