"""A row of the table of consumers, and what rows of several consumers share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

from quantkit.consumers.finders import FLOATS, GPTQ, PACKED, Finder, layers, shapes, whole
from quantkit.consumers.subject import Subject
from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.qtypes.schemes.base import Traits

CHECKED = date(2026, 11, 21)


@record
class Rule:
    """One row. `finds` looks for what `consumer` refuses; where `refuses` is False it loads, and there is a catch.

    `name` is unique among the rules of a consumer.
    """

    consumer: str
    name: str
    finds: Finder
    reason: str
    nearest: str
    source: str
    refuses: bool = True
    checked_on: date = CHECKED


# T5 and its kin, as config.json and general.architecture of GGUF call them.
T5 = frozenset({
    "T5ForConditionalGeneration", "T5WithLMHeadModel", "MT5ForConditionalGeneration", "UMT5ForConditionalGeneration",
    "UMT5Model", "T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel", "t5", "t5encoder",
})  # fmt: skip
# Encoders that are rounded, as config.json calls them.
ENCODERS = frozenset({
    f"{kind}{head}" for kind in ("Bert", "DistilBert", "Roberta", "XLMRoberta", "ModernBert", "EuroBert")
    for head in ("Model", "ForMaskedLM", "ForSequenceClassification")
} | {"BertForPreTraining", "CamembertModel", "JinaEmbeddingsV5Model"})  # fmt: skip
# Whose matrices files have as (in, out).
TURNED = frozenset({"GPT2LMHeadModel"})
UNTRIED_REASON = "rounded encoders were not tried with it"
UNTRIED_NEAREST = "--to hf-bf16"
T5_REASON = "it has no model of {architecture}"
DRAFT_REASON = "a draft runs beside its target alone, which was not tried with it"
DRAFT_NEAREST = "a GGUF file beside its target (--to q8_0 --base TARGET)"
GGUF_NEAREST = "a GGUF file (--to q8_0)"
T5_NEAREST = "another program (--for transformers)"


def drafting(test: Callable[[Subject], bool] = lambda subject: True) -> Finder:
    """An objection to a checkpoint of a draft."""
    return whole(lambda subject: subject.drafts and subject.container != "gguf" and test(subject))


def packed(test: Callable[[Traits], bool] = lambda traits: True) -> Finder:
    """An objection to integers without rounded activations."""
    return layers(PACKED, test)


def fp8(test: Callable[[Traits], bool]) -> Finder:
    """An objection to FP8 of compressed-tensors."""
    return layers(FLOATS, test)


def turned(formats: frozenset[str], end: str = "") -> Finder:
    """An objection to a rounded layer, of a name with this end, that plain files have as (in, out)."""
    found = shapes(lambda m, tp: m.stored_as(formats) and m.name.endswith(end))
    return lambda subject, tp: found(subject, tp) if subject.architecture in TURNED else None


ZERO_IN_V1 = layers(GPTQ, lambda it: it.format == "gptq" and not it.symmetric and it.lowest_zero < 1)
ZERO_REASON = "version 1 of GPTQ stores zero points less one: a zero point of 0 comes back as 2^{bits}"
ZERO_NEAREST = "zero points from 1 on, gptq_v2 (--to gptq-w4g128-asym), or symmetric codes (--to gptq-w4g128)"

MIXED = whole(lambda subject: len(subject.layouts) > 1 and subject.container != "compressed-tensors")
MIXED_REASON = "layers differ, and this container describes all of them with one set of bits and groups"
MIXED_NEAREST = 'container = "compressed-tensors", which has groups of layers'

MLX_REASON = "it does not read checkpoints of MLX, whose configuration names no method"
MLX_NEAREST = "a checkpoint for servers (--to w4a16)"

HEAD = whole(lambda subject: subject.head_quantized and subject.container in ("gptq", "awq", "bitsandbytes"))
HEAD_NEAREST = "keep the output head as it is: --keep lm_head=bf16"

ROWS_REASON = "{rows:,} outputs cannot be cut for {tp} devices: {outputs} of them share a word or a scale"
COLS_REASON = "{cols:,} inputs cannot be cut for {tp} devices: {inputs} of them share a word or a scale"
HEADS_REASON = "{heads} heads cannot be shared by {tp} devices"
LOWER = "--tp {lower}"
