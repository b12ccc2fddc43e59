"""The float type of a checkpoint for servers: what loaders compute in, and what is stored beside rounded layers.

Loaders of quantized checkpoints take plain tensors as they are stored and compute in the type that config.json names:
a float32 norm among bfloat16 weights stops at the first product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.hparams import NESTED, part_of
from quantkit.families.linears import source_of
from quantkit.families.model import Model
from quantkit.formats.containers.packed import Entry
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes.base import ScaleDtype
from quantkit.tensors import FLOAT_DTYPES, TensorInfo

Dtype = ScaleDtype
WORDS: dict[Dtype, str] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
PARTS_INSIDE = 4  # thinker_config.text_config is the deepest that names a type, two inside
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
    """config.json with this type wherever it names one, those of encoders included: their tensors have it, too. Where
    nothing that loaders ask names one, the root does."""
    changed = _renamed(config, dtype)
    if any(key in place for place in _places(changed) for key in KEYS):
        return changed
    return {**changed, "torch_dtype": WORDS[dtype]}


def _renamed(place: Mapping[str, Any], dtype: Dtype, inside: int = PARTS_INSIDE) -> dict[str, Any]:
    """A part of config.json and, so many times further inside, its own parts."""
    named = {key: WORDS[dtype] for key in KEYS if key in place}
    parts = {key: part for key, part in place.items() if isinstance(part, Mapping)} if inside else {}
    return {**place, **{key: _renamed(part, dtype, inside - 1) for key, part in parts.items()}, **named}


def _places(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The root of config.json, and the parts on the way to that of the language model, which is the last."""
    places = [config]
    path = next((path for path in NESTED if part_of(config, path) is not None), None)
    for key in path.split(".") if path else ():
        places.append(places[-1][key])
    return places
