"""MXFP4 where ggml refuses its own bytes: blocks whose largest weight lies in [2^-126, 2^-125)."""

from __future__ import annotations

import numpy as np
from oracles import ggml

from quantkit.qtypes.mxfp4 import TYPE


def test_the_exponent_that_ggml_refuses_becomes_the_smallest_scale():
    levels = np.array([4, 6, -6, 3, 2, 1, 0, -4], np.float32)
    w = np.tile(levels * np.float32(2.0**-128), 4).reshape(1, 32)
    refused = ggml.quantize(TYPE.gguf, w)
    assert refused[0, 0] == 255
    assert not ggml.validate(TYPE.gguf, refused)
    raw = TYPE.encode(w, None)
    assert ggml.validate(TYPE.gguf, raw)
    assert np.array_equal(TYPE.decode(raw, 32), w)
