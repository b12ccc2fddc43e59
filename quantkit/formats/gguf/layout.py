"""How a GGUF file holds a matrix: one tensor whose rows are the blocks of a quantization type."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from quantkit.formats.containers.packed import Entry, PackedTensor, Tensors
from quantkit.qtypes.schemes.base import Quantized, Traits
from quantkit.qtypes.schemes.blocks import Blocks
from quantkit.records import record


@record
class TypeLayout:
    """The type called `name`."""

    name: str

    @cached_property
    def scheme(self) -> Blocks:
        return Blocks(self.name)

    @property
    def traits(self) -> Traits:
        return self.scheme.traits

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The one tensor of a matrix, which has its name."""
        return (Entry(module, self.name, (rows, cols)),)

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """Codes and the fields of their grid as the bytes of blocks: nothing is rounded again."""
        (entry,) = self.entries(module, *quantized.codes.shape)
        raw = self.scheme.qtype.pack(quantized.codes.reshape(-1, self.scheme.qtype.block), quantized.grid)
        return (PackedTensor(entry, np.ascontiguousarray(raw).reshape(-1)),)

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The matrix of a tensor of any shape, its rows one below the other."""
        found = tensors[module]
        codes, grid = self.scheme.qtype.unpack(found.data.reshape(-1, self.scheme.qtype.nbytes))
        return Quantized(codes.reshape(-1, found.entry.shape[-1]), grid)
