"""What a model family is: one row, and the pieces that rows share.

A family says which source tensor becomes which target tensor, in what shape, role and order of rows, which metadata
keys are written, how its tokenizer is read and where scales can be moved. Source names are what `save_pretrained` and
the Hub use; target names, and the choice of placements, are llama.cpp's (gguf-py/gguf/tensor_mapping.py and
conversion/*.py, October 2026). The rows themselves stand in `families.known`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from fnmatch import fnmatchcase
from typing import Any

from quantkit.families import assumptions, keys
from quantkit.families.alone import Alone
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams, merged, nested_part, read_hparams
from quantkit.families.layers import Derive, Layers, Seen, Told, ToldNumbers, block_count, every, trunk_of
from quantkit.families.model import ModelTensor
from quantkit.families.placements import Place, expert, gate_half, rope_rows, up_half, whole
from quantkit.families.roles import Role
from quantkit.families.spellings import AS_IN_MEMORY, Published, Rename
from quantkit.records import record
from quantkit.tensors import TensorInfo

ALWAYS, PRESENT = "always", "present"
SOURCE_BLOCK, TARGET_BLOCK = "model.layers.{}.", "blk.{}."
NUMBER = re.compile(r"(?<=\.)[0-9]{1,6}(?=\.)")
BARE = ("embed_tokens.", "layers.", "norm.")


@record
class T:
    """Source tensor -> target tensor.

    In a block's rows both names are relative to the block, and "{}" in `source` is the number of an expert, or of
    whatever `index` counts. `shape` names the source's axes by `Hparams` numbers or expressions of them
    ("heads*(nope+v) hidden_size"), or is the number itself ("1 hidden_size"), or ANY.

    `bias` says that a bias may go with the weight: the name of the configuration flag that makes it mandatory, ALWAYS,
    PRESENT where nothing but the tensors says so, or None for no bias at all. The tensor itself is mandatory in the
    blocks where the row stands (`where`), unless the flag `unless` is set, or it is `optional`: then the tensors alone
    say whether it is there, but in the blocks `sure`, where it has to be. `add` is added to every value.

    `value` is what else becomes of a value: "-exp" (x becomes -exp(x)), "unit" (of rows of length 1), "softplus",
    "centered" (without the mean of all), "ternary" (see `parts.Mapped`), or "*" and an expression to multiply by, or
    "<" and one that numbers of a table are below; of several, with spaces between, each is rounded to float32. Of a
    target that is joined from several sources, or from ranges of one, `total` is the shape and `order` the place of
    this one's rows. `f32` says whether it stays f32 where the name alone would say otherwise, `stored` of which type it
    is in every file. Of values that are `limits` of others infinity is none; outside blocks `where` sees block 0.
    """

    source: str
    target: str
    role: Role
    shape: str
    place: Place = whole
    bias: str | None = None
    unless: str | None = None
    add: float = 0.0
    where: Layers = every
    optional: bool = False
    sure: Layers | None = None
    index: str = "num_local_experts"
    value: str | None = None
    total: str | None = None
    order: int = 0
    f32: bool | None = None
    stored: str | None = None
    limits: bool = False


@record
class Stack:
    """Rows of many blocks alike: names with "{}" for a block's number, how many there are, and how many come before."""

    source: str
    target: str
    count: Callable[[Hparams], int]
    rows: tuple[T, ...]
    before: Callable[[Hparams], int] = lambda hparams: 0


@record
class Condition:
    """Whether a row is the one of a checkpoint, asked of the language model's part of config.json; `text` says it."""

    text: str
    holds: Callable[[Mapping[str, Any]], bool]


@record
class Drop:
    """Source tensors (a shell pattern) left out on purpose; only while the flag `when` is set, if it names one.

    `where` are the blocks in which this holds although a row of the same name stands in others, `in_memory` is what
    transformers calls the part where that is no name of a file; `told`: the model does with them what no file does.
    """

    pattern: str
    reason: str
    when: str | None = None
    where: Layers | None = None
    in_memory: str | None = None
    told: bool = False


@record
class TokenizerRules:
    """How a family reads a tokenizer.

    `prefix_setting`: add_space_prefix is what tokenizer_config.json calls add_prefix_space; `no_prefix`: a
    SentencePiece vocabulary puts no space first; `said_prefix`: the file says, too, where it puts one; `phi`: added
    tokens of tokenizer.json count beside a tokenizer.model, and the class GPT2Tokenizer means byte-level; `slow`: the
    class of a vocab.json with merges.txt where tokenizer_config.json names none.

    `ids` are special tokens by kind that the files need not name, `named` those that are always the token of a text;
    `no_bos`: no BOS is added unless the files say so, `adds_bos`: it is added whatever they say; `both_ends` is the
    token that is BOS and EOS where the vocabulary has it, `chat_end` that which is EOS, whatever the files say;
    `end_key` is the key of config.json that has the id of what ends a text, and says that the first of several ends in
    generation_config.json ends a turn; `turn_end`: the first of several ends in config.json that is not BOS ends a
    turn; `control` are texts of tokens that are control tokens, whatever the files call them.

    `pieces`: WordPiece and Unigram are read too; `counted`: the file says how many types of token the model tells
    apart; `framed`: BOS, EOS and SEP are put around texts where no file says otherwise; `gemma4`: the vocabulary is
    Gemma 4's kind; `own`: it is in a file of its own, of this kind ("rwkv", "plamo2"); `suppressed`:
    generation_config.json names tokens that are never chosen. `template` is how a chat is written where no file says
    it, or whatever files say if it `wins`.
    """

    prefix_setting: bool = False
    no_prefix: bool = False
    said_prefix: bool = False
    phi: bool = False
    slow: str | None = None
    ids: Mapping[str, int] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    no_bos: bool = False
    adds_bos: bool = False
    both_ends: str | None = None
    chat_end: str | None = None
    end_key: str | None = None
    turn_end: bool = False
    control: tuple[str, ...] = ()
    pieces: bool = False
    own: str | None = None
    counted: bool = False
    framed: bool = False
    gemma4: bool = False
    template: str | None = None
    template_wins: bool = False
    suppressed: bool = False


@record
class Family:
    """One model family: all that quantkit knows of it.

    `hf` are the architectures of config.json that it serves. `defaults` are, for each of its model types, what
    transformers fills in where config.json is silent (None: derived, see `hparams.read_hparams`); the first model type
    counts where config.json names none. `strip` is cut out of source names, `inside` names the model without its head
    where that is not NAMEModel for NAMEForCausalLM. `extra` makes the tensors that come from the configuration.
    `assumes` are what llama.cpp takes for granted of it. `folds` say where scales can be moved, `tokens` how its
    tokenizer is read. `computes` are keys of config.json, beside those that families share
    (`calibration.walk.settings`), that the model computes with; `reranks`: some are rerankers (`families.reranker`).

    Of an architecture with several rows, each says `when` it is the one. `block` are the rows of its layers, called
    `source_block` in the source; `stacks` further ones with names of their own. `spellings` bring other spellings of
    names into this one, `aliases` those of numbers; `published` is how files spell what transformers has under other
    names in memory. `derive` makes numbers from numbers, in order; `seen` from the tensors that are there.
    `skips_further` says why blocks after the last layer that config.json counts as `num_nextn_predict_layers` are left
    out, where they are. `unserved` says why it is neither run by transformers here nor written for servers, where it is
    not; `unwalked` why it is written for servers, and not run. `renamed` is what loaders call linears that stay, "{}"
    for the layer, where that is no name of the checkpoint. `embeds` says that it gives vectors or scores and no text.
    `back` are keys that are computed here -> the number of config.json that a file's value is, where it is read
    backwards (`families.restore`), `graph` gives numbers that no key holds, since llama.cpp takes them for granted.
    `alone` says of what family its language model is by itself, where transformers has it only behind an encoder;
    `drafts` that it drafts for another model, `borrows` that it has that one's tokens (`families.drafts`).
    """

    name: str
    gguf: str
    hf: tuple[str, ...]
    defaults: Mapping[str, Mapping[str, Any]]
    outside: tuple[T, ...]
    block: tuple[T, ...]
    keys: tuple[keys.KeyRow, ...]
    drop: tuple[Drop, ...] = ()
    strip: str = ""
    inside: Mapping[str, str] = field(default_factory=dict)
    extra: Callable[[Hparams], tuple[ModelTensor, ...]] | None = None
    assumes: tuple[assumptions.Assumption, ...] = ()
    folds: tuple[Fold, ...] = ()
    tokens: TokenizerRules = TokenizerRules()
    computes: frozenset[str] = frozenset()
    reranks: bool = False
    when: Condition | None = None
    source_block: str = SOURCE_BLOCK
    stacks: tuple[Stack, ...] = ()
    spellings: tuple[Rename, ...] = ()
    published: Published = AS_IN_MEMORY
    aliases: Mapping[str, str] = field(default_factory=dict)
    derive: tuple[Derive, ...] = ()
    seen: tuple[Seen, ...] = ()
    skips_further: str | None = None
    unserved: str | None = None
    unwalked: str | None = None
    embeds: bool = False
    renamed: tuple[str, ...] = ()
    back: Mapping[str, str] = field(default_factory=dict)
    graph: Callable[[Hparams], Mapping[str, Any]] | None = None
    alone: Alone | None = None
    drafts: bool = False
    borrows: bool = False

    @property
    def label(self) -> str:
        """What messages call it."""
        return f'family "{self.name}"'

    def all_stacks(self) -> tuple[Stack, ...]:
        """The stacks of blocks, that of the layers first."""
        return (Stack(self.source_block, TARGET_BLOCK, block_count, self.block), *self.stacks)

    @property
    def rotates(self) -> bool:
        """Whether positions are rotated: a base of the rotation is among the numbers of its model types."""
        return any("rope_theta" in numbers for numbers in self.defaults.values())

    def serves(self, config: Mapping[str, Any]) -> bool:
        """Whether the family's own condition, if any, holds for config.json (parsed)."""
        return self.when is None or self.when.holds(merged(config))

    def model_type(self, config: Mapping[str, Any]) -> str:
        """The model type of config.json (parsed), a key of `defaults`; the first where it names none of them."""
        said = (nested_part(config) or config).get("model_type")
        return said if isinstance(said, str) and said in self.defaults else next(iter(self.defaults))

    def hparams(self, config: Mapping[str, Any]) -> Hparams:
        """The numbers of config.json (parsed), filled in. Raises InputError for what is missing or no number."""
        hparams = read_hparams(config, self.defaults[self.model_type(config)], self.aliases)
        for derive in self.derive:
            hparams = replace(hparams, values={**hparams.values, **derive(hparams)})
        return hparams

    def numbers(self, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Hparams:
        """The same, with what the tensors say. Raises InputError, too, for tensors that contradict config.json."""
        hparams = self.hparams(config)
        if self.seen:
            layers = trunk_of(hparams)
            tensors = {self.source_name(name, layers): info for name, info in tensors.items()}
        for seen in self.seen:
            hparams = replace(hparams, values={**hparams.values, **seen(hparams, tensors)})
        return hparams

    def is_told(self, info: TensorInfo) -> bool:
        """Whether a tensor holds a number, or numbers, that the file has among its keys."""
        told = {seen.source for seen in self.seen if isinstance(seen, Told | ToldNumbers) and seen.reads(info)}
        return bool(told) and NUMBER.sub("{}", self.source_name(info.name)) in told

    def is_skipped(self, name: str, hparams: Hparams) -> bool:
        """Whether a tensor, by the name that rows use, is left out in its block: all of one after the last layer, or
        what has a row in others."""
        layer = self.layer_of(name)
        wheres = (drop.where for drop in self.drop if drop.where and fnmatchcase(name, drop.pattern))
        if layer is not None and any(where(hparams, layer) for where in wheres):
            return True
        start = self.source_block.partition("{}")[0]
        if self.skips_further is None or not name.startswith(start):
            return False
        text, layers = name[len(start) :].partition(".")[0], trunk_of(hparams)
        further = int(hparams.number("num_nextn_predict_layers") or 0)
        return text.isdecimal() and len(text) < 7 and layers <= int(text) < layers + further

    def layer_of(self, name: str, layers: int = 0) -> int | None:
        """The number of the language model's block that a tensor lies in, None for one outside; `layers` as below."""
        start = self.source_block.partition("{}")[0]
        inner = self.source_name(name, layers)
        text = inner[len(start) :].partition(".")[0] if inner.startswith(start) else ""
        return int(text) if text.isdecimal() and len(text) < 7 else None

    def source_name(self, name: str, layers: int = 0) -> str:
        """The name that rows use: with the prefix that a model saved without its head lacks (Qwen3-Embedding).

        `layers` is where blocks that other spellings count by themselves begin.
        """
        inner = name.replace(self.strip, "") if self.strip else name
        for spelling in self.spellings:
            inner = spelling.apply(inner, layers)
        return f"model.{inner}" if inner.startswith(BARE) else inner


EMBEDDING = T("model.embed_tokens.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size")
FINAL_NORM = T("model.norm.weight", "output_norm.weight", Role.NORM, "hidden_size")
HEAD = T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings")
OUTSIDE = (EMBEDDING, FINAL_NORM, HEAD)
FREQUENCIES = Drop("*.rotary_emb.inv_freq", "rotary frequencies are computed at run time")

NORMS = (
    T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
    T("post_attention_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
)
QK_NORMS = (
    T("self_attn.q_norm.weight", "attn_q_norm.weight", Role.NORM, "head"),
    T("self_attn.k_norm.weight", "attn_k_norm.weight", Role.NORM, "head"),
)
QK_NORMS_OF_ALL = (  # over the queries, and the keys, of all heads at once
    T("self_attn.q_norm.weight", "attn_q_norm.weight", Role.NORM, "q_rows"),
    T("self_attn.k_norm.weight", "attn_k_norm.weight", Role.NORM, "kv_rows"),
)
NORMS_AFTER = (  # of what attention and MLP give, before it is added
    T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, "hidden_size"),
    T("post_feedforward_layernorm.weight", "post_ffw_norm.weight", Role.NORM, "hidden_size"),
)
ATTENTION = (
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size", bias="attention_bias"),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size", bias="attention_bias"),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size", bias="attention_bias"),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows", bias="attention_bias"),
)
MLP = (
    T("mlp.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size", bias="mlp_bias"),
    T("mlp.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size", bias="mlp_bias"),
    T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias="mlp_bias"),
)

OWN_CODE = "transformers has no such model, and the code of a checkpoint is never run"


def rotated(rows: tuple[T, ...]) -> tuple[T, ...]:
    """The same attention with the rows of queries and keys in llama.cpp's rotation order."""
    return tuple(replace(t, place=rope_rows) if t.role in {Role.ATTN_Q, Role.ATTN_K} else t for t in rows)


def biased(rows: tuple[T, ...], output: str | None, others: str = ALWAYS) -> tuple[T, ...]:
    """The same attention where queries, keys and values have a bias of their own: always, or by a flag."""
    return tuple(replace(t, bias=output if t.role is Role.ATTN_OUTPUT else others) for t in rows)


def at(where: Layers, rows: tuple[T, ...]) -> tuple[T, ...]:
    """Rows that stand in some blocks only."""
    return tuple(replace(t, where=where) for t in rows)


def optional(rows: tuple[T, ...]) -> tuple[T, ...]:
    """Rows whose tensors may be there or not."""
    return tuple(replace(t, optional=True) for t in rows)


def with_biases(rows: tuple[T, ...]) -> tuple[T, ...]:
    """The same rows, each with a bias: those of layer norms, and of linears where all have one."""
    return tuple(replace(t, bias=ALWAYS) for t in rows)


def without_biases(rows: tuple[T, ...]) -> tuple[T, ...]:
    """The same rows where no bias has a place."""
    return tuple(replace(t, bias=None) for t in rows)


def ungated(rows: tuple[T, ...]) -> tuple[T, ...]:
    """An MLP without its gate."""
    return tuple(t for t in rows if t.role is not Role.FFN_GATE)


def centered(rows: tuple[T, ...]) -> tuple[T, ...]:
    """Norms that are stored as their distance from 1."""
    return tuple(replace(t, add=1.0) if t.role is Role.NORM else t for t in rows)


def experts(width: str, module: str, gate: str, up: str, down: str) -> tuple[T, ...]:
    """A mixture of experts of inner width `width`: one matrix per expert below `module`, or fused stacks.

    transformers computes with the fused stacks; tools that save what it holds in memory write those.
    """
    one, inner, outer = f"{module}.experts.{{}}.", f"{width} hidden_size", f"hidden_size {width}"
    fused = f"num_local_experts 2*{width} hidden_size"
    return (
        T(f"{module}.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
        T(f"{one}{gate}.weight", "ffn_gate_exps.weight", Role.FFN_GATE, inner, expert),
        T(f"{one}{up}.weight", "ffn_up_exps.weight", Role.FFN_UP, inner, expert),
        T(f"{one}{down}.weight", "ffn_down_exps.weight", Role.FFN_DOWN, outer, expert),
        T("mlp.experts.gate_up_proj", "ffn_gate_exps.weight", Role.FFN_GATE, fused, gate_half),
        T("mlp.experts.gate_up_proj", "ffn_up_exps.weight", Role.FFN_UP, fused, up_half),
        T("mlp.experts.down_proj", "ffn_down_exps.weight", Role.FFN_DOWN, f"num_local_experts {outer}"),
    )


def shared_expert(width: str, module: str, gate: str | None = None) -> tuple[T, ...]:
    """An MLP of inner width `width` that reads every token beside the experts; `gate` weighs what it gives."""
    inner, outer = f"{width} hidden_size", f"hidden_size {width}"
    weight = () if gate is None else (T(f"{gate}.weight", "ffn_gate_inp_shexp.weight", Role.ROUTER, "1 hidden_size"),)
    return (
        T(f"{module}.gate_proj.weight", "ffn_gate_shexp.weight", Role.FFN_GATE, inner),
        T(f"{module}.up_proj.weight", "ffn_up_shexp.weight", Role.FFN_UP, inner),
        T(f"{module}.down_proj.weight", "ffn_down_shexp.weight", Role.FFN_DOWN, outer),
        *weight,
    )
