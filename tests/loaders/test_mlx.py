"""mlx-lm loads what the table of consumers says it loads, with the weights that quantkit decodes; on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import CALIBRATION, ROUND_TO_NEAREST, SOURCE
from expected import decoded
from mixtures import build

import quantkit
from quantkit.consumers import Verdict

mx = pytest.importorskip("mlx.core", reason="no wheel of mlx for this machine")
mlx_lm = pytest.importorskip("mlx_lm.utils", reason="mlx-lm is not installed")
TEXT: dict[str, Any] = {"calib": (CALIBRATION[1],), "samples": 4, "seqlen": 32}
pytestmark = pytest.mark.xdist_group("mlx")


def verdict(recipe: str, source: Path = SOURCE, keep: tuple[str, ...] = ()) -> Verdict:
    prepared = quantkit.prepare(quantkit.Request(str(source), (recipe,), keep=keep))
    try:
        found = quantkit.consumer_verdicts(prepared.plans[0])
    finally:
        prepared.checkpoint.close()
    return next(v for v in found if v.consumer == "mlx")


def loaded(folder: Path) -> dict[str, Any]:
    """Every matrix that mlx-lm has, by the name of its module, as float32."""
    mx.set_default_device(mx.cpu)
    model, _ = mlx_lm.load_model(folder)
    found = {}
    for name, module in model.named_modules():
        if "scales" in module:
            parts = (module.scales.astype(mx.float32), module.biases.astype(mx.float32))
            found[name] = np.array(mx.dequantize(module.weight, *parts, module.group_size, module.bits))
        elif "weight" in module:
            found[name] = np.array(module.weight.astype(mx.float32))
    return found


@pytest.mark.parametrize("recipe", ["mlx-4bit", "mlx-8bit", "hf-bf16"])
def test_weights_are_those_decoded(recipe: str, artifact: Callable[..., Path]) -> None:
    assert verdict(recipe).ok
    folder = artifact(recipe)
    expected = {name.removesuffix(".weight"): weight.numpy() for name, weight in decoded(folder).items()}
    found = loaded(folder)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        # A fused product and sum in MLX: the last bit may differ.
        assert np.allclose(values, expected[name], rtol=1e-6, atol=1e-8), name


def test_awq_is_taken_over(artifact: Callable[..., Path]) -> None:
    """MLX has a bias where AWQ has a zero point: its product with the scale is rounded to float16 once more."""
    assert verdict("awq-w4g128").ok
    folder = artifact("awq-w4g128")
    expected = {name.removesuffix(".weight"): weight.numpy() for name, weight in decoded(folder).items()}
    for name, values in loaded(folder).items():
        assert np.allclose(values, expected[name], atol=2**-9 * np.abs(expected[name]).max()), name


@pytest.mark.parametrize("recipe", ["gptq-w4g128", "w4a16", "nvfp4a16", "mxfp4a16", "fp8", "fp8-native", "nf4", "int8"])
def test_what_the_table_refuses_does_not_load(recipe: str, artifact: Callable[..., Path]) -> None:
    assert not verdict(recipe).ok
    needs_text = recipe in ("gptq-w4g128", "w4a16")
    with pytest.raises((ValueError, KeyError)):
        loaded(artifact(recipe, *(ROUND_TO_NEAREST if needs_text else ())))


@pytest.mark.parametrize(
    ("family", "recipe", "keep"),
    [("mixtral", "mlx-4bit", ()), ("mixtral", "mlx-4bit", ("experts=bf16",)), ("mixtral", "awq-w4g128", ()),
     ("qwen3-moe", "mlx-4bit", ()), ("qwen3-moe", "mlx-4bit", ("experts=bf16",))],
)  # fmt: skip
def test_mixtures_load_where_the_table_says_so(family: str, recipe: str, keep: tuple[str, ...], tmp_path: Path) -> None:
    source = build(family, tmp_path)
    config = json.loads((source / "config.json").read_text())
    config |= {"num_experts": 3, "rope_theta": 10000.0}  # as published ones have it; transformers 5 writes other keys
    (source / "config.json").write_text(json.dumps(config))
    request = quantkit.Request(str(source), (recipe,), keep=keep, **(TEXT if recipe == "awq-w4g128" else {}))
    said = verdict(recipe, source, keep)
    quantkit.convert(request, quantkit.Output(tmp_path / "out", threads=1))
    try:
        found = loaded(tmp_path / "out")
    except (ValueError, KeyError, IndexError):
        assert not said.ok
        return
    assert said.ok, said
    # Experts are stacks there; the rest has the names of the source.
    expected = {name.removesuffix(".weight"): weight.numpy() for name, weight in decoded(tmp_path / "out").items()}
    for name in found.keys() & expected.keys():
        assert np.allclose(found[name], expected[name], rtol=1e-6, atol=1e-8), name
    stacks = {name: values for name, values in found.items() if "switch_mlp" in name}
    assert len(stacks) == 3
    names = {"gate_proj": ("gate_proj", "w1"), "up_proj": ("up_proj", "w3"), "down_proj": ("down_proj", "w2")}
    for name, values in stacks.items():
        ends = tuple(f".experts.0.{end}" for end in names[name.rpartition(".")[2]])
        first = next(each for each in expected if each.endswith(ends))
        experts = [expected[first.replace(".experts.0.", f".experts.{number}.")] for number in range(3)]
        assert np.allclose(values, np.stack(experts), rtol=1e-6, atol=1e-8), name
