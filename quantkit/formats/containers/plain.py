"""Plain checkpoints: every weight a float of one type, as transformers saves them. Nothing is quantized."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from quantkit.formats.containers.base import Container, Headers, StoredOutline, Writing, nothing
from quantkit.formats.containers.packed import Entry, PackedTensor, Tensors, take_matrix
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes.base import Quantized, ScaleDtype, Traits
from quantkit.qtypes.schemes.halves import Halves, to_bytes
from quantkit.records import record


@record
class PlainLayout:
    """A plain checkpoint's only setting, the type of its numbers."""

    scheme: Halves

    @cached_property
    def traits(self) -> Traits:
        return replace(self.scheme.traits, format="plain")

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The tensor of the linear layer `module` of weight (rows, cols)."""
        return (Entry(f"{module}.weight", self.scheme.dtype, (rows, cols)),)

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """The tensor of `entries`, filled."""
        (entry,) = self.entries(module, *quantized.codes.shape)
        return (PackedTensor(entry, to_bytes(quantized.codes)),)

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The numbers of the linear layer `module`, the inverse of `pack`. Raises InputError."""
        weight = take_matrix(tensors, f"{module}.weight", (self.scheme.dtype,))
        codes = weight.data.view(np.dtype("<i2")).reshape(weight.entry.shape)
        return Quantized(codes, self.scheme.grid(len(codes)))

    def outline(self, headers: Headers) -> StoredOutline:
        """One tensor, row by row."""
        rows, cols = headers.info("weight", (self.scheme.dtype,), 2).shape
        return StoredOutline(self, rows, cols, (headers.part("weight", (self.scheme.dtype,), (rows, cols), 0),))


def choose(weights: Weights, dtype: ScaleDtype) -> PlainLayout:
    """The layout of the type that the weights name."""
    return PlainLayout(Halves("F16" if weights.type == "f16" else "BF16"))


CONTAINER = Container("plain", Writing(types=("bf16", "f16", "f32"), choose=choose, config=nothing))
