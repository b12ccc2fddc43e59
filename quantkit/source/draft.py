"""A draft beside its target: the model whose tokens it proposes, and whose tokenizer it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from quantkit.errors import UnsupportedError, UsageError
from quantkit.events import Sink, ignore
from quantkit.families.drafts import TARGET
from quantkit.families.towers import text_family
from quantkit.records import record
from quantkit.source import open_source
from quantkit.source.base import Checkpoint, Over, SourceFile
from quantkit.source.folder import MASK_FILE, FolderCheckpoint
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.untrusted import shown


@record
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
    spec: str,
    target: str,
    *,
    offline: bool = False,
    emit: Sink = ignore,
    adapters: Sequence[str] = (),
    headers: bool = False,
) -> DraftCheckpoint:
    """Open a draft and its target, each as `open_source` does; of the target no weight is read or fetched, with
    `headers` none of the draft is fetched either before it is read.

    Raises what that raises, UsageError for a source that is no draft, for a target that is one, and for adapters, which
    are merged into none, UnsupportedError for a target that is a GGUF file, and for a draft with a pickle of numbers
    that its embeddings need.
    """
    if adapters:
        what = "--base names the target of a draft, and no adapter is merged into a draft"
        raise UsageError(what, key="adapters", hint="leave --base or --adapter out")
    with ExitStack() as opened:
        draft = opened.enter_context(closing(open_source(spec, offline=offline, emit=emit, headers=headers)))
        _require_draft(draft)
        beside = opened.enter_context(closing(open_source(target, offline=offline, emit=emit, headers=True)))
        _require_target(beside)
        opened.pop_all()
    return DraftCheckpoint(draft, beside)


def _require_target(found: Checkpoint) -> None:
    if found.kind == "gguf":
        what = f"{shown(found.name)} is a GGUF file: what a draft needs of its target stands in the checkpoint"
        raise UnsupportedError(what, key="base", hint="give the folder or the repository of that model: --base SRC")
    if text_family(found.config)[0].family.drafts:
        what = f"{shown(found.name)} is a draft itself, and no model that another one drafts for"
        raise UsageError(what, key="base", hint="give the model that runs beside the draft: --base SRC")


def _require_draft(found: Checkpoint) -> None:
    if found.kind == "gguf" or not text_family(found.config)[0].family.borrows:
        what = f"--base names the model of an adapter (--to lora-f16) or of a draft, and {shown(found.name)} is neither"
        raise UsageError(what, key="base", hint="leave --base out")
    folder = found.folder if isinstance(found, QuantizedCheckpoint) else found
    if isinstance(folder, FolderCheckpoint) and (folder.root / MASK_FILE).exists():
        what = f"{MASK_FILE} is a pickle, which can run code and is never loaded, and the embeddings need what it holds"
        raise UnsupportedError(what, path=MASK_FILE, hint="convert it with llama.cpp's convert_hf_to_gguf.py")
