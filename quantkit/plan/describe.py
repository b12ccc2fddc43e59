"""A checkpoint described: family, tokenizer and tensors, from headers, and the few numbers that become keys."""

from __future__ import annotations

from dataclasses import replace

from quantkit.errors import UsageError
from quantkit.families.describe import describe, require_fitting
from quantkit.families.drafts import mask_token
from quantkit.families.model import Model
from quantkit.families.rows import Family
from quantkit.families.towers import text_family
from quantkit.metadata import KeyValue
from quantkit.source import Checkpoint
from quantkit.tensors import TensorInfo
from quantkit.tokenizer.read import Tokenizer, read_tokenizer
from quantkit.untrusted import shown

MASK_KEY = "tokenizer.ggml.mask_token_id"
BESIDE = "the encoder belongs into a file of its own (mmproj)"


def describe_source(checkpoint: Checkpoint, pre: str | None = None) -> Model:
    """The model in a checkpoint: through its family, or as a GGUF or an adapter describes itself.

    `pre` overrides the pre-tokenizer. Raises UnsupportedError for what no family or tokenizer of llama.cpp describes
    and for weights that are quantized already, InputError for what is missing or contradicts itself.
    """
    tensors, config, read_file = checkpoint.tensors(), checkpoint.config, checkpoint.read_file
    if checkpoint.kind == "adapter":
        from quantkit.plan.adapter import describe_adapter  # few sources are adapters, GGUF files or drafts
        from quantkit.source.adapter_model import AdapterCheckpoint

        assert isinstance(checkpoint, AdapterCheckpoint)
        return describe_adapter(checkpoint)
    if checkpoint.kind == "gguf":
        from quantkit.families.describe_gguf import describe_gguf

        return describe_gguf(tensors, checkpoint.metadata)
    named, tower = text_family(config)
    require_fitting(config, tensors)
    tensors = {n: _with_values(checkpoint, i) if named.family.is_told(i) else i for n, i in tensors.items()}
    tokenizer = _tokenizer(checkpoint, named.family, pre)
    if tower is None:
        return describe(tensors, config, read_file, named, tokenizer, name=checkpoint.name)
    text = {name: info for name, info in tensors.items() if not tower.is_own(name)}
    model = describe(text, config, read_file, named, tokenizer, name=checkpoint.name)
    beside = dict.fromkeys((name for name in tensors if name not in text), BESIDE)
    return replace(model, dropped={**model.dropped, **beside})


def _tokenizer(checkpoint: Checkpoint, family: Family, pre: str | None) -> Tokenizer:
    """The tokenizer of a checkpoint; of a draft that borrows its target's that one, with the token that stands for what
    is drafted."""
    if not family.borrows:
        return read_tokenizer(
            checkpoint.read_file, checkpoint.config, family.tokens, pre=pre, names=checkpoint.file_names()
        )
    from quantkit.source.draft import DraftCheckpoint

    if not isinstance(checkpoint, DraftCheckpoint):
        what = f"{shown(checkpoint.name)} drafts for another model, whose tokenizer and layers the file has to name"
        raise UsageError(what, key="base", hint="name that model: --base SRC, as convert, plan and verify take it")
    target = checkpoint.target
    rules = text_family(target.config)[0].family.tokens
    found = read_tokenizer(target.read_file, target.config, rules, pre=pre, names=target.file_names())
    mask = mask_token(family.hparams(checkpoint.config))
    if mask is None:
        return found
    others = (kv for kv in found.metadata if kv.key != MASK_KEY)
    return replace(found, metadata=(*others, KeyValue(MASK_KEY, "u32", mask)))


def _with_values(checkpoint: Checkpoint, info: TensorInfo) -> TensorInfo:
    """A tensor of a few numbers, with them: whole ones as they are."""
    ref = checkpoint.ref(info.name)
    numbers = ref.read_packed(0, info.rows).view("<i8") if info.dtype == "I64" else ref.read(0, info.rows)
    return replace(info, values=tuple(numbers.reshape(-1).tolist()))
