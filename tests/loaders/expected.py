"""What a loader must find in an artifact: the weights as quantkit decodes them, and a plain model that runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from activations import round_cache, round_inputs
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from quantkit.source import open_source
from quantkit.tensors import WHOLE_DTYPES

ACTIVATION_SCALES = (".input_scale", ".k_scale", ".v_scale")


def quantization(folder: Path) -> dict[str, Any]:
    """The quantization_config of an artifact; of a plain one a word that says so."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text()).get("quantization_config")
    return found or {"quant_method": "plain"}


def decoded(folder: Path) -> dict[str, Tensor]:
    """Every weight of a checkpoint as float32, as quantkit reads it back, and tables of whole numbers as they are."""
    checkpoint = open_source(str(folder))
    try:
        weights = {}
        for name, info in checkpoint.tensors().items():
            ref = checkpoint.ref(name)
            whole = WHOLE_DTYPES.get(info.dtype)
            rows = ref.read_packed(0, info.rows).view(whole) if whole else ref.read(0, info.rows)
            weights[name] = torch.from_numpy(rows).reshape(info.shape)
        return weights
    finally:
        checkpoint.close()


def plain_model(folder: Path, weights: dict[str, Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """The architecture of the artifact without any quantization, with these weights."""
    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    loaded = model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, strict=False)
    assert not loaded.unexpected_keys, loaded
    assert set(loaded.missing_keys) <= {"lm_head.weight"}, loaded
    model.tie_weights()
    return model.eval()


def expected_model(folder: Path, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """`plain_model`, with activations and key/value cache rounded as the artifact's config.json asks."""
    model = plain_model(folder, weights, dtype)
    config, scales = quantization(folder), activation_scales(folder)
    round_inputs(model, config, scales)
    round_cache(model, config, scales)
    return model


def activation_scales(folder: Path) -> dict[str, Tensor]:
    """The stored scales of activations, keys and values."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.endswith(ACTIVATION_SCALES)]  # noqa: SIM118  not a dict
            found |= {name: file.get_tensor(name).float() for name in names}
    return found
