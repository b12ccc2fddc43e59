"""A GGUF file, whole or split, as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quantkit.errors import InputError, QuantkitError
from quantkit.formats.gguf.file import require_whole_split, shard_paths
from quantkit.formats.gguf.reader import parse_gguf
from quantkit.formats.gguf.types import GGUFTensor
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.source.base import (
    SourceFile,
    StoredTensor,
    close_shards,
    no_side_file,
    no_side_files,
    require_decodable,
    require_unchanged,
    require_weights,
)
from quantkit.tensors import TensorInfo
from quantkit.untrusted import InputFile, open_input, shown

# ggml types that hold plain numbers; they go by the safetensors name of the same thing.
PLAIN_TYPES = frozenset({"f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64"})
NOTHING: Mapping[Path, InputFile] = MappingProxyType({})


@record
class GGUFCheckpoint:
    """A GGUF model with all shards open. See `quantkit.source.Checkpoint`."""

    name: str
    metadata: tuple[KeyValue, ...]
    stored: Mapping[str, StoredTensor]
    shards: tuple[InputFile, ...]
    kind: str = "gguf"
    repo: str | None = None
    commit: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._infos

    @cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType({name: tensor.info for name, tensor in self.stored.items()})

    def ref(self, name: str) -> StoredTensor:
        tensor = self.stored[name]
        require_decodable(tensor.info, None)
        return tensor

    def files(self) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(f.path.name, str(f.path), f.nbytes, weights=True, opened=f) for f in self.shards)

    # A GGUF file has no side files: `metadata` holds all.
    file_names = carried = no_side_files
    read_file = no_side_file
    unchanged = require_unchanged
    close = close_shards


def open_gguf(path: Path, distant: Mapping[Path, InputFile] = NOTHING) -> GGUFCheckpoint:
    """Open a GGUF model by its file, or by any shard of a split one. Reads headers only.

    `distant` are files that lie elsewhere, open, by where they would lie.
    Raises InputError for a damaged or hostile file and for shards that do not belong together.
    """
    shards: list[InputFile] = []
    try:
        shards.extend(distant.get(shard) or open_input(shard) for shard in shard_paths(path, distant))
        files = [parse_gguf(shard) for shard in shards]
        require_whole_split(files)
        stored = {t.name: _stored(t, s) for f, s in zip(files, shards, strict=True) for t in f.tensors}
        if not stored:
            what = f"{shown(path)} holds no tensors (a vocabulary, or half of a split model)"
            raise InputError(what, path=str(path), hint="give a file with weights")
    except QuantkitError:
        for shard in shards:
            shard.close()
        raise
    metadata = tuple(entry for entry in files[0].metadata if not entry.key.startswith("split."))
    return GGUFCheckpoint(path.stem, metadata, stored, tuple(shards))


def _stored(tensor: GGUFTensor, shard: InputFile) -> StoredTensor:
    dtype = tensor.qtype.upper() if tensor.qtype in PLAIN_TYPES else tensor.qtype
    info = TensorInfo(tensor.name, dtype, tensor.shape, tensor.nbytes)
    require_weights(info, shard.path.name)
    return StoredTensor(info, shard, tensor.offset)
