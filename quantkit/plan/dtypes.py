"""The float type of a checkpoint for servers: what loaders compute in, and what is stored beside rounded layers.

Loaders of quantized checkpoints take plain tensors as they are stored and compute in the type that config.json names:
a float32 norm among bfloat16 weights stops at the first product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.linears import source_of
from quantkit.families.model import Model
from quantkit.formats.containers.packed import Entry
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes.base import ScaleDtype
from quantkit.tensors import FLOAT_DTYPES, TensorInfo

Dtype = ScaleDtype
WORDS: dict[Dtype, str] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
KEYS = ("dtype", "torch_dtype")  # of config.json, as transformers 5 and 4 call it
DECODED_TO_BF16 = ("nvfp4", "mxfp4", "bf16")  # compressed-tensors decodes FP4 to nothing else
LEFT_ALONE = ".inv_freq"  # no weights: loaders compute these anew


def computed_in(config: Mapping[str, Any], found: Model, tensors: Mapping[str, TensorInfo]) -> Dtype:
    """The type that config.json names, else that of most linear layers. Raises UnsupportedError without any layer."""
    used = [tensors[source_of(module).tensor].dtype for module in found.tensors]
    named = [str(place.get(key)).removeprefix("torch.") for place in _places(config) for key in KEYS]
    said = [dtype for word in named for dtype in WORDS if WORDS[dtype] == word]
    if not said and not used:
        what = f"no linear layer of family {found.family} among the tensors"
        raise UnsupportedError(what, hint="`quantkit inspect` lists what the checkpoint holds")
    return said[0] if said else max(WORDS, key=used.count)


def served_in(dtype: Dtype, weights: Iterable[Weights | None]) -> Dtype:
    """`dtype`, or that of plain weights, or bfloat16 where weights are stored as floats of four bits."""
    weights = list(weights)
    if any(one is not None and one.type == "f32" for one in weights):
        return "F32"
    if any(one is not None and one.type == "f16" for one in weights):
        return "F16"
    return "BF16" if any(one is not None and one.type in DECODED_TO_BF16 for one in weights) else dtype


def plain_entry(info: TensorInfo, dtype: Dtype) -> Entry:
    """How a tensor that is not rounded is stored."""
    kept = info.dtype not in FLOAT_DTYPES or info.name.endswith(LEFT_ALONE)
    return Entry(info.name, info.dtype if kept else dtype, info.shape)


def named_in(config: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    """config.json with this type, in the places where it names one, else in a new one."""
    changed = _renamed(config, dtype)
    if isinstance(config.get("text_config"), Mapping):
        changed["text_config"] = _renamed(config["text_config"], dtype)
    if any(key in place for place in _places(changed) for key in KEYS):
        return changed
    return {**changed, "torch_dtype": WORDS[dtype]}


def _renamed(place: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    return {key: WORDS[dtype] if key in KEYS else value for key, value in place.items()}


def _places(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    text = config.get("text_config")
    return [config, text] if isinstance(text, Mapping) else [config]
