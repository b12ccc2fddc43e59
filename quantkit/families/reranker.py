"""Qwen3 rerankers: language models that answer "yes" or "no", of whose output head two rows are used.

llama.cpp's rank pooling multiplies the last hidden state by `cls.output.weight` (row 0 "yes", row 1 "no") and takes
the softmax. The reference converter (conversion/qwen.py, Qwen3Model, October 2026) knows such a model by its name
only: of the folder, in config.json, or in the heading of its card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import InputError
from quantkit.families.general import ReadFile
from quantkit.families.keys import LABELS
from quantkit.families.model import ModelTensor, Rows
from quantkit.families.roles import Role
from quantkit.metadata import KeyValue

NAMES = ("qwen3-reranker", "qwen3-vl-reranker")
CARD = "README.md"

TOKENS = "tokenizer.ggml.tokens"
TEMPLATE, TEMPLATES = "tokenizer.chat_template.rerank", "tokenizer.chat_templates"

# The prompt that Qwen publishes for these models, in the form in which llama.cpp fills it in.
PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def is_reranker(name: str, config: Mapping[str, Any], read_file: ReadFile) -> bool:
    """Whether a Qwen3 checkpoint called `name` is one of these, by the rule of the reference converter."""
    hints = " ".join(str(hint).lower() for hint in (name, config.get("_name_or_path"), config.get("model_type")))
    card = (read_file(CARD) or b"").decode("utf-8", "replace").lower()
    return any(known in hints or f"# {known}" in card for known in NAMES)


def judging(
    tensors: Iterable[ModelTensor], vocabulary: tuple[KeyValue, ...]
) -> tuple[tuple[ModelTensor, ...], tuple[KeyValue, ...]]:
    """The tensors and the tokenizer's metadata of a language model as those of a reranker.

    The two rows are taken from the output head, which is left out, or from the embeddings where they are tied.
    Raises InputError for a vocabulary without the two tokens.
    """
    found = {tensor.name: tensor for tensor in tensors}
    head = found.get("output.weight", found["token_embd.weight"])
    source = head.parts[0].source
    assert source is not None and len(head.parts) == 1 and head.row_order is None, head.name
    ids = [_token(vocabulary, label) for label in LABELS]
    rows = tuple(Rows(source.tensor, source.start + i, source.start + i + 1) for i in ids)
    output = ModelTensor("cls.output.weight", Role.OTHER, (len(rows), head.shape[-1]), rows)
    kept = (tensor for name, tensor in found.items() if name != "output.weight")
    return (output, *kept), (*vocabulary, *_prompts(vocabulary))


def _token(vocabulary: Iterable[KeyValue], label: str) -> int:
    tokens = next((kv.items() for kv in vocabulary if kv.key == TOKENS), ())
    if label not in tokens:
        what = f'a reranker answers "yes" or "no", and the vocabulary has no token "{label}"'
        raise InputError(what, key="vocab", hint="is this the tokenizer of the model?")
    return list(tokens).index(label)


def _prompts(vocabulary: Iterable[KeyValue]) -> tuple[KeyValue, ...]:
    prompt = KeyValue(TEMPLATE, "string", PROMPT)
    if any(kv.key == TEMPLATES for kv in vocabulary):
        return (prompt,)
    return (KeyValue(TEMPLATES, "string", ("rerank",), array=True), prompt)
