"""Load an artifact as its user would, and look at what the loader made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from expected import quantization
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig, PreTrainedModel

TEXT = "The module provides a way to open files. It returns an object whose methods read lines from the file."
NEW_TOKENS = 8

NamedWeights = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Run:
    """The tokens of TEXT, their logits float32 (tokens, vocabulary), and what the model then wrote, greedily."""

    prompt: Tensor
    logits: Tensor
    written: Tensor


@dataclass(frozen=True)
class Loaded:
    """What a loader made of an artifact: the weights it had to decode, in its dtype, by name; and how it runs."""

    weights: dict[str, Tensor]
    run: Run


def load(folder: Path, **options: Any) -> PreTrainedModel:
    """In the class that its config.json names: those of models that see are no language models to transformers."""
    [architecture] = json.loads((folder / "config.json").read_text())["architectures"]
    kind = getattr(transformers, architecture, AutoModelForCausalLM)
    return kind.from_pretrained(folder, device_map="cpu", **options).eval()


def run(model: PreTrainedModel, folder: Path) -> Run:
    """Let a loaded model read TEXT and go on."""
    prompt = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = model(prompt).logits[0].float()
        written = model.generate(prompt, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    return Run(prompt[0], logits, written[0, prompt.shape[1] :])


def computes_in_float32(folder: Path) -> bool:
    """Whether the loader computes in the dtype that it is asked for, so that only the artifact makes a difference.

    compressed-tensors does, but for FP4, which it always decodes to bfloat16; the others have kernels of their own.
    """
    config = quantization(folder)
    return config["quant_method"] == "compressed-tensors" and "fp4" not in config["format"]


def open_model(folder: Path) -> PreTrainedModel:
    """Load an artifact with the loader that its config.json calls for."""
    return load(folder, **({"dtype": torch.float32} if computes_in_float32(folder) else {}))


def loaded_weights(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """The weights of linear layers that the loader had to decode, by name."""
    named = WEIGHTS[quantization(folder)["quant_method"]](model, folder)
    return {name: weight.detach().clone() for name, weight in named}


def examine(folder: Path) -> Loaded:
    """Load an artifact, decode its weights and let it write."""
    model = open_model(folder)
    weights = loaded_weights(model, folder)  # before it runs: kernels rearrange them when they are used
    return Loaded(weights, run(model, folder))


def _layers(model: PreTrainedModel, kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}.weight", module) for name, module in model.named_modules() if isinstance(module, kind))


def _compressed_tensors(model: PreTrainedModel, _folder: Path) -> NamedWeights:
    """The first forward pass decompresses."""
    rounded = {f"{name}.weight" for name, module in model.named_modules() if hasattr(module, "quantization_scheme")}
    with torch.inference_mode():
        model(torch.tensor([[1]]))
    return ((name, layer.weight) for name, layer in _layers(model, nn.Linear) if name in rounded)


def _bitsandbytes(model: PreTrainedModel, _folder: Path) -> NamedWeights:
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for name, layer in _layers(model, Linear4bit):
        yield name, functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    for name, layer in _layers(model, Linear8bitLt):
        yield name, functional.int8_vectorwise_dequant(layer.weight.data, layer.weight.SCB)


def _gptq(_model: PreTrainedModel, folder: Path) -> NamedWeights:
    """From a second load: the kernel that is picked by itself may not tell, the one written in PyTorch does."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    telling = load(folder, quantization_config=GPTQConfig(bits=quantization(folder)["bits"], backend="torch"))
    return ((name, layer.dequantize_weight().T) for name, layer in _layers(telling, TorchLinear))


def _awq(model: PreTrainedModel, _folder: Path) -> NamedWeights:
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    for name, layer in model.named_modules():
        if hasattr(layer, "qweight"):
            weight = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, layer.bits, layer.group_size)
            yield f"{name}.weight", weight.T


def _fp8(model: PreTrainedModel, folder: Path) -> NamedWeights:
    """Without a GPU these became bfloat16 as they were loaded."""
    plain = {f"{name}.weight" for name in quantization(folder)["modules_to_not_convert"]}
    return ((name, layer.weight) for name, layer in _layers(model, nn.Linear) if name not in plain)


def _plain(model: PreTrainedModel, _folder: Path) -> NamedWeights:
    return ((name, layer.weight) for name, layer in _layers(model, nn.Linear) if ".layers." in name)


WEIGHTS: dict[str, Callable[[PreTrainedModel, Path], NamedWeights]] = {
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "gptq": _gptq,
    "plain": _plain,
}
