"""Folders of families that quantkit does not know, and folders that are no models: refused at once, by their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import quantkit
from real_folders import REALITY, needs_reality, read_config, unclaimed
from safetensors.numpy import save_file


@pytest.mark.parametrize("name", unclaimed())
@pytest.mark.parametrize("weights", [True, False])
def test_an_unknown_family_is_the_first_thing_to_say(name: str, weights: bool, tmp_path: Path) -> None:
    """Also of weights that are quantized by an unknown method, or that are not there."""
    folder = tmp_path / name
    shutil.copytree(REALITY / name, folder)
    for index in folder.glob("*.index.json"):
        index.unlink()
    if weights:
        tensors = {"model.layers.0.x.weight_packed": np.zeros((4, 4), np.uint8), "a": np.zeros((8, 8), np.float32)}
        save_file(tensors, folder / "model.safetensors")
    for recipe in ("q4_k_m", "w8a16"):
        seen = quantkit("plan", folder, "--to", recipe)
        assert seen.status == 4
        assert read_config(name)["architectures"][0] in seen.stderr
        assert "quantkit schemes --families" in seen.stderr or "convert_hf_to_gguf.py" in seen.stderr
    if weights:
        shown = quantkit("inspect", folder, "--json")
        assert shown.status == 0, shown.stderr
        assert {row["type"] for row in shown.json["types"]} == {"U8", "F32"}


@needs_reality
@pytest.mark.parametrize("weights", [True, False])
def test_an_adapter_is_called_one(weights: bool, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    shutil.copytree(REALITY / "gpt-oss-lora", folder)
    if weights:
        save_file({"a": np.zeros((8, 8), np.float32)}, folder / "adapter_model.safetensors")
    seen = quantkit("plan", folder)
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert seen.status == 3
    assert f"LoRA adapter of {base}" in seen.stderr
    assert "merge it into its base model" in seen.stderr
