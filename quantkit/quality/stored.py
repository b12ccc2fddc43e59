"""Tensors of a checkpoint as the safetensors package reads them, which shares no code with quantkit's reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.formats.packed import Entry, PackedTensor


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
        yield PackageTensors([stack.enter_context(safe_open(str(p), framework="pt")) for p in paths])
