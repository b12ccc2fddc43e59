"""Which files of a checkpoint folder hold the weights, and whether the index and its shards agree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.families.names import expert_of
from quantkit.formats.safetensors import INDEX
from quantkit.formats.safetensors.reader import parse_safetensors
from quantkit.source.base import StoredTensor, require_weights
from quantkit.tensors import TensorInfo
from quantkit.units import counted
from quantkit.untrusted import InputFile, listed, parse_json_object, read_all, read_bounded, shown, unique_pairs

MODEL, CONSOLIDATED = "model", "consolidated"  # how names of weight files begin: transformers', and Mistral's own
PARAMS = "params.json"

SHARD_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}\.safetensors")
PART_NAME = re.compile(r"(?P<stem>(?:model|consolidated).*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
SPLIT_GGUF = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "scheduler.pt"})  # the Trainer leaves these behind

MAX_INDEX_BYTES = 64 << 20
MAX_INDEX_VALUES = 1 << 20
MAX_SHARDS = 1000
MAX_ADAPTER_BYTES = 1 << 20


def read_index(file: InputFile) -> dict[str, str]:
    """The weight map of an index: tensor name to shard name, every shard name harmless.

    Raises InputError for anything else: a shard name is joined to a path.
    """
    found = parse_json_object(read_all(file, MAX_INDEX_BYTES), file.path, values=MAX_INDEX_VALUES, pairs=unique_pairs)
    weight_map = found.get("weight_map")

    def refuse(why: str) -> InputError:
        hint = "the index is damaged or hostile: fetch it again from a source you trust"
        return InputError(f"{shown(file.path)}: {why}", path=str(file.path), key="weight_map", hint=hint)

    if not isinstance(weight_map, dict) or not weight_map:
        raise refuse("weight_map is not an object that names tensors")
    shards = set(map(str, weight_map.values()))
    bad = sorted(shard for shard in shards if not SHARD_NAME.fullmatch(shard))
    if bad:
        raise refuse(f'"{listed(bad)}" is not the name of a safetensors file beside the index')
    if len(shards) > MAX_SHARDS:
        raise refuse(f"{len(shards):,} shards, at most {MAX_SHARDS:,} are read")
    return weight_map


def stem_of(names: Iterable[str]) -> str:
    """How names of weight files begin. A folder may hold a model twice, then it is read as transformers saves it."""
    weights = [name for name in names if SHARD_NAME.fullmatch(name)]
    own = PARAMS in names and any(name.startswith(CONSOLIDATED) for name in weights)
    return CONSOLIDATED if own and not any(name.startswith(MODEL) for name in weights) else MODEL


def index_of(stem: str) -> str:
    """The name of the index over weight files whose names begin with `stem`."""
    return f"{stem}.safetensors.index.json"


def weight_files(root: Path, names: Iterable[str], index: Mapping[str, str] | None, stem: str = MODEL) -> list[str]:
    """The safetensors files of the model, in the order of their names, which begin with `stem`."""
    files = set(names)
    single = f"{stem}.safetensors"
    if index is not None:
        shards = sorted(set(index.values()))
        _require_files(root, shards, files)
        if single in files and single not in shards:
            what = f"{shown(root)} has {single} and an index that names other files: which is the model?"
            raise InputError(what, path=str(root / single), hint="remove the one that is out of date")
        return shards
    if single in files:
        return [single]
    parts = sorted(name for name in files if name.startswith(stem) and SHARD_NAME.fullmatch(name))
    if not parts:
        raise _no_weights(root, files)
    for match in filter(None, map(PART_NAME.fullmatch, parts)):
        count = int(match["count"])
        if count > MAX_SHARDS:
            hint = "fetch the checkpoint again"
            raise InputError(f"{match[0]} is one of {count:,} shards", path=str(root / match[0]), hint=hint)
        _require_files(
            root, [f"{match['stem']}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)], files
        )
    return parts


def _require_files(root: Path, wanted: Sequence[str], files: set[str]) -> None:
    missing = [name for name in wanted if name not in files]
    if missing:
        what = (
            f"{shown(root)}: {len(missing)} of {counted(len(wanted), 'shard', 'is', 'are')} missing: {listed(missing)}"
        )
        raise InputError(what, path=str(root / missing[0]), hint="fetch the missing files into the folder")


def _no_weights(root: Path, files: set[str]) -> QuantkitError:
    """Why a folder without model*.safetensors is not a checkpoint, and what to do instead."""
    pickles = sorted(name for name in files if name.endswith(PICKLES) and name not in NOT_WEIGHTS)
    ggufs = sorted(name for name in files if name.endswith(".gguf"))
    where = shown(root)
    if files & {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"}:
        what = f"{where} holds a LoRA adapter{_base_of(root)}, not a model"
        hint = f"merge it into its base model (convert BASE --adapter {shown(root)}), or write it alone (--to lora-f16)"
        return InputError(what, path=str(root), hint=hint)
    if any(name.startswith("consolidated") and name.endswith(".safetensors") for name in files):
        what = f"{where} has its weights in Mistral's own layout (consolidated.safetensors) and no {PARAMS}"
        hint = f"fetch {PARAMS} into the folder, or use the same model in the layout of transformers"
        return UnsupportedError(what, path=str(root), hint=hint)
    if ggufs:
        first = next((name for name in ggufs if not SPLIT_GGUF.search(name)), ggufs[0])
        more = f" (or another of its {len(ggufs)})" if len(ggufs) > 1 else ""
        hint = f"give the file: {shown(root / first)}{more}"
        return InputError(f"{where} holds GGUF files", path=str(root), hint=hint)
    if pickles:
        what = f"{where} has its weights only as pickles ({listed(pickles)}), which can run code and are never loaded"
        return InputError(
            what, path=str(root), hint="get the safetensors version of the model, or convert it elsewhere"
        )
    what = f"{where} has no {MODEL}.safetensors and no {INDEX}"
    return InputError(what, path=str(root), hint="give a folder as transformers saves it")


def _base_of(root: Path) -> str:
    """Of which model an adapter is, in words, as far as its configuration says so."""
    path = root / "adapter_config.json"
    try:
        name = parse_json_object(read_bounded(path, MAX_ADAPTER_BYTES), path).get("base_model_name_or_path")
    except QuantkitError:
        return ""
    return f" of {shown(name)}" if isinstance(name, str) and name else ""


def read_shards(
    shards: Mapping[str, InputFile], index: Mapping[str, str] | None, name_of_index: str = INDEX
) -> dict[str, StoredTensor]:
    """All tensors of the open shards, in the order of shards and of their data.

    Raises InputError naming tensors that occur twice, are empty, or are not where the index says, UnsupportedError for
    experts that are cut into several files.
    """
    stored: dict[str, StoredTensor] = {}
    shard_of: dict[str, str] = {}
    for shard, file in shards.items():
        for name, entry in parse_safetensors(file).tensors.items():
            if name in stored:
                raise _twice(name, shard_of[name], shard, str(file.path))
            info = TensorInfo(name, entry.dtype, entry.shape, entry.stop - entry.start)
            require_weights(info, shard)
            stored[name], shard_of[name] = StoredTensor(info, file, entry.start), shard
    if not stored:
        what = f"{listed(list(shards))} holds no tensors"
        raise InputError(what, path=str(next(iter(shards.values())).path), hint="fetch the checkpoint again")
    if index is not None:
        _require_agreement(index, shard_of, name_of_index)
    return stored


def _twice(name: str, first: str, second: str, path: str) -> QuantkitError:
    """The error for a tensor that two shards hold. Grok 2 was published with each expert in a part for every device;
    no reference says how the others of its tensors lie in such files (llama.cpp's converter keeps the last part)."""
    what = f'tensor "{name}" is in {shown(first)} and in {shown(second)}'
    if expert_of(name) is None:
        return InputError(what, path=path, tensor=name, hint="one of the files does not belong here")
    hint = "give a checkpoint with whole experts; or is it there twice, and one of the files does not belong here?"
    return UnsupportedError(f"{what}: experts that are cut for several devices are not read", tensor=name, hint=hint)


def _require_agreement(index: Mapping[str, str], shard_of: Mapping[str, str], name_of_index: str) -> None:
    """Every tensor of the index is in the shard it names, and no shard holds another."""
    missing = sorted(name for name in index if name not in shard_of)
    extra = sorted(name for name in shard_of if name not in index)
    moved = sorted(name for name in index if name in shard_of and shard_of[name] != index[name])
    for names, why in (
        (missing, "names tensors that no shard holds"),
        (extra, "lacks tensors that its shards hold"),
        (moved, "names the wrong shard for tensors"),
    ):
        if names:
            what = f"{name_of_index} {why}: {listed(names)}"
            raise InputError(what, path=name_of_index, tensor=names[0], hint="index and shards are of different models")
