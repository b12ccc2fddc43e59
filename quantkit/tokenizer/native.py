"""Native libraries that read files of strangers: tried in a process of their own first, their panics made errors.

The tokenizers library allocates what a file claims, and gives up the whole process where it cannot. A file that does
so, or loops, does it in a child with little memory and time; the bytes that survived are loaded here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import InputError, ResourceError
from quantkit.platforms import LIMITS_PROCESSES, OUT_OF_LIMITS, highest_address_limit
from quantkit.tokenizer.pre_table import RECOGNIZED
from quantkit.untrusted import shown

MEMORY_BYTES = 1 << 29
MEMORY_PER_BYTE = 40  # of the file: 262,144 tokens with 514,906 merges (20 MB) take 0.5 GB
CPU_SECONDS = 2
CPU_SECONDS_PER_MB = 1  # such a file takes 2 s
WALL_FACTOR = 50  # a loaded machine is slow, which is not the file's fault
UNLIMITED_SECONDS = 60  # where only time can be limited, the time of the wall is all there is
HINT = "fetch the tokenizer files again, or save the tokenizer again with transformers"
PANIC = "PanicException"  # pyo3's, which cannot be imported and is no Exception


# Sections whose parts are of these kinds and short make nothing grow and loop; what else there is, is tried.
PLAIN_KINDS = frozenset({
    "Sequence", "NFC", "NFD", "NFKC", "NFKD", "ByteLevel", "Metaspace", "Split", "Digits", "Prepend", "Replace", "Fuse",
    "ByteFallback", "Strip", "TemplateProcessing",
})  # fmt: skip
ONCE = ("ByteLevel", "Replace", "Prepend")  # each makes text longer: many of them, without bound
PLAIN_WORD = 64  # characters of a text in such a section
GROWTH = 4  # characters that may stand for one
MAX_SECTION = 1 << 14  # bytes


class _Model(msgspec.Struct):
    type: str = "BPE"


class _Sections(msgspec.Struct):
    """What of a tokenizer.json decides how much the library does; its vocabulary is checked by whoever reads it."""

    model: _Model
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")
    decoder: msgspec.Raw = msgspec.Raw(b"null")


def require_harmless(data: bytes, name: str) -> None:
    """Raise InputError for a tokenizer.json that the library should not read in this process.

    Tries it in another one, unless it is made of nothing but a model that merges or looks up, and plain sections.
    """
    try:
        found = msgspec.json.decode(data, type=_Sections)
        sections = (found.normalizer, found.pre_tokenizer, found.post_processor, found.decoder)
        plain = found.model.type in ("BPE", "WordLevel") and all(_plain(bytes(section)) for section in sections)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        plain = False
    if not plain:
        try_tokenizer_json(data, name)


def _plain(section: bytes) -> bool:
    if len(section) > MAX_SECTION or any(section.count(f'"{kind}"'.encode()) > 1 for kind in ONCE):
        return False
    return _is_plain(msgspec.json.decode(section))


def _is_plain(part: Any, word: int = PLAIN_WORD) -> bool:
    """Whether a part of a section can do no harm: known kinds, known patterns, short texts."""
    if isinstance(part, list):
        return all(_is_plain(each) for each in part)
    if isinstance(part, str):
        return len(part) <= word
    if not isinstance(part, dict):
        return True
    kind = part.get("type", "Sequence")
    if not isinstance(kind, str) or kind not in PLAIN_KINDS:
        return False
    longest = GROWTH if kind in ("Replace", "Prepend") else PLAIN_WORD
    rest = [value for key, value in part.items() if key not in ("Regex", "type")]
    return part.get("Regex", "") in ("", *known_patterns()) and all(_is_plain(each, longest) for each in rest)


@lru_cache(maxsize=1)
def known_patterns() -> tuple[str, ...]:
    """The patterns of tokenizers that are known."""
    return tuple(step[1] for one in RECOGNIZED for step in one.steps if step[0] == "split")


@lru_cache(maxsize=2)
def try_tokenizer_json(data: bytes, name: str) -> None:
    """Load a tokenizer.json in a process of its own and encode some texts with it.

    Takes as long as loading it. Raises InputError where the process dies, takes too much memory or time, or the
    library rejects the file.
    """
    memory = MEMORY_BYTES + MEMORY_PER_BYTE * len(data)
    seconds = CPU_SECONDS + int(CPU_SECONDS_PER_MB * len(data) / 1e6)
    # -I: neither the environment nor the current folder chooses what is imported
    script = Path(__file__).with_name("native_process.py")
    command = [sys.executable, "-I", str(script), str(memory), str(seconds)]
    # Rust prints where it gave up, which can take longer than the rest.
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    patience = WALL_FACTOR * seconds if LIMITS_PROCESSES else UNLIMITED_SECONDS
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=patience, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise _failed(name, f"does not come to an end in {error.timeout:.0f} s") from error
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()] or [""]
    if done.returncode == 1:  # an exception, its words at the end
        raise _failed(name, f"rejects it: {shown(said[-1].partition(': ')[2] or said[-1])}")
    allowed = highest_address_limit()
    if allowed is not None and allowed < memory:
        message = f"{name}: trying it takes up to {memory >> 20:,} MB, this process may use {allowed >> 20:,} MB"
        raise ResourceError(message, path=name, hint="raise the limit: ulimit -v unlimited")
    if done.returncode in OUT_OF_LIMITS:
        raise _failed(name, f"takes more than {seconds} s to read it")
    raise _failed(name, f"dies of it within {memory >> 20:,} MB ({shown(said[0]) or done.returncode})")


@contextmanager
def no_panic(name: str) -> Iterator[None]:
    """Turn what the tokenizers library raises of a text, Exceptions of no kind and panics, into an InputError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != PANIC and type(error) is not Exception:
            raise
        raise _failed(name, f"gives up: {shown(str(error))}") from error


def _failed(name: str, why: str) -> InputError:
    return InputError(f"{name}: the tokenizers library {why}", path=name, hint=HINT)
