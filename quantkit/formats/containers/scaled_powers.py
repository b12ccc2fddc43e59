"""FP8 and FP4 weights of DeepSeek V4, whose scales are powers of two in the tensor `scale`.

    .weight   F8_E4M3 [out, in]
    .scale    F8_E8M0 [out / 128, in / 128], rounded up    W = weight * 2^(scale - 127)

    .weight   I8 [out, in / 2]                             the even element in the low half byte
    .scale    F8_E8M0 [out, in / 32]                       W = level * 2^(scale - 127), levels as in MXFP4

The first checkpoints have float scales of the blocks of FP8 under the same name.
"""

from __future__ import annotations

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.base import Headers, StoredOutline
from quantkit.formats.containers.packed import Tensors, take, take_matrix, values_of
from quantkit.formats.containers.scaled_floats import ScaledFloat8, float8_outline
from quantkit.qtypes.schemes.base import Quantized, Traits
from quantkit.qtypes.schemes.microscaling import MXFP4
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.records import record
from quantkit.tensors import U8
from quantkit.untrusted import shown

SCALE = "scale"
BLOCKS = ScaledFloat8(Float8("block"), SCALE)


@record
class PackedFloat4:
    """FP4 weights, two in a byte."""

    @property
    def scheme(self) -> MXFP4:
        return MXFP4()

    @property
    def traits(self) -> Traits:
        return self.scheme.traits

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of a module. Raises InputError."""
        raw: U8 = values_of(take_matrix(tensors, f"{module}.weight", ("I8",))).view(np.uint8)
        rows, cols = raw.shape[0], raw.shape[1] * 2
        name = f"{module}.{SCALE}"
        try:
            grid = self.scheme.grid(take(tensors, name, ("F8_E8M0",)).data.reshape(rows, -1))
        except InputError as error:
            raise InputError(f'"{shown(name)}": {error.message}', tensor=name, hint=error.hint) from None
        return Quantized(np.stack([raw & 15, raw >> 4], axis=2).reshape(rows, cols).astype(np.int16), grid)


def outline(headers: Headers) -> StoredOutline:
    """The tensors of a layer, and its exact layout: the type of its weight tells."""
    weight = headers.info("weight", ("F8_E4M3", "I8"), 2)
    if weight.dtype == "F8_E4M3":
        return float8_outline(BLOCKS, BLOCKS.scheme, SCALE, headers)
    exact, (rows, half) = PackedFloat4(), weight.shape
    parts = (
        headers.part("weight", ("I8",), (rows, half), 0),
        headers.part(SCALE, ("F8_E8M0",), (rows, headers.groups(2 * half, exact.scheme.group)), 0),
    )
    return StoredOutline(exact, rows, 2 * half, parts)
