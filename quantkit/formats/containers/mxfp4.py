"""MXFP4 as OpenAI published gpt-oss: stacks of experts, each matrix stored with its inputs last.

For a stack of E matrices that a plain checkpoint has as NAME [E, in, out]:

    NAME_blocks   U8 [E, out, in / 32, 16]   the even element of a group in the low half byte
    NAME_scales   U8 [E, out, in / 32]       E8M0: an exponent, less 127
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.base import Container, Headers, LayoutOf, Reading, StoredOutline, StoredPart
from quantkit.formats.containers.packed import Tensors, take, values_of
from quantkit.qtypes.schemes.base import Quantized, Traits
from quantkit.qtypes.schemes.microscaling import MXFP4
from quantkit.records import record
from quantkit.untrusted import shown

HALF = 16  # bytes of a group


@record
class MXFP4Stack:
    """The matrices of a stack, one below the other."""

    @property
    def scheme(self) -> MXFP4:
        return MXFP4()

    @property
    def traits(self) -> Traits:
        return self.scheme.traits

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """Codes and grid of some rows, of all groups or of some. Raises InputError."""
        blocks = values_of(take(tensors, f"{module}_blocks", ("U8",)))
        scale = values_of(take(tensors, f"{module}_scales", ("U8",), blocks.shape[:2]))
        try:
            grid = self.scheme.grid(scale)
        except InputError as error:
            name = f"{module}_scales"
            raise InputError(f'"{shown(name)}": {error.message}', tensor=name, hint=error.hint) from None
        codes = np.stack([blocks & 15, blocks >> 4], axis=3).reshape(len(blocks), -1)
        return Quantized(codes.astype(np.int16), grid)

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a stack."""
        blocks = headers.info("blocks", ("U8",), 4)
        experts, rows, groups, half = blocks.shape
        if half != HALF:
            raise headers.wrong(blocks, f"groups of {HALF} bytes")
        headers.part("scales", ("U8",), (experts, rows, groups))
        parts = (
            StoredPart(blocks.name, "U8", (experts * rows, groups, HALF), 0),
            StoredPart(f"{headers.module}_scales", "U8", (experts * rows, groups), 0),
        )
        cols = groups * self.scheme.group
        return StoredOutline(self, experts * rows, cols, parts, turned=(experts, cols, rows))


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """There is nothing to choose."""
    return lambda module: MXFP4Stack()


CONTAINER = Container(
    "mxfp4",
    reading=Reading(
        layouts,
        components=("blocks", "scales"),
        joint="_",
        unsaid=(("_proj_blocks", {"quant_method": "mxfp4"}),),
    ),
)
