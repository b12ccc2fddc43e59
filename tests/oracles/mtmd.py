"""What llama.cpp's multimodal library (mtmd, in the xllamacpp wheel) makes of an image or of sound.

Run as a process of its own, since the library aborts on a failed assertion: reads a JSON list of jobs from standard
input, each {"text": FILE, "mmproj": FILE, "pixels": FILE.npy (height, width, 3) uint8, "out": FILE.npy}, and writes the
embeddings that the text model is given, float32 (tokens, width). Without pixels the file is loaded alone, and "out"
says in JSON whether it sees and hears. Only facts of mtmd.h are used.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).parents[1])]

from oracles.ggml import LOG_CALLBACK, Model, library  # noqa: E402

IMAGE = 1  # enum mtmd_input_chunk_type


class Params(c.Structure):
    """The head of struct mtmd_context_params, and room for the rest (see oracles.ggml.ModelParams)."""

    _fields_ = (("use_gpu", c.c_bool), ("print_timings", c.c_bool), ("n_threads", c.c_int), ("rest", c.c_uint8 * 504))


class Text(c.Structure):
    """struct mtmd_input_text"""

    _fields_ = (("text", c.c_char_p), ("add_special", c.c_bool), ("parse_special", c.c_bool))


PTR, SIZE = c.c_void_p, c.c_size_t
SIGNATURES = {
    "mtmd_log_set": (None, LOG_CALLBACK, PTR),
    "mtmd_helper_log_set": (None, LOG_CALLBACK, PTR),
    "mtmd_context_params_default": (Params,),
    "mtmd_default_marker": (c.c_char_p,),
    "mtmd_init_from_file": (PTR, c.c_char_p, PTR, Params),
    "mtmd_bitmap_init": (PTR, c.c_uint32, c.c_uint32, c.c_char_p),
    "mtmd_input_chunks_init": (PTR,),
    "mtmd_tokenize": (c.c_int32, PTR, PTR, c.POINTER(Text), c.POINTER(PTR), SIZE),
    "mtmd_input_chunks_size": (SIZE, PTR),
    "mtmd_input_chunks_get": (PTR, PTR, SIZE),
    "mtmd_input_chunk_get_type": (c.c_int, PTR),
    "mtmd_input_chunk_get_n_tokens": (SIZE, PTR),
    "mtmd_encode_chunk": (c.c_int32, PTR, PTR),
    "mtmd_get_output_embd": (c.POINTER(c.c_float), PTR),
    "mtmd_free": (None, PTR),
    "mtmd_support_vision": (c.c_bool, PTR),
    "mtmd_support_audio": (c.c_bool, PTR),
    "llama_model_n_embd_inp": (c.c_int32, PTR),
}


@contextmanager
def loaded(text: Path, mmproj: Path) -> Iterator[tuple[Any, Any, Any]]:
    """The library, its context of an encoder, and the text model. Raises RuntimeError where it refuses the file."""
    so, silence = library().so, library().silence
    for name, (result, *arguments) in SIGNATURES.items():
        function = getattr(so, name)
        function.restype, function.argtypes = result, arguments
    if not os.environ.get("QUANTKIT_TEST_LLAMA_LOG"):
        so.mtmd_log_set(silence, None)
        so.mtmd_helper_log_set(silence, None)
    with Model(text) as model:
        params = so.mtmd_context_params_default()
        params.use_gpu, params.n_threads = False, 1
        context = so.mtmd_init_from_file(os.fsencode(mmproj), model._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp cannot load {mmproj}")
        yield so, context, model._model
        so.mtmd_free(context)


def senses(text: Path, mmproj: Path) -> dict[str, bool]:
    """What an encoder that loads is for."""
    with loaded(text, mmproj) as (so, context, _):
        return {"sees": bool(so.mtmd_support_vision(context)), "hears": bool(so.mtmd_support_audio(context))}


def embed(text: Path, mmproj: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The embeddings of an image, float32 (tokens, width). Raises RuntimeError where the library refuses."""
    with loaded(text, mmproj) as (so, context, model):
        height, width, _ = pixels.shape
        bitmap = PTR(so.mtmd_bitmap_init(width, height, np.ascontiguousarray(pixels).tobytes()))
        chunks, said = so.mtmd_input_chunks_init(), Text(so.mtmd_default_marker(), False, True)
        if so.mtmd_tokenize(context, chunks, c.byref(said), c.byref(bitmap), 1):
            raise RuntimeError("llama.cpp cannot read the image")
        found = [so.mtmd_input_chunks_get(chunks, n) for n in range(so.mtmd_input_chunks_size(chunks))]
        wide = so.llama_model_n_embd_inp(model)
        pieces = []
        for chunk in found:
            if so.mtmd_input_chunk_get_type(chunk) != IMAGE:
                continue
            if so.mtmd_encode_chunk(context, chunk):
                raise RuntimeError("llama.cpp cannot encode the image")
            count = so.mtmd_input_chunk_get_n_tokens(chunk)
            values = np.ctypeslib.as_array(so.mtmd_get_output_embd(context), (count * wide,))
            pieces.append(values.reshape(count, wide).copy())
        return np.concatenate(pieces)


if __name__ == "__main__":
    for job in json.load(sys.stdin):
        files = Path(job["text"]), Path(job["mmproj"])
        if "pixels" in job:
            np.save(job["out"], embed(*files, np.load(job["pixels"])))
        else:
            Path(job["out"]).write_text(json.dumps(senses(*files)))
