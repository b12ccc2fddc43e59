"""Plain checkpoints: every weight a float of one type, as transformers saves them. Nothing is quantized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantkit.formats.containers.packed import Entry, PackedTensor, Tensors, take_matrix
from quantkit.qtypes.schemes.base import Quantized
from quantkit.qtypes.schemes.halves import Halves, to_bytes


@dataclass(frozen=True)
class PlainLayout:
    """A plain checkpoint's only setting, the type of its numbers."""

    scheme: Halves


def entries(layout: PlainLayout, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
    """The tensor of the linear layer `module` of weight (rows, cols)."""
    return (Entry(f"{module}.weight", layout.scheme.dtype, (rows, cols)),)


def pack(layout: PlainLayout, module: str, quantized: Quantized) -> tuple[PackedTensor, ...]:
    """The tensor of `entries`, filled."""
    (entry,) = entries(layout, module, *quantized.codes.shape)
    return (PackedTensor(entry, to_bytes(quantized.codes)),)


def unpack(layout: PlainLayout, module: str, tensors: Tensors) -> Quantized:
    """The numbers of the linear layer `module`, the inverse of `pack`. Raises InputError."""
    weight = take_matrix(tensors, f"{module}.weight", (layout.scheme.dtype,))
    codes = weight.data.view(np.dtype("<i2")).reshape(weight.entry.shape)
    return Quantized(codes, layout.scheme.grid(len(codes)))
