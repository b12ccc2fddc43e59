"""A checkpoint described: family, tokenizer and tensors, from headers alone."""

from __future__ import annotations

from quantkit.families.describe import describe, find_family, require_fitting
from quantkit.families.describe_gguf import describe_gguf
from quantkit.families.model import Model
from quantkit.source import Checkpoint
from quantkit.tokenizer.read import read_tokenizer


def describe_source(checkpoint: Checkpoint, pre: str | None = None) -> Model:
    """The model in a checkpoint: through its family, or as a GGUF describes itself.

    `pre` overrides the pre-tokenizer. Raises UnsupportedError for what no family or tokenizer of llama.cpp describes
    and for weights that are quantized already, InputError for what is missing or contradicts itself.
    """
    tensors, config, read_file = checkpoint.tensors(), checkpoint.config, checkpoint.read_file
    if checkpoint.kind == "gguf":
        return describe_gguf(tensors, checkpoint.metadata)
    named = find_family(config)
    require_fitting(config, tensors)
    tokenizer = read_tokenizer(read_file, config, named.family.tokens, pre=pre, names=checkpoint.file_names())
    return describe(tensors, config, read_file, named, tokenizer, name=checkpoint.name)
