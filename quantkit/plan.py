"""recipe x checkpoint x family -> Plan: every type, byte and offset, known before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantkit.families.model import Model, ModelTensor
from quantkit.metadata import KeyValue


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the artifact. `offset` is absolute in its file, `nbytes` excludes padding.

    `reason` says which rule gave the type; `fallback_from` is the type that the rule asked for when rows did not
    divide by its block. `copy` is True where the source already has this type: its bytes are taken as they are.
    `source_bytes` is what the tensor occupies in the checkpoint.
    """

    tensor: ModelTensor
    qtype: str
    nbytes: int
    offset: int
    file: int
    reason: str
    fallback_from: str | None = None
    copy: bool = False
    source_bytes: int = 0

    @property
    def name(self) -> str:
        return self.tensor.name


@dataclass(frozen=True)
class PlannedFile:
    """One file of the artifact: its name, encoded header (all metadata and tensor infos, padded) and exact size."""

    name: str
    header: bytes
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """What will happen, to the byte.

    `digest` is the SHA-256 over everything that decides the output bytes: recipe, types, layouts, offsets, header
    bytes, importance data and the numerics version. Equal digests and equal source hashes mean equal artifacts.
    `importance` maps target names to float32 (experts, cols) weights, as read from an imatrix.
    """

    recipe: str
    container: str
    model: Model
    metadata: tuple[KeyValue, ...]
    tensors: tuple[PlannedTensor, ...]
    files: tuple[PlannedFile, ...]
    source_bytes: int
    digest: str
    importance: Mapping[str, object]
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes for f in self.files)
