"""In which blocks a row stands, and of which kind each block is: what families with unlike blocks say of them.

A `Layers` is asked for the number of a block. Tensors and the keys that have an entry for every block are both made
from the same ones, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import isfinite
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.hparams import CONFIG_HINT, LAYERS, MAX_LAYERS, Hparams
from quantkit.records import record
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

Layers = Callable[[Hparams, int], bool]
Derive = Callable[[Hparams], Mapping[str, Any]]
Seen = Callable[[Hparams, Mapping[str, TensorInfo]], Mapping[str, Any]]

KINDS = "layer_kinds"  # the derived list of the kinds of a model's layers
TRUNK, BLOCKS = LAYERS, "blocks"
PER_STACK = "num_layers_per_stack"
TWO_STACKS = "two_stacks"  # the blocks behind the trunk are a second stack of layers
PASSES = "passes"  # through layers, where a text goes through them more than once
STATES = "states"  # hidden states of a token that are handed on there
HELD = "held_states"  # those that a walk holds which sees every layer once
DECODER_LAYERS = "num_decoder_layers"
DECODING = "decoding_blocks"  # of a decoder that reads what the trunk, an encoder, gives
TOLD_DTYPE, MAX_TOLD = "I64", 1 << 16  # of a tensor that is a list of whole numbers


def every(hparams: Hparams, layer: int) -> bool:
    """In all blocks."""
    return True


def kind(*names: str) -> Layers:
    """In layers of these kinds. Blocks after the last layer are of none."""

    def holds(hparams: Hparams, layer: int) -> bool:
        kinds = hparams.values[KINDS]
        return layer < len(kinds) and kinds[layer] in names

    return holds


def before(count: str) -> Layers:
    """In the first blocks, as many as the number called `count` says; none where there is no such number."""
    return lambda hparams, layer: layer < (hparams.number(count) or 0)


def from_(count: str) -> Layers:
    """In all blocks but the first `count`."""
    return not_(before(count))


def not_(where: Layers) -> Layers:
    return lambda hparams, layer: not where(hparams, layer)


def both(*wheres: Layers) -> Layers:
    return lambda hparams, layer: all(where(hparams, layer) for where in wheres)


def either(*wheres: Layers) -> Layers:
    return lambda hparams, layer: any(where(hparams, layer) for where in wheres)


def flagged(name: str) -> Layers:
    """In all blocks of a model whose flag `name` is set, in none of others."""
    return lambda hparams, layer: hparams.flag(name)


def flagged_layer(name: str) -> Layers:
    """In blocks where the flag called so is set among the numbers of the block."""
    return lambda hparams, layer: hparams.of_layer(layer).flag(name)


def of_period(period: str | int, place: str | int = 0) -> Layers:
    """In the layer of number `place` of every `period` ones: numbers, or the names of such."""

    def holds(hparams: Hparams, layer: int) -> bool:
        every_so_many = period if isinstance(period, int) else hparams.count(period)
        first = place if isinstance(place, int) else int(hparams.number(place) or 0)
        return layer % every_so_many == first % every_so_many

    return holds


def period_of(layers: Collection[int], count: int) -> tuple[int, int]:
    """The shortest period and the place by which `of_period` gives these of `count` layers; for none, a place behind
    them. Raises UnsupportedError where no period does."""
    if not layers:
        return count + 1, count
    place = min(layers)
    for period in range(place + 1, count + 1):
        if set(range(place, count, period)) == set(layers):
            return period, place
    what = f"{len(layers):,} of {count:,} layers, first {place}, follow no period"
    raise UnsupportedError(what, key="layers", hint="start from the checkpoint that the file was made of")


IN_TRUNK, AFTER_TRUNK = before(TRUNK), from_(TRUNK)  # AFTER_TRUNK: blocks that predict further tokens


def block_count(hparams: Hparams) -> int:
    """The blocks of the target: the layers, and those after them that predict further tokens."""
    return hparams.count(BLOCKS if BLOCKS in hparams.values else TRUNK)


def layers_end(hparams: Hparams) -> int:
    """Where blocks that predict further tokens begin: behind the trunk, or behind the second of `TWO_STACKS`."""
    return block_count(hparams) if hparams.flag(TWO_STACKS) else trunk_of(hparams)


def trunk_of(hparams: Hparams) -> int:
    """The layers that a prompt goes through."""
    return hparams.count(TRUNK)


def listed(key: str, known: Mapping[str, str]) -> Derive:
    """The kinds of layers from a list of config.json, an entry for each layer; `known` maps its words to kinds.

    Raises InputError for a list of another length, and for a word that is not known.
    """

    def derive(hparams: Hparams) -> Mapping[str, Any]:
        said = hparams.values.get(key)
        count = hparams.count(TRUNK)
        if not isinstance(said, list) or len(said) != count:
            found = f"has {len(said):,} entries" if isinstance(said, list) else "is missing"
            raise _bad(key, f"{found}, expected one for each of {count} layers")
        for layer, word in enumerate(said):
            if not isinstance(word, str) or word not in known:
                raise _bad(key, f'says "{shown(str(word))}" for layer {layer}, known are {", ".join(known)}')
        return {KINDS: [known[word] for word in said]}

    return derive


def lettered(key: str, known: Mapping[str, str]) -> Derive:
    """The same from a text with a letter for each layer."""
    read = listed(key, known)

    def derive(hparams: Hparams) -> Mapping[str, Any]:
        said = hparams.values.get(key)
        letters = list(said[: MAX_LAYERS + 1]) if isinstance(said, str) else said
        return read(Hparams({**hparams.values, key: letters}))

    return derive


def numbered(key: str, name: str, otherwise: str) -> Derive:
    """Layers of kind `name` where a list of their numbers, from 0, says so: all layers where config.json has none.

    Raises InputError for an entry that is no number of a layer.
    """

    def derive(hparams: Hparams) -> Mapping[str, Any]:
        count = hparams.count(TRUNK)
        said = hparams.values.get(key)
        if said is not None and not (isinstance(said, list) and all(type(n) is int and 0 <= n < count for n in said)):
            raise _bad(key, f"is {shown(repr(said)[:80])}, expected numbers of layers, 0 to {count - 1}")
        chosen = None if said is None else frozenset(said)
        return by_rule(name, lambda hparams, layer: chosen is None or layer in chosen, otherwise)(hparams)

    return derive


def by_rule(name: str, where: Layers, otherwise: str) -> Derive:
    """Layers of kind `name` where `where` holds, of kind `otherwise` elsewhere."""

    def derive(hparams: Hparams) -> Mapping[str, Any]:
        return {KINDS: [name if where(hparams, layer) else otherwise for layer in range(hparams.count(TRUNK))]}

    return derive


def first_said(key: str, said: Derive, otherwise: Derive) -> Derive:
    """What `said` makes of the key where config.json has it, else what `otherwise` makes."""
    return lambda hparams: (said if hparams.values.get(key) is not None else otherwise)(hparams)


def further(marker: str, claimed: str) -> Seen:
    """The blocks after the last layer that are there: those that have the tensor `marker`, a name as rows have it.

    `marker` has "{}" for the number of a block. config.json claims `claimed` of them; what counts is what is there, all
    of them or none. Sets "blocks" and `claimed`, unless nothing is there and nothing claimed. Raises InputError where
    some are missing.
    """

    def seen(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
        trunk, said = trunk_of(hparams), int(hparams.number(claimed) or 0)
        start, _, end = marker.partition("{}")
        texts = (name[len(start) : -len(end)] for name in tensors if name.startswith(start) and name.endswith(end))
        numbers = {int(text) for text in texts if text.isdecimal() and len(text) < 7}
        found = {number for number in numbers if number >= trunk}
        missing = next((n for n in range(trunk, trunk + max(said, len(found))) if n not in found), None)
        if found and missing is not None:
            name = marker.format(missing)
            raise _bad(claimed, f'is {said}, {len(found)} such blocks are there, and the checkpoint has no "{name}"')
        unsaid = hparams.values.get(claimed) is None and not found
        return {BLOCKS: trunk + len(found), **({} if unsaid else {claimed: len(found)})}

    return seen


def turned(flag: str, stacks: Mapping[str, tuple[str, str]]) -> Seen:
    """Whether the matrices of experts are stacked as (in, out), where loaders expect (out, in). Sets `flag`.

    `stacks` are names as rows have them, "{}" for the number of a block, with the last two axes of a turned stack. Of a
    square one both are right: the others decide, which cannot all be square. Shapes that are neither are left to the
    rows. Raises InputError where stacks contradict each other.
    """

    def seen(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
        found: dict[bool, str] = {}
        for name, axes in stacks.items():
            lying = tuple(hparams.size(axis) for axis in axes)
            start, _, end = name.partition("{}")
            for tensor, info in tensors.items():
                if tensor.startswith(start) and tensor.endswith(end) and lying[0] != lying[1]:
                    last = info.shape[-2:]
                    found |= {which: info.name for which in (True, False) if last == lying[:: 1 if which else -1]}
        if len(found) == 2:
            what = f'the experts of "{found[True]}" are stacked as (in, out), those of "{found[False]}" as (out, in)'
            raise InputError(what, tensor=found[True], hint="the shards are of two ways of saving one model")
        return {flag: True in found}

    return seen


@record
class Told:
    """A number that a tensor of every layer holds, and the file among its keys: `source` is the tensor's name as rows
    have it, with "{}" for the layer, `name` that of the list of numbers.

    Where headers alone are read there is no such list. Raises InputError for a layer without the tensor, for a tensor
    that holds more than one number, and for a number that is not finite.
    """

    source: str
    name: str

    def reads(self, info: TensorInfo) -> bool:
        """Whether the number of a tensor is looked at."""
        return info.dtype != TOLD_DTYPE and info.elements == 1

    def __call__(self, hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
        found: list[float] = []
        for layer in range(trunk_of(hparams)):
            name = self.source.format(layer)
            info = tensors.get(name)
            if info is None:
                message = f'the checkpoint has no tensor "{name}", whose number the file has among its keys'
                raise InputError(message, tensor=name, hint="is a shard missing, or config.json of another model?")
            values = info.values if info.values is not None else (0.0,) * min(info.elements, 2)
            if len(values) != 1 or not isfinite(values[0]):
                message = f'tensor "{info.name}" of shape {list(info.shape)} is not one finite number'
                raise InputError(
                    message, tensor=info.name, hint="config.json and the weights are not of the same model"
                )
            found += values if info.values is not None else ()
        return {self.name: found} if found else {}


@record
class ToldNumbers:
    """Whole numbers that a tensor of int64 holds, and the file among its keys: `source` is the tensor's name as rows
    have it, with "{}" for the layer, `name` that of the list of numbers, `where` the one layer that has it, if any, and
    `count` that of how many there are, where something says it.

    Where headers alone are read there is no such list. Raises InputError for a missing tensor, for numbers below zero,
    and for more or fewer than there should be, UnsupportedError for a tensor whose numbers are not looked at.
    """

    source: str
    name: str
    where: Layers
    count: str | None = None

    def reads(self, info: TensorInfo) -> bool:
        """Whether the numbers of a tensor are looked at."""
        return info.dtype == TOLD_DTYPE and 0 < info.elements <= MAX_TOLD

    def __call__(self, hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
        layer = next((layer for layer in range(trunk_of(hparams)) if self.where(hparams, layer)), None)
        if layer is None:
            return {}
        name = self.source.format(layer)
        if name not in tensors:
            message = f'the checkpoint has no tensor "{name}", whose numbers the file has among its keys'
            raise InputError(message, tensor=name, hint="is a shard missing, or config.json of another model?")
        values, there = tensors[name].values or (), tensors[name].elements
        if self.count is not None and there != hparams.count(self.count):
            said = f"config.json says {hparams.count(self.count):,} ({self.count})"
            message = f'tensor "{name}" has {there:,} numbers, {said}'
            raise InputError(message, tensor=name, hint="config.json and the weights are not of the same model")
        if not self.reads(tensors[name]):
            message = f'tensor "{name}" is {there:,} numbers of {tensors[name].dtype}'
            raise UnsupportedError(message, tensor=name, hint=f"save it as {TOLD_DTYPE}, of up to {MAX_TOLD:,} numbers")
        if any(value < 0 for value in values):
            message = f'tensor "{name}" has numbers below zero'
            raise InputError(message, tensor=name, hint="config.json and the weights are not of the same model")
        return {self.name: list(values)} if values else {}


def _bad(key: str, what: str) -> InputError:
    return InputError(f"config.json: {key} {what}", key=key, path="config.json", hint=CONFIG_HINT)
