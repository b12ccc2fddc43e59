"""Sources whose tensors have several types, or another than a loader decodes to: their artifacts run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints import SIZES, Variant, build_variant
from loaders import load, run
from safetensors.torch import load_file, save_file

import quantkit

SMALL = {**SIZES, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bfloat16 matrices, a float16 embedding, float32 norms and head."""
    folder = build_variant(Variant("Llama", SMALL), tmp_path_factory.mktemp("source") / "mixed")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if "norm" in name or "lm_head" in name:
            tensors[name] = tensors[name].float()
        elif "embed" in name:
            tensors[name] = tensors[name].half()
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.mark.xdist_group("dtypes")
@pytest.mark.parametrize("recipe", ["nf4", "int8", "fp8-native", "w8a16", "nvfp4a16"])
def test_mixed_sources_run(recipe: str, source: Path, tmp_path: Path) -> None:
    quantkit.convert(quantkit.Request(str(source), (recipe,)), quantkit.Output(tmp_path / "out", threads=1))
    model = load(tmp_path / "out")
    assert torch.isfinite(run(model, tmp_path / "out").logits).all()


@pytest.mark.xdist_group("dtypes")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("recipe", ["nvfp4a16", "mxfp4a16"])
def test_four_bit_floats_of_other_types_run(recipe: str, dtype: str, tmp_path: Path) -> None:
    folder = build_variant(Variant("Llama", SMALL, dtype=dtype), tmp_path / "source")
    quantkit.convert(quantkit.Request(str(folder), (recipe,)), quantkit.Output(tmp_path / "out", threads=1))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [config[key] for key in ("dtype", "torch_dtype") if key in config] == ["bfloat16"]
    model = load(tmp_path / "out")
    assert torch.isfinite(run(model, tmp_path / "out").logits).all()
