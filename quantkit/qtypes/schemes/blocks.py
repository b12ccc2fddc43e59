"""A quantization type as a scheme: what methods round and files of blocks hold, seen the way of all others."""

from __future__ import annotations

from functools import cached_property

from quantkit.qtypes import base
from quantkit.qtypes.base import Grid, QuantType
from quantkit.qtypes.schemes.base import Quantized, Traits
from quantkit.qtypes.target import Target, type_target
from quantkit.records import record
from quantkit.tensors import F32


@record
class Blocks:
    """The type called `name`; its grids have an entry per block, in row-major order."""

    name: str

    @cached_property
    def qtype(self) -> QuantType:
        return base.get(self.name)

    @property
    def bits(self) -> int:
        return int(self.qtype.bits_per_weight)

    @property
    def traits(self) -> Traits:
        return Traits(
            type=self.name,
            bits=self.qtype.bits_per_weight,
            word=self.name,
            words=self.name,
            weighed=self.qtype.uses_importance,
        )

    def fit(self, w: F32, importance: F32 | None = None) -> Grid:
        """The type's own fit."""
        return self.qtype.fit(w, importance)

    def encode(self, w: F32, importance: F32 | None = None) -> Quantized:
        """What the type's reference encoder makes."""
        encoder = self.target(w.shape[1]).encode
        assert encoder is not None
        return Quantized(*encoder(w, importance))

    def target(self, cols: int) -> Target:
        """The type; a row of `cols` weights must be whole blocks."""
        return type_target(self.qtype)
