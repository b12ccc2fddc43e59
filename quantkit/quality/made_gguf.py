"""GGUF files as checks see them: weights decoded by the gguf package, which shares no code with quantkit.

Where a tensor lies says quantkit's own bounded parser: the package's reader takes ten seconds for a vocabulary of
150,000 tokens, and is not made for hostile files. The two are held against each other in tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from math import log10
from pathlib import Path
from typing import Literal

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.families.roles import Role, role_of
from quantkit.formats.gguf.reader import read_gguf
from quantkit.formats.gguf.types import GGUFFile, GGUFTensor, ggml_type
from quantkit.metadata import KeyValue
from quantkit.methods.settings import REFIT_REACH
from quantkit.plan.feedback import METHOD_KEY, REFIT_KEY
from quantkit.qtypes import base
from quantkit.quality.made import Held, Place, Span
from quantkit.quality.tensor_errors import decode_gguf, floor_of_bits, undecodable
from quantkit.records import record
from quantkit.tensors import F32
from quantkit.untrusted import InputFile, open_input

REFIT_FLOOR_DB = -20 * log10(REFIT_REACH) - 0.01  # of a norm all of whose channels went so far, rounded to float32


@record
class GGUFMade:
    """The files of a GGUF artifact. See `quantkit.quality.made.Made`."""

    files: tuple[GGUFFile, ...]
    opened: tuple[InputFile, ...] = ()
    carries: Literal["keys", "files"] = "keys"
    served: None = None

    @property
    def paths(self) -> Sequence[Path]:
        return tuple(file.path for file in self.files)

    @property
    def metadata(self) -> tuple[KeyValue, ...]:
        return tuple(self.files[0].metadata)

    def ends(self) -> str | None:
        for file in self.files:
            end = max((_padded(t.offset + t.nbytes, file.alignment) for t in file.tensors), default=file.data_start)
            if file.nbytes != end:
                return f"{file.path.name} has {file.nbytes - end:+,} bytes after its last tensor"
        return None

    def places(self) -> Sequence[Place]:
        return [
            Place(t.name, t.qtype, t.shape, number, t.offset, t.nbytes)
            for number, file in enumerate(self.files)
            for t in file.tensors
        ]

    @cached_property
    def _tensors(self) -> Mapping[str, tuple[int, GGUFTensor]]:
        return {t.name: (number, t) for number, file in enumerate(self.files) for t in file.tensors}

    def held(self) -> Mapping[str, Held]:
        moved = is_refitted(self.metadata)
        return {
            name: Held(t.qtype, t.shape, REFIT_FLOOR_DB if moved and is_norm(t) else _floor(t), undecoded=_undecoded(t))
            for name, (_, t) in self._tensors.items()
        }

    def rows(self, name: str, start: int, stop: int) -> F32:
        return self.picked(name, [(start, stop)])

    def picked(self, name: str, spans: Sequence[Span]) -> F32:
        number, tensor = self._tensors[name]
        cols = tensor.shape[-1] if len(tensor.shape) > 1 else 1
        kind = ggml_type(tensor.type_id)
        assert kind is not None, tensor
        row_bytes = cols * kind.nbytes // kind.block
        file, at = self.opened[number], tensor.offset
        pieces = [file.read(at + start * row_bytes, at + stop * row_bytes) for start, stop in spans]
        raw = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return decode_gguf(raw.reshape(-1, row_bytes), tensor.type_id).reshape(-1, cols)

    def carried(self) -> Mapping[str, object]:
        return tokenizer_keys(self.metadata)


def tokenizer_keys(metadata: Sequence[KeyValue]) -> dict[str, object]:
    """The entries that say how text becomes tokens."""
    return {kv.key: kv.items() for kv in metadata if kv.key.startswith("tokenizer.")}


@contextmanager
def open_gguf(paths: Sequence[Path]) -> Iterator[GGUFMade]:
    """The files of one artifact, open while the context is. Raises InputError for one that does not parse."""
    files = tuple(read_gguf(path) for path in paths)
    with ExitStack() as stack:
        opened = tuple(open_input(path) for path in paths)
        for file in opened:
            stack.callback(file.close)
        yield GGUFMade(files, opened)


def is_refitted(metadata: Sequence[KeyValue]) -> bool:
    """Whether a file says that its norms may differ from the source's."""
    return any(entry.key == REFIT_KEY for entry in metadata)


def is_fed_back(metadata: Sequence[KeyValue]) -> bool:
    """Whether a file says that its weights were chosen with what their inputs say."""
    return any(entry.key == METHOD_KEY for entry in metadata)


def is_norm(tensor: GGUFTensor) -> bool:
    """Whether it may: the weights of a norm, in float32."""
    vector = len(tensor.shape) == 1 and tensor.name.endswith(".weight")
    return vector and tensor.qtype == "f32" and role_of(tensor.name) is Role.NORM


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _floor(tensor: GGUFTensor) -> float:
    """The floor of its type, or of its bits where quantkit has no such type."""
    if base.is_known(tensor.qtype):
        return base.get(tensor.qtype).floor_db
    kind = ggml_type(tensor.type_id)
    return floor_of_bits(8 * kind.nbytes / kind.block) if kind else 0.0


def _undecoded(tensor: GGUFTensor) -> str | None:
    """What the gguf package does not know of the type, in words; None where it decodes it."""
    if base.is_known(tensor.qtype):
        return undecodable(frozenset({tensor.qtype}))
    kind = ggml_type(tensor.type_id)
    try:
        decode_gguf(np.zeros((1, kind.nbytes if kind else 1), np.uint8), tensor.type_id)
    except UnsupportedError as error:
        return error.message
    return None
