"""What every plan is made of: files, options, layers and tensors."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.families.linears import LinearModule
from quantkit.formats.containers.base import Layout
from quantkit.formats.containers.packed import Entry


@dataclass(frozen=True)
class PlannedFile:
    """One file of the artifact: its name, encoded header (all metadata and tensor infos, padded) and exact size."""

    name: str
    header: bytes
    nbytes: int


@dataclass(frozen=True)
class PlanOptions:
    """What a run wants besides the recipe.

    `stem` names the files without ".gguf"; by default the checkpoint's name and the recipe's title. `split_bytes`
    bounds the bytes of one file. `allow_requantize` permits decoding and rounding weights that are quantized
    already.
    """

    stem: str | None = None
    split_bytes: int | None = None
    allow_requantize: bool = False


STANDARD = PlanOptions()


@dataclass(frozen=True)
class PlannedModule:
    """A linear layer that is rounded: where its rows come from, how it is stored, the tensors it becomes.

    `wanted` is how the recipe would have it stored, where its groups do not divide the rows, else None.
    """

    module: LinearModule
    layout: Layout
    entries: tuple[Entry, ...]
    wanted: Layout | None = None

    @property
    def name(self) -> str:
        return self.module.name


@dataclass(frozen=True)
class ServerTensor:
    """A tensor of the artifact; `offset` is absolute in file number `file`.

    It belongs to a rounded `module`, or is a copy of a tensor of the source with the same name, or, with neither,
    holds a scale of the key/value cache. `block` is the number of the layer it lies in, None outside.
    """

    entry: Entry
    file: int
    offset: int
    block: int | None
    module: str | None = None
    copied: bool = True

    @property
    def name(self) -> str:
        return self.entry.name
