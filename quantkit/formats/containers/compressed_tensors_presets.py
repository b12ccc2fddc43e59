"""Schemes that compressed-tensors gives names to: {"W4A16": ["Linear"]} in `config_groups` stands for a whole group."""

from __future__ import annotations

import re

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.untrusted import shown

UNQUANTIZED = "UNQUANTIZED"
INTEGERS = re.compile(r"W([2-8])A(4|8|16)")
GROUP = 128

PRESETS: dict[str, CompressedLayout] = {
    "W8A8": CompressedLayout(Integers(8), "dynamic"),
    "INT8": CompressedLayout(Integers(8), "dynamic"),
    "W4A16_ASYM": CompressedLayout(Integers(4, GROUP, "asymmetric")),
    "W4AFP8": CompressedLayout(Integers(4, GROUP), "dynamic"),
    "FP8": CompressedLayout(Float8("tensor"), "static"),
    "FP8_DYNAMIC": CompressedLayout(Float8("channel"), "dynamic"),
    "FP8_BLOCK": CompressedLayout(Float8("block"), "dynamic"),
    "NVFP4": CompressedLayout(NVFP4(), "dynamic"),
    "NVFP4A16": CompressedLayout(NVFP4()),
    "MXFP4": CompressedLayout(MXFP4(), "dynamic"),
    "MXFP4A16": CompressedLayout(MXFP4()),
    "MXFP4XFP8": CompressedLayout(MXFP4(), "dynamic"),
}


def preset(name: str) -> CompressedLayout:
    """The layout of this name, in letters of any case. Raises UnsupportedError for one that is not read."""
    upper = name.upper()
    if upper in PRESETS:
        return PRESETS[upper]
    match = INTEGERS.fullmatch(upper)
    if match is None:
        what = f'config_groups names the scheme "{shown(name)}"'
        hint = f"read are {', '.join(PRESETS)}, and W2A16 to W8A16; else start from the original checkpoint"
        raise UnsupportedError(what, key=f"config_groups.{name}", hint=hint)
    return CompressedLayout(Integers(int(match[1]), GROUP), "none" if match[2] == "16" else "dynamic")
