"""What a quantization_config says of activations, done by hand on a plain model.

compressed-tensors and LLM.int8() round the inputs of every linear layer, and a kv_cache_scheme keys and values. This
follows the definition of each format; the loader's result is compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = 448.0


def round_to(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """x to the nearest 8-bit code of `scale` and back."""
    scale = scale.to(x.dtype)
    if kind == "float":
        return (x / scale).clamp(-LARGEST_FP8, LARGEST_FP8).to(FP8).to(x.dtype) * scale
    return torch.round(x / scale).clamp(-128, 127) * scale


def round_dynamic(x: Tensor, kind: str, group: int | None) -> Tensor:
    """Every token, or every `group` values of one, on a scale that its largest magnitude decides.

    compressed-tensors 0.20 keeps the first two axes apart: of inputs (tokens, channels), which shared experts read, and
    of (batch, 1, tokens, channels), which latent attention does, all values of these then have one scale
    (quantization/utils/helpers.py, compute_dynamic_scales_and_zp). Engines have one a token.
    """
    if x.ndim != 3 and group is None:
        apart = x.shape[:2] if x.ndim > 3 else (1, 1)
        return round_dynamic(x.reshape(*apart, -1), kind, None).reshape(x.shape)
    blocks = x.unflatten(-1, (-1, group or x.shape[-1]))
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    scale = largest / (LARGEST_FP8 if kind == "float" else 127.5)
    return round_to(blocks, scale, kind).flatten(-2)


def round_llm_int8(x: Tensor, threshold: float) -> Tensor:
    """LLM.int8() (arXiv 2208.07339): columns with a value above the threshold stay as they are."""
    rows = x.reshape(-1, x.shape[-1]).to(torch.float16)
    outlier = rows.abs() >= threshold
    quiet = rows.masked_fill(outlier, 0)
    largest = quiet.abs().amax(dim=1, keepdim=True).float()
    rounded = torch.round(quiet * (127 / largest)) * largest / 127
    return torch.where(outlier.any(dim=0), rows.float(), rounded).reshape(x.shape).to(x.dtype)


def _before(function: partial[Tensor]) -> Any:
    """`function` as a hook that replaces the only input of a layer."""
    return lambda _module, inputs: (function(inputs[0]),)


def means(entry: str, name: str) -> bool:
    """Whether an entry of what stays as it is, a name or a pattern, means a layer."""
    return re.match(entry.removeprefix("re:"), name) is not None if entry.startswith("re:") else entry == name


def round_inputs(model: PreTrainedModel, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
    """Round the inputs of the linear layers of `model` as `config`, a quantization_config, says."""
    plain = config.get("ignore") or config.get("llm_int8_skip_modules") or ()
    linears = {n: module for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    layers = {n: module for n, module in linears.items() if not any(means(entry, n) for entry in plain)}
    if config["quant_method"] == "bitsandbytes" and config["load_in_8bit"]:
        for layer in layers.values():
            layer.register_forward_pre_hook(_before(partial(round_llm_int8, threshold=config["llm_int8_threshold"])))
    if config["quant_method"] != "compressed-tensors":
        return
    schemes = [group["input_activations"] for group in config["config_groups"].values()]
    if not any(schemes):
        return
    [scheme] = schemes
    assert scheme["num_bits"] == 8
    assert scheme["symmetric"]
    for name, layer in layers.items():
        if scheme["dynamic"]:
            function = partial(round_dynamic, kind=scheme["type"], group=scheme["group_size"])
        else:
            function = partial(round_to, scale=stored[f"{name}.input_scale"], kind=scheme["type"])
        layer.register_forward_pre_hook(_before(function))


class RoundedCache(DynamicCache):
    """Keys and values go through FP8 before they are stored, on one scale per layer."""

    def __init__(self, scales: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.scales = scales

    def update(self, keys: Tensor, values: Tensor, layer: int, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        of_keys, of_values = self.scales[layer]
        return super().update(
            round_to(keys, of_keys, "float"), round_to(values, of_values, "float"), layer, *rest, **named
        )


def round_cache(model: PreTrainedModel, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
    """Give `model` a RoundedCache where `config` has a kv_cache_scheme."""
    if not config.get("kv_cache_scheme"):
        return
    names = [f"model.layers.{layer}.self_attn" for layer in range(model.config.num_hidden_layers)]
    scales = [(stored[f"{name}.k_scale"], stored[f"{name}.v_scale"]) for name in names]
    model.model.register_forward_pre_hook(
        lambda _module, inputs, named: (inputs, named | {"past_key_values": RoundedCache(scales)}), with_kwargs=True
    )
