"""Vocabularies in GGUF files without weights, for llama.cpp to load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.formats.gguf.file import encode_header
from quantkit.metadata import KeyValue


def write_vocabulary(path: Path, metadata: Sequence[KeyValue], architecture: str = "llama") -> Path:
    """Write a GGUF file that llama.cpp can load with `vocab_only`."""
    general = (KeyValue("general.architecture", "string", architecture), KeyValue("general.name", "string", "probe"))
    path.write_bytes(encode_header([*general, *metadata], []).data)
    return path
