"""Checkpoints as checks see them: tensors by the safetensors package, codes by `unpacking`, layouts by config.json.

The package shares no code with quantkit's reader. It gives names, types, shapes and the order of the bytes, and has
checked that they fill the file; so the bytes are read where they must lie, without torch. What packs and unpacks layers
for everybody else is not asked, unless a format is known to nobody but its container.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from math import inf, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.base import StoredPart
from quantkit.formats.containers.declared import SIDE_CONFIGS, declared, undeclared
from quantkit.formats.containers.packed import Entry, PackedTensor, Tensors
from quantkit.formats.containers.stored import Stored, stored_modules
from quantkit.metadata import KeyValue
from quantkit.quality.made import Held, Place, Span
from quantkit.quality.tensor_errors import floor_of_bits
from quantkit.quality.unpacking import knows, unpack
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.base import StoredTensor
from quantkit.source.quantized import read_part
from quantkit.tensors import F32, FLOAT_DTYPES, U8, TensorInfo
from quantkit.untrusted import InputFile, encodable, open_input, parse_json_object, shown

CONFIG, WEIGHT = "config.json", ".weight"
TOGETHER = 1 << 22  # layers that are packed along their outputs are read whole for any of their rows
NOT_QUANTIZED = Stored({}, frozenset())


@record
class PackageTensors(Mapping[str, PackedTensor]):
    """The tensors of safetensors files by name, read when asked for. `files` gives the number of each one's file."""

    stored: Mapping[str, StoredTensor]
    files: Mapping[str, int]

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {name: tensor.info for name, tensor in self.stored.items()}

    def __getitem__(self, name: str) -> PackedTensor:
        found = self.stored[name]
        raw = found.source.read(found.offset, found.offset + found.info.nbytes)
        return PackedTensor(Entry(name, found.info.dtype, found.info.shape), raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


@contextmanager
def open_with_package(paths: Sequence[Path]) -> Iterator[PackageTensors]:
    """The tensors of safetensors files, while the context is open. Raises InputError for one that it refuses."""
    from safetensors import SafetensorError, safe_open

    stored: dict[str, StoredTensor] = {}
    files: dict[str, int] = {}
    with ExitStack() as stack:
        for number, path in enumerate(paths):
            file = open_input(path)
            stack.callback(file.close)
            try:
                with safe_open(_named(path, file), framework="np") as opened:
                    for tensor in _tensors(file, opened):
                        stored[tensor.info.name], files[tensor.info.name] = tensor, number
            except SafetensorError as error:
                what = f"{shown(path.name)}: the safetensors package refuses it: {error}"
                raise InputError(what, path=str(path), hint="the file is damaged: make it again") from error
        yield PackageTensors(stored, files)


def _named(path: Path, file: InputFile) -> str:
    """A name by which the package opens the file: it takes UTF-8 alone, the system any bytes."""
    return str(path) if encodable(str(path)) else f"/dev/fd/{file.descriptor}"


def _tensors(file: InputFile, opened: Any) -> Iterator[StoredTensor]:
    start = 8 + int.from_bytes(file.read(0, 8).tobytes(), "little")
    for name in opened.offset_keys():
        part = opened.get_slice(name)
        dtype, shape = part.get_dtype(), tuple(part.get_shape())
        nbytes = prod(shape) * _bits(dtype) // 8
        yield StoredTensor(TensorInfo(name, dtype, shape, nbytes), file, start)
        start += nbytes


def _bits(dtype: str) -> int:
    """The bits of an element: the first number in its type's name, such as F8_E4M3."""
    found = re.search(r"[0-9]+", dtype)
    return int(found[0]) if found else 8  # BOOL


@record
class CheckpointMade:
    """A checkpoint. See `quantkit.quality.made.Made`.

    `names` are those of its files beside weights, `read` reads one. `served` is what quantkit's own reader makes of
    the folder: its weights count under names that the files have not, as in the layout of Mistral.
    """

    paths: tuple[Path, ...]
    tensors: PackageTensors
    names: tuple[str, ...]
    read: Callable[[str], bytes | None]
    metadata: tuple[KeyValue, ...] = ()
    carries: Literal["keys", "files"] = "files"
    served: Checkpoint | None = None

    def ends(self) -> str | None:
        return None  # the package refuses files with anything after their last tensor

    def places(self) -> Sequence[Place]:
        return [
            Place(name, t.info.dtype, t.info.shape, self.tensors.files[name], t.offset, t.info.nbytes)
            for name, t in self.tensors.stored.items()
        ]

    @cached_property
    def _layers(self) -> Stored:
        """The layers that are stored quantized, by what config.json says of them."""
        raw = {name: self.read(name) for name in (CONFIG, *SIDE_CONFIGS)}
        found = {name: parse_json_object(data, Path(name)) for name, data in raw.items() if data is not None}
        sides = {name: config for name, config in found.items() if name != CONFIG}
        said = declared(found.get(CONFIG, {}), sides) or undeclared(self.tensors)
        return NOT_QUANTIZED if said is None else stored_modules(said, self.tensors.infos, self.tensors.__getitem__)

    @cached_property
    def _renamed(self) -> Mapping[str, TensorInfo]:
        """Plain weights that the files have under other names."""
        infos = {} if self.served is None else self.served.tensors()
        return {name: info for name, info in infos.items() if info.stored_as is None and name not in self.tensors}

    def held(self) -> Mapping[str, Held]:
        found: dict[str, Held] = {}
        for name, module in self._layers.modules.items():
            of, outline = module.layout.traits, module.outline
            dtypes = {part.name.removeprefix(f"{name}."): part.dtype for part in outline.parts}
            shape = (outline.rows, outline.cols)
            if outline.turned is not None:
                found[module.weight] = Held(
                    of.word, outline.turned, 0, undecoded=f"nobody else decodes {of.word} stacks"
                )
                continue
            found[f"{name}{WEIGHT}"] = Held(
                of.word, shape, floor_of_bits(of.bits), own=not knows(dtypes, of), together=TOGETHER
            )
        plain = {n: t.info for n, t in self.tensors.stored.items() if n not in self._layers.hidden}
        for name, info in {**plain, **self._renamed}.items():
            why = None if info.dtype in FLOAT_DTYPES else f"{info.dtype} is no type of weights"
            found.setdefault(name, Held(info.dtype.lower(), info.shape, inf, info.dtype, why))
        return found

    def rows(self, name: str, start: int, stop: int) -> F32:
        if name in self._renamed and self.served is not None:
            return self.served.ref(name).read(start, stop)
        module = self._layers.modules.get(name.removesuffix(WEIGHT))
        if module is None or not name.endswith(WEIGHT):
            return self.tensors.stored[name].read(start, stop)

        def cut(part: StoredPart, first: int, last: int) -> U8:
            return read_part(self.tensors.stored[part.name], part, first, last)

        def values(tensors: Tensors) -> F32:
            found = unpack(module.name, tensors, module.layout.traits)
            return module.values(tensors) if found is None else found

        return module.assembled(start, stop, cut, values)

    def picked(self, name: str, spans: Sequence[Span]) -> F32:
        return np.concatenate([self.rows(name, start, stop) for start, stop in spans])

    def carried(self) -> Mapping[str, object]:
        return {name: self.read(name) for name in self.names}


@contextmanager
def open_checkpoint(
    paths: Sequence[Path],
    names: Sequence[str],
    read: Callable[[str], bytes | None],
    served: Checkpoint | None = None,
) -> Iterator[CheckpointMade]:
    """A checkpoint whose files with weights are at `paths`, open while the context is. Raises InputError."""
    with open_with_package(paths) as tensors:
        yield CheckpointMade(tuple(paths), tensors, tuple(names), read, served=served)
