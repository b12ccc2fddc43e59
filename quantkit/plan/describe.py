"""A checkpoint described: family, tokenizer and tensors, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families.describe import describe
from quantkit.families.describe_gguf import describe_gguf
from quantkit.families.model import Model
from quantkit.families.rows import Family
from quantkit.source import Checkpoint
from quantkit.tokenizer.read import ReadFile, Tokenizer, read_tokenizer


def describe_source(checkpoint: Checkpoint, pre: str | None = None) -> Model:
    """The model in a checkpoint: through its family, or as a GGUF describes itself."""
    if checkpoint.kind == "gguf":
        return describe_gguf(checkpoint.tensors(), checkpoint.metadata)

    def tokenizer(read_file: ReadFile, config: Mapping[str, Any], family: Family, chosen: str | None) -> Tokenizer:
        return read_tokenizer(read_file, config, family.tokens, pre=chosen, names=checkpoint.file_names())

    return describe(
        checkpoint.tensors(),
        checkpoint.config,
        checkpoint.read_file,
        name=checkpoint.name,
        tokenizer=tokenizer,
        pre=pre,
    )
