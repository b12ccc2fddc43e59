"""A draft beside its target: the model whose tokens it proposes, and whose tokenizer it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantkit.errors import QuantkitError, UnsupportedError, UsageError
from quantkit.events import Sink, ignore
from quantkit.families.drafts import TARGET
from quantkit.families.towers import text_family
from quantkit.source import open_source
from quantkit.source.base import Checkpoint, Over, SourceFile
from quantkit.source.folder import MASK_FILE, FolderCheckpoint
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.untrusted import shown


@dataclass(frozen=True)
class DraftCheckpoint(Over):
    """A draft, and the model that it drafts for. See `quantkit.source.Checkpoint`.

    Weights are the draft's alone; config.json has what that of the target says besides, filled in by its family.
    """

    target: Checkpoint

    @property
    def config(self) -> Mapping[str, Any]:
        said = self.target.config
        return {**self.base.config, TARGET: text_family(said)[0].family.hparams(said).values}

    def files(self) -> tuple[SourceFile, ...]:
        """Those of the draft, and those of the target that are no weights."""
        beside = (replace(file, name=f"target/{file.name}") for file in self.target.files() if not file.weights)
        return (*self.base.files(), *beside)

    def unchanged(self) -> None:
        self.base.unchanged()
        self.target.unchanged()

    def close(self) -> None:
        self.base.close()
        self.target.close()


def open_draft(
    spec: str, target: str, *, offline: bool = False, emit: Sink = ignore, adapters: Sequence[str] = ()
) -> DraftCheckpoint:
    """Open a draft and its target, each as `open_source` does; of the target no weight is read or fetched.

    Raises what that raises, UsageError for a source that is no draft and for adapters, which are merged into none,
    UnsupportedError for a target that is a GGUF file, and for a draft with a pickle of numbers that its embeddings
    need.
    """
    if adapters:
        what = "--base names the target of a draft, and no adapter is merged into a draft"
        raise UsageError(what, key="adapters", hint="leave --base or --adapter out")
    draft = open_source(spec, offline=offline, emit=emit)
    try:
        _require_draft(draft)
        beside = open_source(target, offline=offline, emit=emit, headers=True)
    except QuantkitError:
        draft.close()
        raise
    if beside.kind == "gguf":
        draft.close()
        beside.close()
        what = f"{shown(beside.name)} is a GGUF file: what a draft needs of its target stands in the checkpoint"
        raise UnsupportedError(what, key="base", hint="give the folder or the repository of that model: --base SRC")
    return DraftCheckpoint(draft, beside)


def _require_draft(found: Checkpoint) -> None:
    if found.kind == "gguf" or not text_family(found.config)[0].family.drafts:
        what = f"--base names the model of an adapter (--to lora-f16) or of a draft, and {found.name} is neither"
        raise UsageError(what, key="base", hint="leave --base out")
    folder = found.folder if isinstance(found, QuantizedCheckpoint) else found
    if isinstance(folder, FolderCheckpoint) and (folder.root / MASK_FILE).exists():
        what = f"{MASK_FILE} is a pickle, which can run code and is never loaded, and the embeddings need what it holds"
        raise UnsupportedError(what, path=MASK_FILE, hint="convert it with llama.cpp's convert_hf_to_gguf.py")
