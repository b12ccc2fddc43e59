"""What the rows of encoders share: sizes without a decoder's keys, positions, and heads that classify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.layers import Derive
from quantkit.families.model import Rows
from quantkit.families.placements import Placement
from quantkit.families.rows import Condition, Family
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

LABELS, LABEL_NAMES = "labels", "label_names"
CONTEXT, SKIPPED = "context", "padding_positions"
MAX_LABELS = 1 << 12
DUMMY = ("LABEL_0", "LABEL_1")  # what transformers calls two labels that have no names
NO_HEAD = "llama.cpp computes embeddings, for which this head is not used"
OWN_VARIANT = "transformers has no such variant of this architecture, and the code of a checkpoint is never run"

SIZES: tuple[keys.KeyRow, ...] = (
    keys.Key("block_count", "u32", "num_hidden_layers"),
    keys.Key("context_length", "u32", CONTEXT),
    keys.Key("embedding_length", "u32", "hidden_size"),
    keys.Key("feed_forward_length", "u32", "intermediate_size"),
    keys.Key("attention.head_count", "u32", "num_attention_heads"),
)
WITHOUT_ADAPTERS = Condition(
    "config.json has no lora_adaptations (those of Jina v3 become files of their own)",
    lambda config: not config.get("lora_adaptations"),
)


WITH_HEAD = Condition("architectures names it", lambda config: bool(config.get("architectures")))
WITH_HEAD_ALONE = Condition(
    f"{WITH_HEAD.text}; {WITHOUT_ADAPTERS.text}",
    lambda config: WITH_HEAD.holds(config) and WITHOUT_ADAPTERS.holds(config),
)


def epsilon(otherwise: float) -> Derive:
    """The epsilon of the norms, where config.json has no place for it."""
    return lambda hparams: {"layer_norm_eps": hparams.values.get("layer_norm_eps", otherwise)}


def UNSCALED_ROPE(hparams: Hparams) -> Iterable[KeyValue]:
    """Rotary positions that are not stretched."""
    return (KeyValue("rope.scaling.type", "string", "none"),)


def OUTPUT_LABELS(hparams: Hparams) -> Iterable[KeyValue]:
    """What the outputs of a head mean, where config.json has names for them."""
    names = hparams.values.get(LABEL_NAMES)
    return (KeyValue("classifier.output_labels", "string", tuple(names), array=True),) if names else ()


def labels(hparams: Hparams) -> Mapping[str, Any]:
    """The names of what a head tells apart, in the order of its outputs, and how many there are."""
    said = hparams.values.get("id2label")
    if said is None:
        count = hparams.values.get("num_labels")
        return {LABELS: 2 if count is None else count, LABEL_NAMES: ()}
    if not isinstance(said, Mapping) or not 0 < len(said) <= MAX_LABELS or not all(map(_is_label, said.items())):
        what = (
            f"config.json: id2label is {shown(str(said), 80)}, expected a text for each of up to {MAX_LABELS:,} numbers"
        )
        raise InputError(what, key="id2label", path="config.json", hint=CONFIG_HINT)
    names = tuple(text for _, text in sorted(said.items(), key=lambda pair: int(pair[0])))
    return {LABELS: len(names), LABEL_NAMES: () if len(names) == 2 and names[0] == DUMMY[0] else names}


def _is_label(pair: tuple[object, object]) -> bool:
    number, text = str(pair[0]), pair[1]
    return isinstance(text, str) and number.isascii() and number.isdecimal() and len(number) < 10


def positions(*, padding: bool) -> Derive:
    """How long a text can be. With `padding` the first positions, up to that of the padding token, are no text's."""

    def derive(hparams: Hparams) -> Mapping[str, Any]:
        count, pad = hparams.count("max_position_embeddings"), hparams.values.get("pad_token_id")
        if not padding or pad is None:
            return {CONTEXT: count, SKIPPED: 0}
        if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < count - 1:
            what = f"config.json: pad_token_id is {shown(str(pad))}, expected a number below {count - 1}"
            raise InputError(what, key="pad_token_id", path="config.json", hint=CONFIG_HINT)
        return {CONTEXT: count - pad - 1, SKIPPED: pad + 1}

    return derive


def after_padding(info: TensorInfo, hparams: Hparams) -> Placement:
    """The rows of positions that a text can have."""
    first = int(hparams.required(SKIPPED))
    return Placement((info.rows - first, info.cols), (Rows(info.name, first, info.rows),))


def absolute_positions(hparams: Hparams) -> str | None:
    """Positions are learned, one vector each."""
    kind = hparams.values.get("position_embedding_type", "absolute")
    return None if kind == "absolute" else f"position_embedding_type is {shown(str(kind))}, it adds absolute ones"


def require_no_encoder(family: Family, what: str, hint: str) -> None:
    """Raise UnsupportedError for an encoder, which sees the tokens that it would have to predict: what it computes are
    vectors. `what` says for what predictions are wanted."""
    if family.embeds:
        what = f'family "{family.name}" computes embeddings and predicts no text: {what}'
        raise UnsupportedError(what, key=family.name, hint=hint)


def tanh_before_labels(hparams: Hparams) -> str | None:
    """The hidden layer of a head that classifies ends in tanh."""
    return "the head that classifies uses ReLU, it uses tanh"
