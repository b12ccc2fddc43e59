"""Stacks of experts in FP8, as transformers holds them: NAME [E, out, in] and its scales beside it, NAME_scale_inv.

Scales are one for each matrix ([E] or [E, 1, 1]), one for each row, or one for each tile of 128 x 128 of a matrix,
tiles at the edges cut off. W = weight * scale, in spite of the name. Each matrix is read by itself: it is a weight like
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod

import numpy as np

from quantkit.formats.containers.base import StoredPart
from quantkit.formats.containers.packed import Entry, packed
from quantkit.formats.containers.scaled_floats import matrix_of_stack
from quantkit.formats.containers.stored import StoredModule
from quantkit.records import record
from quantkit.source.base import StoredTensor
from quantkit.tensors import F32, U8, TensorInfo

SCALES = ("_scale_inv", "_scale")
BESIDE = ("_activation_scale", "_input_scale")  # of inputs: they are no weights


@record
class Stack:
    """One stack: how each of its matrices is stored, and the tensor of its scales."""

    name: str
    scale: str
    module: StoredModule


def stacks_of(tensors: Mapping[str, TensorInfo]) -> tuple[dict[str, Stack], frozenset[str]]:
    """The stacks by name, and the tensors beside them that are no weights. Raises InputError for scales that do not
    fit."""
    found: dict[str, Stack] = {}
    hidden: set[str] = set()
    for name, info in tensors.items():
        scale = next((name + end for end in SCALES if name + end in tensors), None)
        if info.dtype == "F8_E4M3" and len(info.shape) == 3 and scale is not None:
            found[name] = Stack(name, scale, _module(name, info, tensors[scale]))
            hidden |= {scale, *(name + end for end in BESIDE if name + end in tensors)}
    return found, frozenset(hidden)


def _module(name: str, info: TensorInfo, scale: TensorInfo) -> StoredModule:
    """A matrix of a stack, under the name of the stack."""
    outline = matrix_of_stack(info, scale)
    summary = f"{outline.layout.traits.words} stack"
    return StoredModule(name, outline.layout, outline, summary, name)


@record
class DequantizedStack:
    """A stack that decodes a slab of rows at a time. Reading is safe from several threads and keeps nothing."""

    info: TensorInfo
    stack: Stack
    stored: Mapping[str, StoredTensor]

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop) of its matrices one below the other, float32: exactly the numbers that are stored."""
        assert 0 <= start <= stop <= self.info.rows, (self.info.name, start, stop)
        height = self.info.shape[1]
        out = np.empty((stop - start, self.info.cols), np.float32)
        for matrix in range(start // height, -(-stop // height)):
            low = matrix * height
            first, last = max(start, low), min(stop, low + height)
            read = partial(self._read_part, matrix)
            out[first - start : last - start] = self.stack.module.decode(first - low, last - low, read)
        return out

    def read_packed(self, start: int, stop: int) -> U8:
        """Rows [start, stop) as a checkpoint of `info.dtype` would store them, which may round them once more."""
        values = self.read(start, stop)
        return packed(Entry(self.info.name, self.info.dtype, values.shape), values).data.reshape(stop - start, -1)

    def _read_part(self, matrix: int, part: StoredPart, first: int, last: int) -> U8:
        tensor = self.stored[self.stack.name if part.name.endswith(".weight") else self.stack.scale]
        width = prod(part.shape[1:]) * part.itemsize
        begin = tensor.offset + matrix * prod(part.shape) * part.itemsize
        if part.axis is None:
            return tensor.source.read(begin, begin + prod(part.shape) * part.itemsize)
        return tensor.source.read(begin + first * width, begin + last * width)
