"""Tensors of a checkpoint as the safetensors package reads them, which shares no code with quantkit's reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.formats.containers.packed import Entry, PackedTensor
from quantkit.untrusted import encodable, open_input


class PackageTensors(Mapping[str, PackedTensor]):
    """The tensors of open files by name, read when asked for."""

    def __init__(self, files: Sequence[Any]) -> None:
        names = [(file, file.keys()) for file in files]
        self._owner = {name: file for file, held in names for name in held}

    def __getitem__(self, name: str) -> PackedTensor:
        import torch

        file = self._owner[name]
        part = file.get_slice(name)
        entry = Entry(name, part.get_dtype(), tuple(part.get_shape()))
        raw = file.get_tensor(name).contiguous().reshape(-1).view(torch.uint8).numpy()
        return PackedTensor(entry, np.array(raw, np.uint8))

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)


@contextmanager
def open_with_package(paths: Sequence[Path]) -> Iterator[Mapping[str, PackedTensor]]:
    """The tensors of safetensors files, for as long as the context is open."""
    from safetensors import safe_open

    with ExitStack() as stack:
        yield PackageTensors([stack.enter_context(safe_open(_named(p, stack), framework="pt")) for p in paths])


def _named(path: Path, held: ExitStack) -> str:
    """A name by which the package opens the file: it takes UTF-8 alone, the system any bytes."""
    if encodable(str(path)):
        return str(path)
    file = open_input(path)
    held.callback(file.close)
    return f"/dev/fd/{file.handle.fileno()}"
