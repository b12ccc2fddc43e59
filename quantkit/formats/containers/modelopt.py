"""ModelOpt's checkpoints, which are read: FP8 and NVFP4, and hf_quant_config.json, which is written for FP8, too.

scaled_floats.py has their tensors. vLLM, SGLang and TensorRT-LLM read that file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.formats.containers.base import Container, LayoutOf, Reading
from quantkit.formats.containers.scaled_floats import ScaledFloats
from quantkit.formats.containers.settings import choice
from quantkit.qtypes.schemes import TILE

# What ModelOpt calls the granularities of FP8.
NAMES: dict[str, str] = {
    "tensor": "FP8", "channel": "FP8_PER_CHANNEL_PER_TOKEN", "block": "FP8_PB_WO",
}  # fmt: skip
WIDE = "W4A16_NVFP4"  # activations stay as they are
READ = (
    "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4", "NVFP4_AWQ", "MIXED_PRECISION",
)  # fmt: skip


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """ModelOpt says the algorithm; layers of MIXED_PRECISION differ, and the tensors of each show which is its own."""
    inner = quantization.get("quantization")
    said = inner if isinstance(inner, Mapping) else quantization
    if said.get("quant_algo") is not None:  # else only the key/value cache is quantized
        choice(said, "quant_algo", READ)
    layers = said.get("quantized_layers")
    return lambda module: ScaledFloats(wide=_algorithm(module, said, layers) == WIDE)


def _algorithm(module: str, said: Mapping[str, Any], layers: object) -> object:
    """The algorithm of a module: its own, else that of what it is part of, else everybody's."""
    while isinstance(layers, Mapping) and module:
        own = layers.get(module)
        if isinstance(own, Mapping):
            return own.get("quant_algo")
        module = module.rpartition(".")[0]
    return said.get("quant_algo")


def hf_quant_config(
    granularity: str, *, version: str, kv_cache: bool = False, exclude: Sequence[str] = ("lm_head",)
) -> dict[str, Any]:
    """The content of hf_quant_config.json for FP8 weights. `version` is that of quantkit, who produces them."""
    return {
        "producer": {"name": "quantkit", "version": version},
        "quantization": {
            "quant_algo": NAMES[granularity],
            "kv_cache_quant_algo": "FP8" if kv_cache else None,
            "group_size": TILE if granularity == "block" else None,
            "exclude_modules": list(exclude),
        },
    }


CONTAINER = Container(
    "modelopt",
    reading=Reading(
        layouts,
        components=("weight_scale_2", "weight_scale_inv", "weight_scale", "weight"),
        telling=("quant_algo",),
        vague=("quantization",),
        unsaid=((".weight_scale_2", {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}),),
    ),
)
