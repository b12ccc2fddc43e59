"""A checkpoint whose weights are those of a GGUF file made from it, decoded and put back where they came from.

The way of a tensor into the file, backwards: rows in the source's order, without what was added, under the source's
names. Its configuration is the source's: what runs on it is what the file should compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quantkit.errors import QuantkitError, VerificationError
from quantkit.families.factors import factor_of, of_rows
from quantkit.families.model import Model
from quantkit.families.towers import text_family
from quantkit.formats.gguf.reader import read_gguf
from quantkit.formats.gguf.types import GGUFTensor
from quantkit.metadata import KeyValue
from quantkit.qtypes import base
from quantkit.quality.made_gguf import is_fed_back, is_norm, is_refitted
from quantkit.quality.tensor_errors import decode_gguf, undecodable
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.backwards import Piece, RestoredTensor, is_undone, pieces_of
from quantkit.source.base import SourceFile, close_shards, no_side_file, no_side_files, require_unchanged
from quantkit.source.evened import nearer
from quantkit.tensors import F32, U8, WHOLE_DTYPES, TensorInfo, TensorRef
from quantkit.untrusted import InputFile, open_input

AGAIN = "convert again, and report it if it fails again"


class Bytes(Protocol):
    """A file, or what stands in its place."""

    def read(self, start: int, stop: int) -> U8:
        """Bytes [start, stop)."""
        ...


@record
class Decoded:
    """A tensor of the file, whose rows are `cols` wide, as the graph sees it: multiplied by the `factors` of its
    matrices, if it has some."""

    info: TensorInfo
    file: Bytes
    tensor: GGUFTensor
    factors: F32 | None

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32, shape (stop - start, cols). Raises InputError for a file that got shorter."""
        values = self._plain(start, stop)
        return (
            values if self.factors is None else values * of_rows(self.factors, self.info.rows, np.arange(start, stop))
        )

    def read_packed(self, start: int, stop: int) -> U8:
        """Rows as float32 bytes."""
        return self.read(start, stop).view(np.uint8)

    def _plain(self, start: int, stop: int) -> F32:
        tensor, cols = self.tensor, self.info.cols
        row_bytes = base.get(tensor.qtype).row_bytes(cols)
        first = tensor.offset + start * row_bytes
        raw = self.file.read(first, first + (stop - start) * row_bytes).reshape(-1, row_bytes)
        if undecodable(frozenset({tensor.qtype})) is None:
            return decode_gguf(raw, tensor.type_id).reshape(stop - start, cols)
        return base.get(tensor.qtype).decode(raw, cols).reshape(stop - start, cols)  # for want of another reader


def _as_decoded(info: TensorInfo) -> TensorInfo:
    """A source tensor as it comes back: weights as float32, tables of whole numbers as they were."""
    if info.dtype in WHOLE_DTYPES:
        return info
    return replace(info, dtype="F32", nbytes=4 * info.elements, stored_as=None)


@record
class DecodedCheckpoint:
    """See `quantkit.source.Checkpoint`; tensors that are not in the file, which are left out on purpose, are gone.
    Those whose numbers the file has among its keys are the source's.

    `refitted` says that norms may differ from the source's, `fed_back` that feedback chose the weights.
    """

    source: Checkpoint
    model: Model
    shards: tuple[InputFile, ...]
    stored: Mapping[str, tuple[Bytes, GGUFTensor]]
    factors: Mapping[str, F32]
    refitted: bool = False
    fed_back: bool = False
    kind: str = "memory"

    @property
    def name(self) -> str:
        return self.shards[0].path.name

    @property
    def repo(self) -> str | None:
        return None

    @property
    def commit(self) -> str | None:
        return None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.source.config

    @property
    def metadata(self) -> tuple[KeyValue, ...]:
        return ()

    @cached_property
    def _pieces(self) -> Mapping[str, tuple[Piece, ...]]:
        return pieces_of(target for target in self.model.tensors if all(map(is_undone, target.parts)))

    @cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        infos = self.source.tensors()
        return {name: _as_decoded(infos[name]) for name in self._pieces}

    @cached_property
    def _told(self) -> Mapping[str, TensorInfo]:
        family = text_family(self.config)[0].family
        return {name: info for name, info in self.source.tensors().items() if family.is_told(info)}

    def tensors(self) -> Mapping[str, TensorInfo]:
        return {**self._told, **self._infos}

    def holds(self, name: str) -> bool:
        """Whether the file has a source tensor as such."""
        return name in self._pieces

    def stored_type(self, name: str) -> str:
        """The type in which the file holds (the first rows of) a source tensor; that of a key is f32."""
        return self.stored[self._pieces[name][0].target.name][1].qtype if self.holds(name) else "f32"

    def moves(self, name: str) -> bool:
        """Whether the file says that a source tensor may differ from what it was made from: a norm."""
        return self.refitted and self.holds(name) and is_norm(self.stored[self._pieces[name][0].target.name][1])

    def added(self, name: str) -> float:
        """What the file adds to the values of a source tensor."""
        return self._pieces[name][0].target.add if self.holds(name) else 0.0

    def as_made(self, threads: int | None = None) -> Checkpoint:
        """The source as the file was made of it: with columns evened where it holds these, which `threads` look for."""
        return nearer(self.source, self, self.model, threads) if self.fed_back else self.source

    def ref(self, name: str) -> TensorRef:
        return self.restored(name) if self.holds(name) else self.source.ref(name)

    def restored(self, name: str) -> RestoredTensor:
        """A source tensor that the file holds, made of it."""
        return self._refs[name]

    @cached_property
    def _refs(self) -> Mapping[str, RestoredTensor]:
        targets = {target.name: target for target in self.model.tensors}

        def open_target(name: str) -> Decoded:
            target, (file, tensor) = targets[name], self.stored[name]
            shape = (target.rows, target.cols)
            info = TensorInfo(name, "F32", shape, 4 * target.rows * target.cols)
            return Decoded(info, file, tensor, self.factors.get(name))

        return {name: RestoredTensor(info, self._pieces[name], open_target) for name, info in self._infos.items()}

    def files(self) -> tuple[SourceFile, ...]:
        return ()

    # Only its weights are looked at.
    file_names = carried = no_side_files
    read_file = no_side_file
    unchanged = require_unchanged
    close = close_shards


def open_decoded(paths: Sequence[Path], source: Checkpoint, model: Model) -> DecodedCheckpoint:
    """The weights of the shards at `paths` in the places of the source that `model` describes.

    Raises InputError for a file that does not parse, VerificationError for one that lacks a tensor or holds it in
    another shape.
    """
    shards: list[InputFile] = []
    try:
        for path in paths:
            shards.append(open_input(path))
        files = [read_gguf(shard.path) for shard in shards]
        stored = {t.name: (shard, t) for shard, file in zip(shards, files, strict=True) for t in file.tensors}
        _check_tensors(stored, model)
        factors = factors_in(stored, model)
    except BaseException:
        for shard in shards:
            shard.close()
        raise
    said = files[0].metadata
    return DecodedCheckpoint(source, model, tuple(shards), stored, factors, is_refitted(said), is_fed_back(said))


def source_as_made(paths: Sequence[Path], source: Checkpoint, model: Model, threads: int | None = None) -> Checkpoint:
    """The source as files were made of it, which may lack tensors, as is for others to say: then the source as it is.
    See `DecodedCheckpoint.as_made`."""
    try:
        with closing(open_decoded(paths, source, model)) as made:
            return made.as_made(threads)
    except QuantkitError:
        return source


def factors_in(stored: Mapping[str, tuple[Bytes, GGUFTensor]], model: Model) -> dict[str, F32]:
    """The factors of the model's matrices that have some in the file, and none in the source. Reads them."""
    names = {target.name for target in model.tensors}
    found = {}
    for name in names:
        other = factor_of(name)
        if other is None or other in names or other not in stored:
            continue
        file, tensor = stored[other]
        if tensor.qtype != "f32" or len(tensor.shape) != 1:
            what = f"{other} is {tensor.qtype} {list(tensor.shape)}, expected factors in f32"
            raise VerificationError(what, tensor=other, hint=AGAIN)
        found[name] = file.read(tensor.offset, tensor.offset + tensor.nbytes).view("<f4").astype(np.float32)
    return found


def _check_tensors(stored: Mapping[str, tuple[Bytes, GGUFTensor]], model: Model) -> None:
    for target in model.tensors:
        found = stored.get(target.name)
        if found is None or found[1].shape != target.shape:
            what = f"is {list(found[1].shape)}" if found else "is missing"
            message = f"{target.name} {what}, expected {list(target.shape)}"
            raise VerificationError(message, tensor=target.name, hint=AGAIN)
