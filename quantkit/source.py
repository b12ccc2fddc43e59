"""Where weights come from: a Hugging Face folder, the Hub, a GGUF file, or memory (tests).

`open_source` reads headers only and validates all of them; a slab of rows is read when a stage asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from quantkit.tensors import TensorInfo, TensorRef


@dataclass(frozen=True)
class SourceFile:
    """A file of the checkpoint. `path` is where it lies on this machine, `name` what the manifest calls it."""

    name: str
    path: str
    nbytes: int
    weights: bool


class Checkpoint(Protocol):
    """A validated checkpoint whose weights have not been read.

    `kind` is "hf", "gguf" or "memory". `name` is what a person would call it (folder or repository name), `commit`
    the resolved revision of a Hub repository. `config` is the parsed config.json ({} for GGUF).
    """

    kind: str
    name: str
    repo: str | None
    commit: str | None
    config: Mapping[str, Any]

    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def ref(self, name: str) -> TensorRef: ...

    def files(self) -> tuple[SourceFile, ...]: ...

    def read_file(self, name: str) -> bytes | None:
        """The bytes of a side file such as tokenizer.json (at most 256 MB); None when the checkpoint has none."""
        ...

    def unchanged(self) -> None:
        """Raise InputError if a source file changed since it was opened (device, inode, size, mtime)."""
        ...

    def close(self) -> None: ...
