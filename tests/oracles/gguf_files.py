"""ggml's own GGUF reader (gguf_init_from_file, through ctypes): what it makes of a file, or that it refuses it.

Run as a script it reads paths from standard input and prints one line for each, so that a test survives a file
that makes the library abort.
"""

from __future__ import annotations

import ctypes as c
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from oracles import ggml


class InitParams(c.Structure):
    """struct gguf_init_params (gguf.h)"""

    _fields_ = [("no_alloc", c.c_bool), ("ctx", c.c_void_p)]


@dataclass(frozen=True)
class Contents:
    """Keys with their kind (9 for an array), tensors as (name, type, absolute offset, bytes)."""

    keys: tuple[tuple[str, int], ...]
    tensors: tuple[tuple[str, int, int, int], ...]


@cache
def _library() -> c.CDLL:
    so = ggml.library().so
    pointer, i64, size = c.c_void_p, c.c_int64, c.c_size_t
    for name, restype, *argtypes in (
        ("gguf_init_from_file", pointer, c.c_char_p, InitParams),
        ("gguf_free", None, pointer),
        ("gguf_get_n_kv", i64, pointer),
        ("gguf_get_n_tensors", i64, pointer),
        ("gguf_get_data_offset", size, pointer),
        ("gguf_get_key", c.c_char_p, pointer, i64),
        ("gguf_get_kv_type", c.c_int, pointer, i64),
        ("gguf_get_tensor_name", c.c_char_p, pointer, i64),
        ("gguf_get_tensor_type", c.c_int, pointer, i64),
        ("gguf_get_tensor_offset", size, pointer, i64),
        ("gguf_get_tensor_size", size, pointer, i64),
    ):
        getattr(so, name).restype = restype
        getattr(so, name).argtypes = argtypes
    return so


def read(path: Path) -> Contents | None:
    """What ggml reads from the header of a GGUF file; None where it refuses the file."""
    so = _library()
    context = so.gguf_init_from_file(str(path).encode(), InitParams(True, None))
    if not context:
        return None
    try:
        start = so.gguf_get_data_offset(context)
        keys = tuple(
            (so.gguf_get_key(context, i).decode("utf-8", "replace"), so.gguf_get_kv_type(context, i))
            for i in range(so.gguf_get_n_kv(context))
        )
        tensors = tuple(
            (
                so.gguf_get_tensor_name(context, i).decode("utf-8", "replace"),
                so.gguf_get_tensor_type(context, i),
                so.gguf_get_tensor_offset(context, i) + start,
                so.gguf_get_tensor_size(context, i),
            )
            for i in range(so.gguf_get_n_tensors(context))
        )
        return Contents(keys, tensors)
    finally:
        so.gguf_free(context)


def read_apart(paths: Sequence[Path]) -> list[Contents | str | None]:
    """`read` for many files in another process; "aborted" for a file that ends it."""
    results: list[Contents | str | None] = []
    while len(results) < len(paths):
        todo = "\n".join(str(path) for path in paths[len(results) :])
        child = subprocess.run([sys.executable, __file__], input=todo, capture_output=True, text=True, check=False)
        for line in child.stdout.splitlines():
            found = json.loads(line)
            results.append(found and Contents(tuple(map(tuple, found[0])), tuple(map(tuple, found[1]))))
        if child.returncode:
            results.append("aborted")
    return results


if __name__ == "__main__":
    for line in sys.stdin.read().splitlines():
        contents = read(Path(line))
        print(json.dumps(contents and (contents.keys, contents.tensors)), flush=True)
