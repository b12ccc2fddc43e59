"""Where weights come from: a Hugging Face folder, the Hub, a GGUF file, or memory (tests).

`open_source` reads headers only and validates all of them; a slab of rows is read when a stage asks for it.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from quantkit.errors import InputError, UsageError
from quantkit.events import Sink, ignore
from quantkit.source.base import Checkpoint, SourceFile
from quantkit.source.folder import open_folder
from quantkit.source.gguf import open_gguf
from quantkit.source.memory import MemoryCheckpoint
from quantkit.source.quantized import dequantized
from quantkit.source.shards import PICKLES
from quantkit.untrusted import shown

__all__ = ["Checkpoint", "MemoryCheckpoint", "SourceFile", "open_source"]

HUB_PREFIX = "hf://"
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
# The Hub refuses "--" and ".." in names, and its cache relies on it.
HUB_SPEC = re.compile(
    rf"(?![^@]*(?:--|\.\.))(?P<repo>{NAME}/{NAME})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?"
)


def open_source(spec: str, *, offline: bool = False, emit: Sink = ignore) -> Checkpoint:
    """Open a checkpoint: a folder, a `.gguf` file, `hf://org/name[@revision]`, or `org/name` where no such path is.

    Linear layers that a checkpoint for servers stores quantized are there as the plain weights that they decode to.
    A repository of the Hub is fetched first (only what is needed); with `offline` only its cached copy is used.
    Raises InputError for a missing, damaged or hostile checkpoint, UnsupportedError for one in a layout that is not
    read, UsageError for a `spec` that is none of the above, NetworkError when the Hub fails.
    """
    if not spec.startswith(HUB_PREFIX):
        path = _path(spec)
        if spec and os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for names too long to exist
            return dequantized(open_folder(path, emit))
        if spec and os.path.exists(path):  # noqa: PTH110 - likewise
            return _open_file(path)
    match = HUB_SPEC.fullmatch(spec.removeprefix(HUB_PREFIX))
    if match is None or ".." in (match["revision"] or ""):
        raise _no_such(spec)
    from quantkit.source.hub import Hub, fetch  # huggingface_hub: only for repositories

    return dequantized(open_folder(fetch(match["repo"], match["revision"], Hub(offline=offline), emit), emit))


def _path(spec: str) -> Path:
    return Path(os.path.expanduser(spec))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def _open_file(path: Path) -> Checkpoint:
    if path.suffix.lower() == ".gguf":
        return open_gguf(path)
    where = shown(path)
    if path.suffix == ".safetensors":
        what = f"{where} is one file of a checkpoint"
        raise UsageError(what, path=str(path), hint=f"give its folder: {shown(path.parent)}")
    if path.suffix in PICKLES:
        what = f"{where} is a pickle, which can run code and is never loaded"
        raise InputError(what, path=str(path), hint="get the safetensors version of the model")
    what = f"{where} is neither a checkpoint folder nor a .gguf file"
    raise UsageError(what, path=str(path), hint="give a folder, a .gguf file, or hf://org/name")


def _no_such(spec: str) -> InputError | UsageError:
    if spec.startswith(HUB_PREFIX):
        what = f"{shown(spec)} does not name a model repository"
        return UsageError(what, hint="write hf://org/name or hf://org/name@revision")
    path = _path(spec)
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        beside = []
    near = get_close_matches(path.name, beside, 1)
    hint = f"did you mean {shown(path.parent / near[0])}?" if near else "give a folder, a .gguf file, or hf://org/name"
    return InputError(f'"{shown(spec)}" does not exist', path=spec, hint=hint)
