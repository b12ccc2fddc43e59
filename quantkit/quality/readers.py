"""Checkpoints as a loader sees them: tensors by the safetensors package, layouts by what config.json says.

The package shares no code with quantkit's reader. It gives names, types, shapes and the order of the bytes, and has
checked that they fill the file; so the bytes are read where they must lie, without torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.packed import FLOATS, Entry, PackedTensor, scales_of
from quantkit.formats.containers.stored import SIDE_CONFIGS, StoredModule, declared, stored_modules
from quantkit.tensors import F32, TensorInfo
from quantkit.untrusted import encodable, open_input, shown

CONFIG, WEIGHT = "config.json", ".weight"


class PackageTensors(Mapping[str, PackedTensor]):
    """The tensors of safetensors files by name, read when asked for."""

    def __init__(self, files: Sequence[tuple[Path, Any]]) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        self.infos: dict[str, TensorInfo] = {}
        for path, file in files:
            with path.open("rb") as data:
                start = 8 + int.from_bytes(data.read(8), "little")
            for name in file.offset_keys():
                part = file.get_slice(name)
                dtype, shape = part.get_dtype(), tuple(part.get_shape())
                nbytes = prod(shape) * _bits(dtype) // 8
                self._places[name] = path, start
                self.infos[name] = TensorInfo(name, dtype, shape, nbytes)
                start += nbytes

    def __getitem__(self, name: str) -> PackedTensor:
        (path, start), info = self._places[name], self.infos[name]
        return PackedTensor(Entry(name, info.dtype, info.shape), np.fromfile(path, np.uint8, info.nbytes, offset=start))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _bits(dtype: str) -> int:
    """The bits of an element: the first number in its type's name, such as F8_E4M3."""
    found = re.search(r"[0-9]+", dtype)
    return int(found[0]) if found else 8  # BOOL


@contextmanager
def open_with_package(paths: Sequence[Path]) -> Iterator[PackageTensors]:
    """The tensors of safetensors files, while the context is open. Raises InputError for one that it refuses."""
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        opened = []
        for path in paths:
            try:
                opened.append((path, stack.enter_context(safe_open(_named(path, stack), framework="np"))))
            except SafetensorError as error:
                what = f"{shown(path.name)}: the safetensors package refuses it: {error}"
                raise InputError(what, path=str(path), hint="the file is damaged: make it again") from error
        yield PackageTensors(opened)


def decoders(paths: Sequence[Path], tensors: PackageTensors) -> Mapping[str, Callable[[], F32]]:
    """What gives the weight of each layer, float32 (rows, cols): as the configuration among `paths` says of it, and of
    layers that it does not speak of as the floats that they must be.

    Raises InputError and UnsupportedError as the reading of any checkpoint does.
    """
    found = {path.name: json.loads(path.read_bytes()) for path in paths if path.name in (CONFIG, *SIDE_CONFIGS)}
    sides = {name: config for name, config in found.items() if name != CONFIG}
    said = declared(found.get(CONFIG, {}), sides)
    modules = stored_modules(said, tensors.infos, tensors.__getitem__).modules if said is not None else {}
    floats = [name for name, info in tensors.infos.items() if info.dtype in FLOATS and name.endswith(WEIGHT)]
    plain = {name.removesuffix(WEIGHT): partial(_plain, tensors, name) for name in floats}
    return plain | {name: partial(_unpacked, module, tensors) for name, module in modules.items()}


def _plain(tensors: PackageTensors, name: str) -> F32:
    return scales_of(tensors[name])


def _unpacked(module: StoredModule, tensors: PackageTensors) -> F32:
    return module.layout.unpack(module.name, tensors).values()


def _named(path: Path, held: ExitStack) -> str:
    """A name by which the package opens the file: it takes UTF-8 alone, the system any bytes."""
    if encodable(str(path)):
        return str(path)
    file = open_input(path)
    held.callback(file.close)
    return f"/dev/fd/{file.handle.fileno()}"
