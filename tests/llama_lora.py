"""llama.cpp with an adapter beside its model, in a process of its own: logits after the last token of each text.

python llama_lora.py LIBRARY MODEL.gguf ADAPTER.gguf|- OUT.npy < [[token, ...], ...]
"""

from __future__ import annotations

import ctypes as c
import json
import os
import sys

import numpy as np

from quantkit.quality.engines.llamacpp_process import Model


def main(library: str, path: str, adapter: str, out: str) -> None:
    model = Model(library, path, 128, 1, 1)
    so = model._so
    if adapter != "-":
        so.llama_adapter_lora_init.restype, so.llama_adapter_lora_init.argtypes = c.c_void_p, (c.c_void_p, c.c_char_p)
        loaded = so.llama_adapter_lora_init(model._model, os.fsencode(adapter))
        assert loaded, model.said
        so.llama_set_adapters_lora.argtypes = (
            c.c_void_p, c.POINTER(c.c_void_p), c.c_size_t, c.POINTER(c.c_float),
        )  # fmt: skip
        status = so.llama_set_adapters_lora(model._context, (c.c_void_p * 1)(loaded), 1, (c.c_float * 1)(1.0))
        assert status == 0, model.said
    rows = []
    for tokens in json.load(sys.stdin):
        model.forget()
        model.decode(tokens, 0, [0], [False] * (len(tokens) - 1) + [True])
        rows.append(np.frombuffer(model.row(len(tokens) - 1), np.float32).copy())
    np.save(out, np.stack(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
