"""Checkpoints for the tests of families: folders as the safetensors library reads them, and what a description says.

The description is evaluated here by its documentation (parts, addition, order of rows), not by quantkit's pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from quantkit.families.describe import describe, find_family, require_fitting
from quantkit.families.model import Constant, Model, ModelTensor, Rows
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo
from quantkit.tokenizer.read import read_tokenizer

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer reduced to its number of tokens."""

    vocab_size: int
    metadata: tuple[KeyValue, ...] = ()
    sha256: str | None = None
    warnings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Folder:
    """A checkpoint folder."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return parsed

    def read_file(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def arrays(self) -> dict[str, tuple[str, F32]]:
        """Tensor name -> safetensors dtype and float32 values, in the order of shards and names."""
        found = {}
        for shard in sorted(self.path.glob("*.safetensors")):
            with safe_open(shard, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    dtype = tensors.get_slice(name).get_dtype()
                    found[name] = dtype, tensors.get_tensor(name).float().numpy()
        return found

    def describe(self) -> Model:
        """Without its tokenizer, but for a reranker, whose head is made of two tokens."""
        if "rerank" in self.path.name.lower():
            return self.describe_with_tokenizer("qwen2")
        return describe_arrays(self.arrays(), self.config, self)

    def describe_with_tokenizer(self, pre: str | None) -> Model:
        named = find_family(self.config)
        tokenizer = read_tokenizer(self.read_file, self.config, named.family.tokens, pre=pre)
        return describe(infos_of(self.arrays()), self.config, self.read_file, named, tokenizer, name=self.path.name)


def infos_of(arrays: Mapping[str, tuple[str, F32]]) -> dict[str, TensorInfo]:
    found = {name: TensorInfo(name, dtype, array.shape, array.nbytes) for name, (dtype, array) in arrays.items()}
    values = {name: tuple(array.reshape(-1).tolist()) for name, (_, array) in arrays.items() if array.size == 1}
    return {name: replace(info, values=values.get(name)) for name, info in found.items()}


def describe_arrays(arrays: Mapping[str, tuple[str, F32]], config: Mapping[str, Any], folder: Folder) -> Model:
    return describe_infos(infos_of(arrays), config, folder=folder)


def describe_infos(
    infos: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    *,
    folder: Folder | None = None,
    files: Mapping[str, bytes] | None = None,
    tokens: int = 10**9,
) -> Model:
    """Describe tensors with the side files of a folder, or with those in `files`."""
    read_file = folder.read_file if folder else (files or {}).get
    named = find_family(config)
    require_fitting(config, infos)
    return describe(infos, config, read_file, named, Tokens(tokens), name=folder.path.name if folder else "model")


@dataclass(frozen=True)
class InMemory:
    """Rows of an array."""

    values: F32

    def read(self, start: int, stop: int) -> F32:
        return self.values.reshape(-1, self.values.shape[-1] if self.values.ndim > 1 else 1)[start:stop]


def evaluate(tensor: ModelTensor, arrays: Mapping[str, tuple[str, F32]]) -> F32:
    """The values that a description promises, in the target's shape."""
    rows = []
    for part in tensor.parts:
        if isinstance(part, Constant):
            rows.append(part.values())
        elif not isinstance(part, Rows):
            rows.append(part.read(lambda name: InMemory(arrays[name][1]), 0, part.rows))
        else:
            source = arrays[part.tensor][1]
            rows.append(source.reshape(-1, source.shape[-1] if source.ndim > 1 else 1)[part.start : part.stop])
    values = np.concatenate(rows) + np.float32(tensor.add)
    if tensor.row_order is not None:
        order = list(tensor.row_order.order)
        values = values.reshape(-1, len(order), values.shape[-1])[:, order]
    return values.reshape(tensor.shape)
