"""What the bytes of a model are spent on: its tensors grouped by kind, block and type, by their names alone.

    "model.layers.3.mlp.experts.7.up_proj.weight" -> kind "mlp.experts.*.up_proj", block 3
    "blk.3.attn_q.weight"                         -> kind "attn_q", block 3
    "token_embd.weight"                           -> kind "token_embd", no block

Names are whatever a file says: nothing here knows a family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantkit.tensors import TensorInfo

BLOCKS = frozenset({"layers", "layer", "blk", "block", "blocks", "h"})
MAX_BLOCK = 9999  # a larger number is no number of a block
MAX_KINDS = 256  # of a file that was made to have many; further ones are "other"
NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
OTHER = "other"


@dataclass
class Stored:
    """All tensors of one kind and type; `blocks` are the numbers of the blocks that they are in, in order."""

    kind: str
    type: str
    blocks: list[int] = field(default_factory=list)
    tensors: int = 0
    weights: int = 0
    nbytes: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "type": self.type,
            "blocks": self.blocks,
            "tensors": self.tensors,
            "weights": self.weights,
            "bytes": self.nbytes,
        }


def kind_of(name: str) -> tuple[str, int | None]:
    """The kind of a tensor and the number of its block, None outside blocks."""
    parts = name.removesuffix(".weight").split(".")
    block = next((at for at in range(1, len(parts)) if parts[at - 1] in BLOCKS and NUMBER.fullmatch(parts[at])), None)
    rest = parts if block is None else parts[block + 1 :]
    kind = ".".join("*" if NUMBER.fullmatch(part) else part for part in rest)
    return kind or OTHER, None if block is None else int(parts[block])


def stored_kinds(tensors: Iterable[TensorInfo]) -> tuple[Stored, ...]:
    """Tensors by kind and type, the kinds in the order of their first tensors."""
    found: dict[tuple[str, str], Stored] = {}
    kinds: dict[str, None] = {}
    for tensor in tensors:
        kind, block = kind_of(tensor.name)
        if kind not in kinds and len(kinds) >= MAX_KINDS:
            kind = OTHER
        kinds[kind] = None
        word = tensor.stored_as or tensor.dtype
        entry = found.setdefault((kind, word), Stored(kind, word))
        entry.tensors += 1
        entry.weights += tensor.elements
        entry.nbytes += tensor.nbytes
        if block is not None:
            entry.blocks.append(block)
    for entry in found.values():
        entry.blocks = sorted(set(entry.blocks))
    order = {kind: at for at, kind in enumerate(kinds)}
    return tuple(sorted(found.values(), key=lambda entry: (order[entry.kind], entry.type)))


def by_type(storage: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, int, int]]:
    """(type, tensors, weights, bytes) of what `Stored.as_json` says, the largest first."""
    return _summed(storage, "type")


def by_kind(storage: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, int, int]]:
    """(kind, tensors, weights, bytes), the largest first."""
    return _summed(storage, "kind")


def _summed(storage: Iterable[Mapping[str, Any]], key: str) -> list[tuple[str, int, int, int]]:
    sums: dict[str, list[int]] = {}
    for entry in storage:
        sums.setdefault(entry[key], [0, 0, 0])
        sums[entry[key]] = [
            a + b for a, b in zip(sums[entry[key]], (entry["tensors"], entry["weights"], entry["bytes"]), strict=True)
        ]
    rows = [(name, tensors, weights, nbytes) for name, (tensors, weights, nbytes) in sums.items()]
    return sorted(rows, key=lambda row: (-row[3], row[0]))
