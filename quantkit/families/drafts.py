"""Drafts: small models that propose what another one may say next, from hidden states of that one.

A draft has no tokenizer of its own: it is converted beside its target, the model that it drafts for, whose config.json
says the rest of its numbers (`source.draft`). Source: conversion/llama.py and conversion/qwen.py of llama.cpp, October
2026.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quantkit.errors import InputError
from quantkit.families.hparams import MAX_LAYERS, Hparams, bad_value
from quantkit.families.layers import TRUNK, ToldNumbers
from quantkit.families.model import Constant, ModelTensor
from quantkit.families.roles import Role
from quantkit.families.rows import Drop

TARGET = "drafts_for"  # in config.json as a draft's families see it: what that of the target says
DRAFTED, VOCABULARY, OFFSETS = "draft_vocab_size", "vocab_size", "draft_offsets"
MASK = "mask_token_id"  # the number of the token that stands for what is to be drafted
UNSERVED = "it drafts for another model, from whose hidden states it computes"
LEFT_OUT = (
    Drop("t2d", "the table from draft to target says the same"),
    Drop("d2t", "it is written as tokens of the target, not as distances to them"),
)
MIXED_UP = "the draft was made for another model: name its own with --base"


def any_target_of(hparams: Hparams) -> Hparams | None:
    """The numbers of the target's config.json, None where a draft is seen alone."""
    told = hparams.values.get(TARGET)
    return Hparams(told) if isinstance(told, Mapping) else None


def target_of(hparams: Hparams) -> Hparams | None:
    """The same of a draft that says how many tokens there are. Raises InputError for a target with others."""
    target = any_target_of(hparams)
    if target is None:
        return None
    tokens, own = target.count(VOCABULARY), hparams.count(VOCABULARY)
    if tokens != own:
        what = f"the draft is for a vocabulary of {own:,} tokens, that of the target has {tokens:,}"
        raise InputError(what, key=VOCABULARY, path="config.json", hint=MIXED_UP)
    return target


def numbers_of_layers(values: object, key: str) -> list[int]:
    """A list of numbers of layers. Raises InputError naming the key for anything else."""
    if not (isinstance(values, list) and values and all(type(n) is int and 0 <= n < MAX_LAYERS for n in values)):
        raise bad_value(key, values, "a list of numbers of layers")
    return values


def require_states(target: Hparams | None, layers: Sequence[int], width: int, key: str) -> None:
    """Raise InputError naming the key where a target has not the hidden states that a draft reads: what goes into the
    layers of these numbers and comes out of the last, each of so many numbers. None: no target is known."""
    if target is None:
        return
    count, hidden = target.count(TRUNK), target.count("hidden_size")
    what = None
    if max(layers) > count:
        what = f"the draft reads layers {layers} of its target, this one has {count}"
    elif width != hidden:
        what = f"the draft reads hidden states of {width:,} numbers, those of the target have {hidden:,}"
    if what is not None:
        raise InputError(what, key=key, path="config.json", hint=MIXED_UP)


def mask_token(hparams: Hparams) -> int | None:
    """The number of the token that stands for what is to be drafted, None where there is none.

    Raises InputError for what is no token of the vocabulary.
    """
    value = hparams.values.get(MASK)
    if value is not None and not (type(value) is int and 0 <= value < hparams.count(VOCABULARY)):
        raise bad_value(MASK, value, f"a token of the vocabulary of {hparams.count(VOCABULARY):,}")
    return value


def drafted(hparams: Hparams) -> Mapping[str, Any]:
    """How many tokens can be drafted: those of the target, where nothing else is said."""
    return {DRAFTED: hparams.count(DRAFTED if hparams.values.get(DRAFTED) else VOCABULARY)}


def is_reduced(hparams: Hparams) -> bool:
    """Whether a part of the target's tokens is drafted alone."""
    return hparams.count(DRAFTED) < hparams.count(VOCABULARY)


OFFSETS_SEEN = ToldNumbers("d2t", OFFSETS, lambda hparams, layer: layer == 0 and is_reduced(hparams), DRAFTED)


def drafted_tokens(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """The tokens of the target that are drafted, in the order of the draft's head; nothing where all are.

    Checkpoints say how far each is from its place. Raises InputError for tokens that stand there twice or that the
    target has not.
    """
    if not is_reduced(hparams):
        return ()
    count, most = hparams.count(DRAFTED), hparams.count(VOCABULARY)
    tokens = np.arange(count) + (hparams.values.get(OFFSETS) or 0)
    if tokens.max() >= most or len(np.unique(tokens)) != count:
        what = f'"d2t" has tokens twice, or some beyond the vocabulary of {most:,}'
        raise InputError(what, tensor="d2t", hint="config.json and the weights are not of the same model")
    table = Constant(tuple(map(float, tokens)))
    return (ModelTensor("d2t", Role.OTHER, (count,), (table,), stored="i64"),)
