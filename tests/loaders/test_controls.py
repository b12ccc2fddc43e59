"""Artifacts that are wrong on purpose: the comparisons of this folder must see it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparisons import require_same_logits, require_same_text, require_same_weights
from expected import decoded
from loaders import examine
from safetensors import safe_open
from safetensors.torch import save_file

Artifact = Callable[[str], Path]


def spoiled(folder: Path, out: Path) -> Path:
    """A copy of an artifact, to be made wrong."""
    shutil.copytree(folder, out)
    return out


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


def shift_codes(folder: Path, name: str, mask: int) -> None:
    """Flip bits in every word, or byte, of one tensor."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    raw = tensors[name].view(torch.uint8)
    tensors[name] = (raw ^ mask).view(tensors[name].dtype)
    save_file(tensors, path, {"format": "pt"})


def label_as_version_1(config: dict[str, Any]) -> None:
    config["format"] = config["checkpoint_format"] = "gptq"


@pytest.mark.xdist_group("gptq-w4g128-asym")
def test_zero_points_of_the_other_version_are_seen(artifact: Artifact, tmp_path: Path) -> None:
    right = artifact("gptq-w4g128-asym")
    wrong = spoiled(right, tmp_path / "wrong")
    edit_config(wrong, label_as_version_1)
    loaded, expected = examine(wrong), decoded(right)
    with pytest.raises(AssertionError, match="28 of 28 weights differ"):
        require_same_weights(loaded.weights, expected, right)
    with pytest.raises(AssertionError, match="logits are"):
        require_same_logits(loaded, expected, right)


LAYER = "model.layers.1.mlp.down_proj"
SHIFTED = {
    "gptq-w4g128": f"{LAYER}.qweight", "awq-w4g128": f"{LAYER}.qweight", "w4a16": f"{LAYER}.weight_packed",
    "w8a8": f"{LAYER}.weight", "fp8": f"{LAYER}.weight", "fp8-native": f"{LAYER}.weight", "nf4": f"{LAYER}.weight",
    "int8": f"{LAYER}.weight", "nvfp4a16": f"{LAYER}.weight_packed", "mxfp4a16": f"{LAYER}.weight_packed",
}  # fmt: skip


@pytest.mark.parametrize("recipe", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SHIFTED])
def test_shifted_codes_are_seen(recipe: str, artifact: Artifact, tmp_path: Path) -> None:
    right = artifact(recipe)
    wrong = spoiled(right, tmp_path / "wrong")
    shift_codes(wrong, SHIFTED[recipe], 0x11)  # the lowest bit of both codes in a byte
    loaded, expected = examine(wrong), decoded(right)
    with pytest.raises(AssertionError, match=f"1 of 28 weights differ, the first is {LAYER}"):
        require_same_weights(loaded.weights, expected, right)
    with pytest.raises(AssertionError, match="logits are"):
        require_same_logits(loaded, expected, right)


@pytest.mark.xdist_group("w8a8")
def test_activations_left_as_they_are_are_seen(artifact: Artifact, tmp_path: Path) -> None:
    right = artifact("w8a8")
    wrong = spoiled(right, tmp_path / "wrong")
    edit_config(wrong, lambda config: config["config_groups"]["group_0"].update(input_activations=None))
    loaded, expected = examine(wrong), decoded(right)
    require_same_weights(loaded.weights, expected, right)
    with pytest.raises(AssertionError, match="logits are"):
        require_same_logits(loaded, expected, right)


@pytest.mark.xdist_group("w4a16")
def test_text_of_another_model_is_seen(artifact: Artifact) -> None:
    right = artifact("w4a16")
    expected = decoded(right)
    loaded = examine(right)
    turned = expected | {f"{LAYER}.weight": -expected[f"{LAYER}.weight"]}
    require_same_text(loaded, expected, right)
    with pytest.raises(AssertionError, match="worse than the best"):
        require_same_text(loaded, turned, right)
