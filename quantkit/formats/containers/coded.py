"""Stored codes as rows of a quantization type of GGUF: bits are moved, nothing is rounded.

Four-bit floats mean the same in checkpoints and in GGUF. There a block holds its scales and its codes, the two halves
of a group in the low and the high four bits of its bytes.
"""

from __future__ import annotations

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.base import StoredOutline
from quantkit.qtypes import base
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import Quantized, Scheme
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4, SCALE
from quantkit.tensors import U8, Coded

FIELDS = {"mxfp4": "e", "nvfp4": "d"}  # of the grids of these types: the bytes of their scales
SIGN = 0x80


def _type_of(scheme: Scheme) -> str | None:
    return "nvfp4" if isinstance(scheme, NVFP4) else "mxfp4" if isinstance(scheme, MXFP4) else None


def coded_as(outline: StoredOutline) -> Coded | None:
    """The type of GGUF that has the codes of a module; None where none has, or its blocks do not divide a row."""
    name = _type_of(outline.layout.scheme)
    if name is None or outline.cols % base.get(name).block:
        return None
    wide = getattr(outline.layout, "wide", False)
    return Coded(name, turned=outline.turned is not None, factored=name == "nvfp4", wide=wide)


def coded_rows(quantized: Quantized) -> U8:
    """Codes (rows, cols) and their scales as bytes (rows, row bytes) of the type that has them.

    Raises InputError for a scale with a sign, which GGUF has no place for.
    """
    rows, cols = quantized.codes.shape
    scale = quantized.grid.fields[SCALE]
    qtype = base.get("nvfp4" if cols == 16 * scale.shape[1] else "mxfp4")
    if qtype.name == "nvfp4" and (scale > SIGN).any():
        what = f"scale {int(np.argmax(scale > SIGN))} of its rows is negative, and GGUF stores scales without sign"
        raise InputError(what, hint="--allow-requantize decodes such weights instead of carrying them over")
    stored = scale & np.uint8(0x7F) if qtype.name == "nvfp4" else scale
    groups = scale.size * qtype.block // quantized.codes.size  # of a block
    field = stored.reshape(-1, groups) if groups > 1 else stored.reshape(-1)
    grid = Grid(quantized.grid.scale, None, 0, 15, fields={FIELDS[qtype.name]: field})
    return qtype.pack(quantized.codes.reshape(-1, qtype.block), grid).reshape(rows, -1)
