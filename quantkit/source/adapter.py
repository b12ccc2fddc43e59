"""A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors.

base_model.model.<module>.lora_A.weight (rank, in), .lora_B.weight (out, rank)       a linear layer
base_model.model.<module>.lora_embedding_A (rank, tokens), .lora_embedding_B (width, rank)
base_model.model.<module>.lora_magnitude_vector (out)                                with DoRA
base_model.model.<module>.lora_B.bias (out)                                          with lora_bias
base_model.model.<tensor>                                                            modules_to_save, trained biases
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, QuantkitError, UnsupportedError, UsageError
from quantkit.records import record
from quantkit.source.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from quantkit.source.base import SourceFile, StoredTensor, require_decodable
from quantkit.source.folder import MAX_CONFIG_BYTES, locate, published_sha256
from quantkit.source.shards import read_shards
from quantkit.storage import hash_file
from quantkit.tensors import FLOAT_DTYPES
from quantkit.units import counted
from quantkit.untrusted import InputFile, listed, open_input, parse_json_object, read_all, shown

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?P<last>\.weight|\.bias)?"
)
SAVED = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)(?=\.)")
PARTS = {  # part and last -> field of a Change
    ("lora_A", ".weight"): "a", ("lora_B", ".weight"): "b", ("lora_B", ".bias"): "bias",
    ("lora_embedding_A", ""): "a", ("lora_embedding_B", ""): "b",
    ("lora_embedding_A", ".weight"): "a", ("lora_embedding_B", ".weight"): "b",
    ("lora_magnitude_vector", ""): "magnitude", ("lora_magnitude_vector", ".weight"): "magnitude",
}  # fmt: skip
HINT = "the adapter is damaged: fetch it again"


@record
class Change:
    """What an adapter does to a module: `a` (rank, in) and `b` (out, rank) make what is added to its weight.

    Of an `embedding`, whose weight is (tokens, width), and of a `transposed` layer, which keeps (in, out), that is
    the product turned round. `scale` multiplies it. `bias` (out) is added to the bias, times `scale` too. With a
    `magnitude` (out) the sum is brought to that length, output by output (DoRA).
    """

    module: str
    scale: float
    a: StoredTensor
    b: StoredTensor
    bias: StoredTensor | None = None
    magnitude: StoredTensor | None = None
    embedding: bool = False
    transposed: bool = False

    @property
    def rank(self) -> int:
        return self.a.info.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that it is added to."""
        out, into = self.b.info.shape[0], self.a.info.shape[1]
        return (into, out) if self.turned else (out, into)

    @property
    def turned(self) -> bool:
        return self.embedding or self.transposed


@record
class Adapter:
    """An open adapter. `changes` are those of modules, `saved` whole tensors that stand in place of the base model's,
    both by the name within the model."""

    name: str
    config: AdapterConfig
    said: Mapping[str, Any]
    changes: tuple[Change, ...]
    saved: Mapping[str, StoredTensor]
    stored: Mapping[str, StoredTensor]
    weights: InputFile
    settings: InputFile
    root: Path

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the weights. Reads them."""
        return hash_file(self.weights.path)

    @property
    def scales(self) -> tuple[float, ...]:
        """The numbers that products are multiplied by: one, unless modules differ."""
        return tuple(sorted({change.scale for change in self.changes}))

    def files(self, folder: str = "") -> tuple[SourceFile, ...]:
        """Its two files, called as if they lay in `folder`."""
        found = ((WEIGHTS, self.weights), (ADAPTER_CONFIG, self.settings))
        return tuple(
            SourceFile(
                f"{folder}{name}", str(file.path), file.nbytes, name == WEIGHTS,
                published_sha256(self.root, name), file,
            )
            for name, file in found
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """A record's word on it."""
        scales = [float(f"{scale:.12g}") for scale in self.scales]
        return {
            "name": self.name, "base": self.config.base, "sha256": self.sha256, "rank": self.config.rank,
            "alpha": self.config.alpha, "scales": scales, "modules": len(self.changes), "saved": len(self.saved),
        }  # fmt: skip

    def unchanged(self) -> None:
        self.weights.unchanged()
        self.settings.unchanged()

    def close(self) -> None:
        self.weights.close()
        self.settings.close()


def holds_adapter(names: Collection[str]) -> bool:
    """Whether a folder with files of these names holds an adapter and no model."""
    models = any(name.startswith(("model", "consolidated")) and name.endswith(".safetensors") for name in names)
    return ADAPTER_CONFIG in names and WEIGHTS in names and not models


def open_adapter(folder: Path) -> Adapter:
    """Open an adapter's folder. Reads headers only.

    Raises UsageError for a folder without one, InputError for a damaged or hostile file and for tensors that contradict
    adapter_config.json, UnsupportedError for an adapter that is no LoRA or has settings that are not read.
    """
    root = Path(os.path.realpath(folder))
    names = {entry.name for entry in root.iterdir()} if root.is_dir() else set()
    if ADAPTER_CONFIG not in names:
        what = f"{shown(folder)} holds no adapter: there is no {ADAPTER_CONFIG}"
        raise UsageError(what, path=str(folder), key="adapter", hint="give the folder that peft saved")
    if WEIGHTS not in names:
        pickle = f"only {PICKLE}, a pickle, which can run code and is never loaded" if PICKLE in names else "no weights"
        what = f"{shown(folder)} has {pickle}"
        raise InputError(what, path=str(root), hint=f"save the adapter with peft, which writes {WEIGHTS}")
    opened: list[InputFile] = []
    try:
        for name in (ADAPTER_CONFIG, WEIGHTS):
            opened.append(open_input(locate(root, name), follow=False))
        settings, weights = opened
        said = parse_json_object(read_all(settings, MAX_CONFIG_BYTES), settings.path, digits=True)
        config = read_adapter_config(said)
        stored = read_shards({WEIGHTS: weights}, None)
        changes, saved = _taken_apart(stored, config)
    except QuantkitError:
        for file in opened:
            file.close()
        raise
    name = Path(folder).absolute().name or root.name
    return Adapter(name, config, said, changes, saved, stored, weights, settings, root)


def _taken_apart(
    stored: Mapping[str, StoredTensor], config: AdapterConfig
) -> tuple[tuple[Change, ...], dict[str, StoredTensor]]:
    """The changes of modules in the order of their first tensors, and whole tensors. Raises as `open_adapter`."""
    parts: dict[str, dict[str, StoredTensor]] = {}
    embeddings: set[str] = set()
    saved: dict[str, StoredTensor] = {}
    for full, tensor in stored.items():
        require_decodable(tensor.info, None)
        if tensor.info.dtype not in FLOAT_DTYPES:
            raise UnsupportedError(f'tensor "{full}" is stored as {tensor.info.dtype}', tensor=full, hint=HINT)
        name = full.removeprefix(PREFIX)
        match = PART.fullmatch(name)
        if match is None:
            plain = SAVED.sub("", name)
            if "lora_" in plain.rpartition(".")[2] or plain in saved:
                raise _no_meaning(full)
            saved[plain] = tensor
            continue
        key = PARTS.get((match["part"], match["last"] or ""))
        found = parts.setdefault(match["module"], {})
        if key is None or key in found:
            raise _no_meaning(full)
        found[key] = tensor
        if "embedding" in match["part"]:
            embeddings.add(match["module"])
    if not parts and not saved:
        raise InputError("the adapter holds no tensors", path=WEIGHTS, hint=HINT)
    changes = tuple(_change(module, found, config, module in embeddings) for module, found in parts.items())
    return changes, saved


def _no_meaning(name: str) -> UnsupportedError:
    what = f'tensor "{shown(name)}" of the adapter is no part of a LoRA that is read'
    hint = "merge it with peft (merge_and_unload, save_pretrained) and give that folder"
    return UnsupportedError(what, tensor=name, path=WEIGHTS, hint=hint)


def _change(module: str, parts: Mapping[str, StoredTensor], config: AdapterConfig, embedding: bool) -> Change:
    """The change of a module. Raises InputError for matrices that are missing or do not fit each other."""
    absent = [part for part in ("a", "b", *(("magnitude",) if config.dora else ())) if part not in parts]
    if absent:
        what = f'module "{shown(module)}" of the adapter lacks lora_{absent[0].upper()}'
        what = what if absent[0] != "magnitude" else f'module "{shown(module)}" of the adapter lacks its magnitudes'
        raise InputError(what, tensor=module, path=WEIGHTS, hint=HINT)
    a, b = parts["a"].info.shape, parts["b"].info.shape
    if len(a) != 2 or len(b) != 2:
        what = f'module "{shown(module)}" of the adapter is no linear layer: its matrices are {list(a)} and {list(b)}'
        raise UnsupportedError(what, tensor=module, path=WEIGHTS, hint="merge it with peft and give that folder")
    rank = config.rank_of(module)
    if not a[0] == b[1] == rank:
        what = f'module "{shown(module)}": matrices {list(a)} and {list(b)}, by {ADAPTER_CONFIG} the rank is {rank}'
        raise InputError(what, tensor=module, path=WEIGHTS, key="r", hint="the two files are not of one adapter")
    if not config.dora and "magnitude" in parts:
        what = f'module "{shown(module)}" has magnitudes, and {ADAPTER_CONFIG} says nothing of DoRA'
        raise InputError(what, tensor=module, path=WEIGHTS, key="use_dora", hint="the files are not of one adapter")
    for part in ("bias", "magnitude"):
        if part in parts and parts[part].info.elements != b[0]:
            what = f'"{shown(parts[part].info.name)}" has {parts[part].info.elements} numbers, the layer {b[0]} outputs'
            raise InputError(what, tensor=module, path=WEIGHTS, hint=HINT)
    turned = config.transposed and not embedding
    return Change(
        module, config.scale_of(module), parts["a"], parts["b"], parts.get("bias"), parts.get("magnitude"), embedding,
        turned,
    )  # fmt: skip


def no_place(names: list[str], base: str) -> InputError:
    """The error for parts of an adapter that the base model has no place for."""
    what = f"{base} has no place for {counted(len(names), 'part')} of the adapter: {listed(names, 3)}"
    hint = "the adapter was made for another model: base_model_name_or_path of its adapter_config.json names it"
    return InputError(what, tensor=names[0], key="adapter", hint=hint)
