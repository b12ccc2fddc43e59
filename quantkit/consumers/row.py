"""A row of the table of consumers, and what rows of several consumers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from quantkit.consumers.finders import Finder, layers, whole
from quantkit.formats.containers.compressed_tensors import Activations, CompressedLayout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.minifloat import Float8

CHECKED = date(2026, 11, 21)


@dataclass(frozen=True)
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


def packed(test: Callable[[Integers], bool]) -> Finder:
    """An objection to integers without rounded activations: pack-quantized."""
    return layers(
        CompressedLayout,
        lambda layout: isinstance(layout.scheme, Integers) and layout.activations == "none" and test(layout.scheme),
    )


def fp8(test: Callable[[Float8, Activations], bool]) -> Finder:
    """An objection to FP8 of compressed-tensors with such activations."""
    return layers(
        CompressedLayout,
        lambda layout: isinstance(layout.scheme, Float8) and test(layout.scheme, layout.activations),
    )


ZERO_IN_V1 = layers(
    GPTQLayout, lambda layout: layout.version == 1 and not layout.scheme.symmetric and layout.scheme.lowest_zero < 1
)
ZERO_REASON = "version 1 of GPTQ stores zero points less one: a zero point of 0 comes back as 2^{bits}"
ZERO_NEAREST = "zero points from 1 on, gptq_v2 (--to gptq-w4g128-asym), or symmetric codes (--to gptq-w4g128)"

MIXED = whole(lambda subject: len(subject.layouts) > 1 and subject.container != "compressed-tensors")
MIXED_REASON = "layers differ, and this container describes all of them with one set of bits and groups"
MIXED_NEAREST = 'container = "compressed-tensors", which has groups of layers'

HEAD = whole(lambda subject: subject.head_quantized and subject.container in ("gptq", "awq", "bitsandbytes"))
HEAD_NEAREST = "keep the output head as it is: --keep lm_head=bf16"

ROWS_REASON = "{rows:,} outputs cannot be cut for {tp} devices: {outputs} of them share a word or a scale"
COLS_REASON = "{cols:,} inputs cannot be cut for {tp} devices: {inputs} of them share a word or a scale"
HEADS_REASON = "{heads} heads cannot be shared by {tp} devices"
LOWER = "--tp {lower}"
