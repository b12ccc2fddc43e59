"""Tables inside a block, of which text reads few rows: those are read when it asks for them, and none is kept.

Qwen 3.8 has one, for n-grams, that is nearly half of the model; files have it in shards of as many rows each.
"""

from __future__ import annotations

from itertools import count, takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantkit.calibration.walk.weights import held_by, locate, named, read_some
from quantkit.errors import InputError
from quantkit.source import Checkpoint
from quantkit.tensors import F32, TensorInfo


class Lookup(nn.Module):
    """Stands for an embedding whose rows lie in `shards`, all of the same shape."""

    def __init__(self, checkpoint: Checkpoint, shards: tuple[TensorInfo, ...], device: torch.device) -> None:
        super().__init__()
        self.checkpoint, self.shards = checkpoint, shards
        self.weight = torch.empty(0, device=device)  # blocks ask where it is

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of ids of any shape, float32 (.., cols)."""
        wanted, places = np.unique(ids.cpu().numpy(), return_inverse=True)
        return torch.from_numpy(self._read(wanted)[places].reshape(*ids.shape, -1)).to(ids.device)

    def _read(self, wanted: NDArray[np.int64]) -> F32:
        """Rows in ascending order."""
        height = self.shards[0].rows
        found = [
            read_some(self.checkpoint.ref(self.shards[shard].name), wanted[wanted // height == shard] - shard * height)
            for shard in np.unique(wanted // height)
        ]
        return np.concatenate(found)


def look_up(block: nn.Module, prefix: str, checkpoint: Checkpoint, device: torch.device) -> None:
    """Put a lookup in the place of every table inside `block` (on the meta device), which is called `prefix`.

    Raises InputError for a table that the checkpoint lacks, or has in another size.
    """
    for path, module in list(block.named_modules()):
        if isinstance(module, nn.Embedding):
            parent, _, name = path.rpartition(".")
            shards = _shards(f"{prefix}{path}", module, checkpoint)
            setattr(block.get_submodule(parent), name, Lookup(checkpoint, shards, device))


def _shards(name: str, table: nn.Embedding, checkpoint: Checkpoint) -> tuple[TensorInfo, ...]:
    held = held_by(checkpoint)
    numbered = (named(f"{name}.shard_{number}.weight", held) for number in count())
    shards = tuple(info for info in takewhile(lambda info: info is not None, numbered) if info is not None)
    if not shards:
        return (held.tensors[locate(f"{name}.weight", table.weight.shape, held).tensor],)
    rows = sum(info.rows for info in shards)
    if {info.shape for info in shards} != {shards[0].shape} or (rows, shards[0].cols) != tuple(table.weight.shape):
        message = f"{name} has {rows:,} rows of {shards[0].cols}, config.json says {list(table.weight.shape)}"
        raise InputError(message, tensor=shards[0].name, hint="config.json and the weights are not of the same model")
    return shards
