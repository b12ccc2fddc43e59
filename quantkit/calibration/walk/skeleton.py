"""A model without weights: transformers' own code for everything around the blocks.

The model's class is built on the meta device, where parameters have shapes and no memory. Its blocks are replaced by
recorders, so that the model's own forward pass makes what a block is called with (masks, rotary embeddings, which may
differ from block to block), and applies its own final norm, head and soft caps to hidden states put in from outside.
"""

from __future__ import annotations

import copy
import inspect
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantkit.calibration.walk.carried import VECTOR, carried_by
from quantkit.calibration.walk.cycles import Cycles, cycles_of, stacks_of
from quantkit.calibration.walk.handing import HandedOn, all_of
from quantkit.calibration.walk.headed import KINDS, headed, one_table, positions_of
from quantkit.calibration.walk.lookups import look_up
from quantkit.calibration.walk.paired import SHARING, ask, is_paired, paired, predicted, with_distances
from quantkit.calibration.walk.settings import model_settings, sensible_settings
from quantkit.errors import InputError, UnsupportedError
from quantkit.families.describe import find_family
from quantkit.families.heads import stored_head
from quantkit.families.positions import last_position_of
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.untrusted import shown

# Blocks that give a tuple of so many, of which the first goes on.
GIVE_TUPLES = {
    "BambaDecoderLayer": 2, "BloomBlock": 2, "ChameleonDecoderLayer": 1, "ChameleonSwinDecoderLayer": 1,
    "FalconDecoderLayer": 2, "FalconH1DecoderLayer": 1, "Glm5NextTextDecoderLayer": 2, "GlmMoeDsaDecoderLayer": 2,
    "HYV4DecoderLayer": 2, "MptBlock": 2,
}  # fmt: skip
SLOPES = "alibi"  # Bloom's, one for each sequence and head: (sequences * heads, 1, tokens)
ALONE = ("indexer", "compressor")  # of attention that looks at every sequence by itself
BLOCKS = ("layers", "h", "blocks", "layer", "block")
STACKS = ("encoder", "transformer")  # parts that the blocks of BERT and DistilBERT lie in
OF_BLOCKS = "embed_tokens_per_layer"
MAX_BUFFER = 1 << 24  # values of a buffer that is computed: rotary frequencies have about a hundred


class Reached(Exception):
    """The last block's place was reached; nothing after it is wanted."""


@record
class Skeleton:
    """The model on the meta device. `blocks` are its blocks, whose places in `model` recorders have taken, and `steps`
    the numbers of those that a text goes through, in that order.

    `calls` holds, per thread, what the recorders saw and what they give back; `carried` is what blocks hand on where
    that is more than a hidden state, `cycles` how a text goes through them more than once. `positions` is how many
    tokens can be run at once, 0 for any number.
    """

    model: Any
    blocks: tuple[nn.Module, ...]
    steps: tuple[int, ...]
    calls: threading.local
    carried: HandedOn | None = None
    cycles: Cycles | None = None
    positions: int = 0

    @property
    def layers(self) -> Sequence[nn.Module]:
        layers = layers_of(self.model)
        assert layers is not None, "build_skeleton has seen to it"
        return layers

    def predicts_from(self, seqlen: int) -> int:
        """The first token of a window at which something is predicted: a decoder's, where an encoder reads the rest."""
        return 0 if self.carried is None else self.carried.anew(len(self.steps) - 1, seqlen).start

    @property
    def tables(self) -> tuple[nn.Embedding, ...]:
        """What is looked up by the ids of tokens: the embedding, and what gives vectors for the blocks."""
        further = getattr(decoder_of(self.model), OF_BLOCKS, None)
        embedding: nn.Embedding = self.model.get_input_embeddings()
        return (embedding,) if further is None else (embedding, further)

    @property
    def around(self) -> tuple[str, ...]:
        """The parameters beside the blocks, without the tables and the matrix of the head."""
        large = [f"{self.name_of(module)}.weight" for module in (*self.tables, self.model.get_output_embeddings())]
        inside = {id(parameter) for layer in self.layers for parameter in layer.parameters()}
        names = (name for name, parameter in self.model.named_parameters() if id(parameter) not in inside)
        return tuple(name for name in names if name not in large)

    def name_of(self, module: nn.Module) -> str:
        name: str = next(name for name, m in self.model.named_modules() if m is module)
        return name


def build_skeleton(checkpoint: Checkpoint) -> Skeleton:
    """The transformers model that config.json describes, without weights and without running foreign code.

    Raises UnsupportedError for an architecture that transformers or this module does not know, InputError for a
    config.json that makes no sense.
    """
    kind, settings = model_settings(checkpoint.config, checkpoint.tensors())
    family, _ = find_family(checkpoint.config)
    model = _build(kind, settings, vectors=family.embeds)
    model.eval()
    layers = layers_of(model)
    if layers is None:
        raise UnsupportedError(f"{type(model).__name__} has no list of blocks", hint="quantize without calibration")
    if is_paired(model) and stored_head(checkpoint.tensors()):
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))  # tied whatever config.json says
    blocks = tuple(copy.deepcopy(layer) for layer in layers)
    cycles = None if is_paired(model) else cycles_of(decoder_of(model))
    own = paired(model) if is_paired(model) else cycles
    steps = cycles.steps if cycles else tuple(range(len(blocks)))
    begins = own.begins if own else (0,)
    calls = threading.local()
    positions = last_position_of(family, family.numbers(checkpoint.config, checkpoint.tensors()))
    carried = own or carried_by(decoder_of(model).config, blocks)
    skeleton = Skeleton(model, blocks, steps, calls, carried, cycles, positions)
    for index, layer in enumerate(layers):
        record = partial(_record, calls, len(steps), begins)
        length, first = GIVE_TUPLES.get(type(layer).__name__), layers[max(n for n in (0, *begins) if n <= index)]
        if type(layer).__name__ in SHARING:
            if layer is first:
                look_up(layer, f"{skeleton.name_of(layer)}.", checkpoint, torch.device("cpu"))
            layer.forward = with_distances(record, first.get_submodule("layer.0.SelfAttention"))
        else:
            layer.forward = record if length is None else partial(_first, record, length)
    for table in skeleton.tables:
        table.padding_idx = None  # of the rows that are put in, which may be fewer
    return skeleton


def decoder_of(model: Any) -> Any:
    """The model without its head, in its attribute `model` where the class does not find it (Llama 4)."""
    found = model.get_decoder()
    return model.model if found is model else found


def layers_of(model: Any) -> Sequence[nn.Module] | None:
    """The blocks of a model, under any of the names that classes give them."""
    if is_paired(model):
        return *model.encoder.block, *model.decoder.block
    decoder = decoder_of(model)
    stacks = stacks_of(decoder)
    if stacks is not None:
        return stacks
    places = (decoder, *(getattr(decoder, part, None) for part in STACKS))
    lists = (getattr(place, name, None) for place in places for name in BLOCKS)
    return next((tuple(found) for found in lists if isinstance(found, nn.ModuleList)), None)


def cache_class(block: nn.Module) -> Any:
    """The class of the caches that a block takes: MiniMax, whose linear attention keeps a state, has one of its own."""
    from transformers import DynamicCache

    return getattr(sys.modules[type(block).__module__], "MiniMaxCache", DynamicCache)


def _build(kind: str, settings: Mapping[str, Any], *, vectors: bool) -> Any:
    """The model's class on the meta device, without the head of an encoder that gives `vectors`."""
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
    )

    kind = KINDS.get(kind, kind)
    if kind not in CONFIG_MAPPING:
        message = f'transformers does not know model_type "{shown(str(kind))}"'
        raise UnsupportedError(message, key="model_type", path="config.json", hint="update transformers")
    with sensible_settings():
        text = CONFIG_MAPPING[kind].sub_configs.get("text_config")  # of a model with vision that says all at its root
        config = text(**settings) if text else AutoConfig.for_model(kind, **settings)
        with torch.device("meta"):
            if not vectors and type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
                return one_table(
                    AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
                )
            if vectors or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
                return headed(config)
            return AutoModelForCausalLM.from_config(
                config,
                dtype=torch.float32,
                attn_implementation="sdpa" if _fuses(config, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]) else "eager",
                trust_remote_code=False,
            )


def _fuses(config: Any, model: Any) -> bool:
    """Whether fused attention is right: not with soft caps, nor with sinks, which only the eager code has."""
    return getattr(config, "attn_logit_softcapping", None) is None and getattr(model, "_supports_sdpa", True)


def _record(
    calls: threading.local, count: int, begins: tuple[int, ...], hidden: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Stands for a block at one of `count` steps: notes its arguments; passes its input on, or zeros where the
    embedding is seen at a later step; gives what was put in. At `begins` embeddings are seen."""
    if len(calls.arguments) in begins:
        calls.hidden.append(hidden)
    calls.arguments.append((args, kwargs))
    if len(calls.arguments) < count:
        return hidden if 0 in begins else torch.zeros_like(hidden)
    if calls.inject is None:
        raise Reached
    injected: Tensor = calls.inject
    return injected


def _first(record: partial[Tensor], length: int, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
    return (record(*args, **kwargs), *[None] * (length - 1))


@record
class Arguments:
    """What the block of step `index` is called with besides its input, which `carried` cuts where it is more than
    hidden states. They were seen with `batch` sequences; those of any number have the same. A block that looks at each
    `alone` is given them for every sequence."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    batch: int = 1
    carried: HandedOn | None = None
    index: int = 0
    alone: bool = False

    def call(self, block: nn.Module, rows: Tensor, more: Mapping[str, Any]) -> Tensor:
        """What the block gives for (batch, tokens, numbers); `more` comes before keywords that it is called with."""
        kwargs = {**self.kwargs, **more}
        slopes = kwargs.get(SLOPES)
        if slopes is not None:
            kwargs[SLOPES] = slopes[: len(slopes) // self.batch].repeat(len(rows), 1, 1)
        if self.alone:
            kwargs = {name: _for_each(value, len(rows)) for name, value in kwargs.items()}
        if self.carried is not None:
            return self.carried.through(self.index, partial(block, *self.args, **kwargs), rows)
        output = block(rows, *self.args, **kwargs)
        given: Tensor = output[0] if isinstance(output, tuple) else output
        return given

    def last(self, seqlen: int) -> int:
        """The last of the tokens that the block makes anew."""
        made = all_of(seqlen) if self.carried is None else self.carried.anew(self.index, seqlen)
        return int(made.stop) - 1


def _for_each(value: Any, count: int) -> Any:
    """An argument that was seen with one sequence, for `count` of them; whatever is of no sequence stays."""
    if isinstance(value, tuple):
        return tuple(_for_each(one, count) for one in value)
    if isinstance(value, Tensor) and value.ndim > 1 and len(value) == 1:
        return value.expand(count, *value.shape[1:])
    return value


@record
class Tokens:
    """Tokens (batch, seqlen): their ids, and the rows that they have in the tables in memory, which are shorter."""

    ids: Tensor
    rows: Tensor


def run_to_blocks(skeleton: Skeleton, tokens: Tokens) -> tuple[Tensor, tuple[Arguments, ...]]:
    """Tokens through embedding and whatever comes before the first block.

    Returns its input (batch, seqlen, hidden), or all that is carried, and every block's arguments. What is read before
    the blocks has to be in memory.
    """
    hidden, found = record_calls(skeleton, tokens.rows, use_cache=False)
    if skeleton.carried is None:
        return hidden, found
    vectors = [each.kwargs[VECTOR] for each in found] if skeleton.carried.vector else []
    return skeleton.carried.pack(hidden, tokens.ids, vectors), found


def run_on_to_blocks(skeleton: Skeleton, tokens: Tokens, **cache: Any) -> tuple[Tensor, tuple[Arguments, ...]]:
    """The same for tokens behind those that a cache has seen. Its blocks are called as the model calls them, in their
    order and each time anew: what the model keeps for them itself is not carried from one to the next."""
    hidden, found = record_calls(skeleton, tokens.rows, use_cache=True, **cache)
    if skeleton.carried is None:
        return hidden, found
    alone = skeleton.carried.alone()
    return alone.pack(hidden, tokens.ids), tuple(replace(each, carried=alone) for each in found)


def record_calls(skeleton: Skeleton, rows: Tensor, **settings: Any) -> tuple[Tensor, tuple[Arguments, ...]]:
    """The input of the first block as the model has it, and every block's arguments."""
    calls = skeleton.calls
    calls.arguments, calls.inject, calls.hidden = [], None, []
    with suppress(Reached):
        _ask(skeleton.model, rows, **settings)
    hidden: Tensor = calls.hidden[0] if len(calls.hidden) == 1 else torch.cat(calls.hidden, 1)
    found = tuple(_called(skeleton, step, len(rows), *said) for step, said in enumerate(calls.arguments))
    calls.arguments, calls.hidden = [], []
    return hidden, found


def _ask(model: Any, rows: Tensor, **settings: Any) -> None:
    if is_paired(model):
        ask(model, rows, **settings)
    else:
        decoder = decoder_of(model)
        decoder(input_ids=rows, **positions_of(decoder, rows), **settings)


def _called(skeleton: Skeleton, step: int, batch: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """Arguments of a block, by their names where some of them are carried."""
    block = skeleton.blocks[skeleton.steps[step]]
    attention = getattr(block, "self_attn", None)
    alone = batch == 1 and any(getattr(attention, name, None) is not None for name in ALONE)
    if skeleton.carried is None:
        return Arguments(args, kwargs, batch, alone=alone)
    names = list(inspect.signature(type(block).forward).parameters)[2:]  # after self and hidden states
    return Arguments((), {**dict(zip(names, args, strict=False)), **kwargs}, batch, skeleton.carried, step, alone)


def run_head(skeleton: Skeleton, hidden: Tensor) -> Tensor:
    """Output of the last block (1, tokens, hidden) to logits (1, tokens, vocabulary): norm, head, soft cap. The tokens
    need not be of one text, and may be more than the model has positions for."""
    count = hidden.shape[1]
    step = skeleton.positions or count
    return torch.cat([_through_head(skeleton, hidden[:, at : at + step]) for at in range(0, count, step)], 1)


def _through_head(skeleton: Skeleton, hidden: Tensor) -> Tensor:
    calls = skeleton.calls
    given = hidden if skeleton.carried is None else skeleton.carried.hidden_of(hidden)
    calls.arguments, calls.inject, calls.hidden = [], given, []
    ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    if is_paired(skeleton.model):
        calls.arguments = [((), {})] * len(skeleton.model.encoder.block)  # of blocks that are not asked
        return predicted(skeleton.model, given, ids)
    logits: Tensor = skeleton.model(input_ids=ids, use_cache=False).logits
    return logits


def set_parameter(root: nn.Module, name: str, value: Tensor) -> None:
    """Give a parameter of `root` a value, whatever its device and type were."""
    parent, _, attribute = name.rpartition(".")
    setattr(root.get_submodule(parent), attribute, nn.Parameter(value, requires_grad=False))


def fill_buffers(skeleton: Skeleton, root: nn.Module, device: torch.device) -> None:
    """Compute the buffers of `root` that no file holds (rotary frequencies, embedding scales), blocks left out.

    transformers builds every model on the meta device and then has each class fill its own buffers; so do we.
    Raises UnsupportedError for a buffer that the class does not fill.
    """
    inside = {id(module) for layer in skeleton.layers for module in layer.modules()}
    for module in root.modules():
        empty = {name: b for name, b in module.named_buffers(recurse=False) if b.is_meta}
        if not empty or id(module) in inside:
            continue
        for name, buffer in empty.items():
            if buffer.numel() > MAX_BUFFER:
                message = f"config.json: buffer {name} would have {buffer.numel():,} values"
                raise InputError(message, path="config.json", hint="download config.json again")
            blank = torch.empty_like(buffer, device=device)
            setattr(module, name, blank.fill_(torch.nan) if blank.is_floating_point() else blank.zero_())
        decoder_of(skeleton.model)._init_weights(module)
        if any(_is_unfilled(buffer) for name, buffer in module.named_buffers(recurse=False) if name in empty):
            _fill_as_layer(skeleton, root)
        for name, buffer in module.named_buffers(recurse=False):
            if name in empty and _is_unfilled(buffer):
                message = f"{type(skeleton.model).__name__}: buffer {name} of {type(module).__name__} has no value"
                raise UnsupportedError(message, hint="quantize without calibration data")


def _is_unfilled(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and bool(buffer.isnan().any())


def _fill_as_layer(skeleton: Skeleton, block: nn.Module) -> None:
    """Have the decoder fill what it fills in its layers, with `block` as the only one (Falcon-H1's multipliers)."""
    decoder = copy.copy(decoder_of(skeleton.model))
    decoder._modules = {"layers": nn.ModuleList([block])}
    decoder_of(skeleton.model)._init_weights(decoder)
