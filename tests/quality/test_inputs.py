"""Inputs of layers are rounded as their engines do: against ggml's own code, and formats done by hand elsewhere."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from commands import quantkit
from loaders.activations import round_dynamic, round_llm_int8, round_to
from safetensors.torch import load_file, save_file

from quantkit.qtypes import base
from quantkit.quality.inputs import _round_dynamic, _round_llm_int8, _round_static, ggml_rounding

INPUTS = {name: base.get(name).inputs for name in base.names()}
TINY = Path(__file__).parent.parent / "data" / "docs-llama-tiny"


def inputs(rows: int = 5, cols: int = 512) -> torch.Tensor:
    values = torch.randn(rows, cols, generator=torch.Generator().manual_seed(3))
    values[:, 7] *= 40
    values[2] = 0
    return values


@pytest.mark.parametrize("qtype", [name for name, inputs in INPUTS.items() if inputs in {"q8_0", "q8_1"}])
def test_blocks_of_32_are_those_of_q8_0(qtype: str) -> None:
    rounding = ggml_rounding(qtype)
    assert rounding is not None
    raw = gguf.quants.quantize(inputs().numpy(), gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    found = rounding(inputs()).numpy()
    # halves are rounded to even here and away from zero there
    assert np.mean(found != expected) < 1e-3
    assert np.abs(found - expected).max() <= np.abs(inputs().numpy()).max() / 100


@pytest.mark.parametrize("qtype", [name for name, inputs in INPUTS.items() if inputs == "q8_k"])
def test_blocks_of_256_have_127_steps(qtype: str) -> None:
    rounding = ggml_rounding(qtype)
    assert rounding is not None
    found, blocks = rounding(inputs()).reshape(-1, 256), inputs().reshape(-1, 256)
    step = blocks.abs().amax(dim=1, keepdim=True) / 127
    assert ((found - blocks).abs() <= 0.5001 * step).all()
    assert torch.equal(found.abs().amax(dim=1), blocks.abs().amax(dim=1))


def test_sixteen_bits_and_more() -> None:
    f16, bf16 = ggml_rounding("f16"), ggml_rounding("bf16")
    assert f16 is not None
    assert bf16 is not None
    assert torch.equal(f16(inputs()), inputs().half().float())
    assert torch.equal(bf16(inputs()), inputs().bfloat16().float())
    assert ggml_rounding("f32") is None


@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("group", [None, 128])
def test_dynamic_scales(kind: str, group: int | None) -> None:
    values = inputs()[[0, 1, 3, 4]]  # by hand a row of zeros is divided by zero
    [expected] = round_dynamic(values[None], kind, group)  # of two axes the loader's tokens have one scale
    assert torch.equal(_round_dynamic(values, group, kind == "int"), expected)
    assert not _round_dynamic(inputs(), group, kind == "int")[2].any()


@pytest.mark.parametrize("kind", ["int", "float"])
def test_static_scales(kind: str) -> None:
    found = _round_static(inputs(), 0.05, kind == "int")
    assert torch.equal(found, round_to(inputs(), torch.tensor(0.05), kind))


def test_llm_int8_keeps_outliers() -> None:
    found, expected = _round_llm_int8(inputs(), 6.0), round_llm_int8(inputs()[[0, 1, 3, 4]], 6.0)
    assert torch.equal(found[:, 7], inputs()[:, 7])
    quiet = [column for column in range(512) if column != 7]
    assert (found[[0, 1, 3, 4]] - expected)[:, quiet].abs().max() < 0.04  # a step: the other computes in float16


def test_an_expert_without_tokens_has_nothing_to_round() -> None:
    nothing = torch.empty(0, 512)
    roundings = [ggml_rounding(name) for name in INPUTS]
    roundings += [partial(_round_dynamic, group=group, integers=True) for group in (None, 128)]
    roundings += [partial(_round_llm_int8, threshold=6.0), partial(_round_static, scale=0.1, integers=False)]
    assert all(rounding(nothing).shape == nothing.shape for rounding in roundings if rounding is not None)


# What the check says of checkpoints


def built(recipe: str, source: Path, out: Path) -> Path:
    text = Path(__file__).parent.parent / "data" / "calibration.jsonl"
    calib = ["--calib", text, "--samples", "16", "--seqlen", "64"] if recipe == "fp8-static" else []
    outcome = quantkit("convert", source, "--to", recipe, "-o", out, *calib)
    assert outcome.status == 0, outcome.stderr
    return out


def verdict(made: Path, source: Path) -> tuple[int, dict]:
    outcome = quantkit("verify", made, "--against", source, "--engine", "torch", "--json")
    checks = json.loads(outcome.stdout.splitlines()[0])["checks"]
    return outcome.status, next(c for c in checks if c["check"] == "torch")


@pytest.mark.parametrize("recipe", ["w8a8", "fp8-static"])
def test_sound_checkpoints_pass_with_rounded_inputs(recipe: str, tmp_path: Path) -> None:
    status, check = verdict(built(recipe, TINY, tmp_path / "out"), TINY)
    assert status == 0, check
    assert check["rounded_inputs"] == 28
    assert 0 < check["kl_mean"] < 0.1


def test_a_wrong_static_scale_fails(tmp_path: Path) -> None:
    made = built("fp8-static", TINY, tmp_path / "out")
    for file in ("model.manifest.json", "SHA256SUMS"):
        (made / file).unlink(missing_ok=True)
    path = made / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith("input_scale")]:
        tensors[name] = tensors[name] / 1000
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    status, check = verdict(made, TINY)
    assert (status, check["ok"]) == (7, False)
    assert check["kl_of_weights_alone"] < 0.1 < 0.3 < check["kl_mean"]


def test_a_few_large_channels_ruin_eight_bit_inputs(tmp_path: Path) -> None:
    """The same function in floats: norms times 3000 in some channels, what reads them divided by it."""
    source = tmp_path / "large"
    shutil.copytree(TINY, source)
    config = json.loads((source / "config.json").read_text())
    channels = torch.tensor([3, 40, 77])
    for path in source.glob("*.safetensors"):
        tensors = load_file(path)
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            for norm, readers in (("input_layernorm", "qkv"), ("post_attention_layernorm", ("gate", "up"))):
                tensors[f"{prefix}{norm}.weight"][channels] *= 3000
                inside = "self_attn" if norm == "input_layernorm" else "mlp"
                for reader in readers:
                    tensors[f"{prefix}{inside}.{reader}_proj.weight"][:, channels] /= 3000
        path.unlink()
        save_file(tensors, path, metadata={"format": "pt"})
    status, check = verdict(built("w8a8", source, tmp_path / "out"), source)
    assert (status, check["ok"]) == (7, False), check
    assert check["kl_of_weights_alone"] < check["kl_mean"] / 3
