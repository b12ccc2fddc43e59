"""What a GGUF file says that Ollama is to be told: its chat template, special tokens, sampling, licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.calibration.text.templates import ChatTemplate
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.chat_template import KEY as TEMPLATE_KEY
from quantkit.tokenizer.gemma4 import GEMMA4
from quantkit.tokenizer.pre_table import LLAMA_CPP

GGML = "tokenizer.ggml."
SPECIAL_TYPES = (3, 4)  # LLAMA_TOKEN_TYPE_CONTROL, _USER_DEFINED
KINDS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "sep": "seperator_token_id",
    "pad": "padding_token_id", "mask": "mask_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
}  # fmt: skip
ENDING = ("eos", "eot", "eom")
LONGEST_TOKEN = 256  # characters of a special token that is looked for in texts
# key below general.sampling -> Ollama's parameter (api/types.go, Options)
SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}  # fmt: skip


@record
class Header:
    """`kind` is general.type: "model", "adapter" or "mmproj". `tokens` are the texts of special tokens by kind ("eos"),
    `special` those of all control and user-defined tokens, `adds_bos` whether the tokenizer puts BOS first. A chat
    template that is not UTF-8 is `unreadable`, and left out."""

    kind: str
    architecture: str
    name: str
    chat_template: str
    tokens: Mapping[str, str]
    special: frozenset[str]
    adds_bos: bool
    sampling: Mapping[str, int | float]
    license: str
    context: int | None
    embeds: bool
    unreadable: bool = False

    @property
    def template(self) -> ChatTemplate:
        """The chat template with the special tokens that it may name."""
        return ChatTemplate(self.chat_template, {f"{kind}_token": text for kind, text in self.tokens.items()})

    @property
    def bos(self) -> str:
        """What the tokenizer puts before every text, as text."""
        return self.tokens.get("bos", "") if self.adds_bos else ""

    @property
    def ending(self) -> tuple[str, ...]:
        """The tokens at which generation ends, as texts."""
        return tuple(dict.fromkeys(self.tokens[kind] for kind in ENDING if self.tokens.get(kind)))


def read_header(metadata: Sequence[KeyValue]) -> Header:
    """Read the entries of a GGUF file; what is missing or of another type is nothing."""
    values: dict[str, Any] = {entry.key: entry.value for entry in metadata}
    pieces = values.get(f"{GGML}tokens")
    pieces = pieces if isinstance(pieces, Sequence) and not isinstance(pieces, str | bytes) else ()
    architecture = _text(values.get("general.architecture"))
    context = values.get(f"{architecture}.context_length")
    return Header(
        kind=_text(values.get("general.type")) or "model",
        architecture=architecture,
        name=_text(values.get("general.name")),
        chat_template=_text(values.get(TEMPLATE_KEY)),
        tokens=dict(_tokens(values, pieces)),
        special=_special(values, pieces),
        adds_bos=_adds_bos(values),
        sampling=dict(_sampling(values)),
        license=_license(values),
        context=context if isinstance(context, int) and not isinstance(context, bool) else None,
        embeds=f"{architecture}.pooling_type" in values,
        unreadable=isinstance(values.get(TEMPLATE_KEY), bytes),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _tokens(values: Mapping[str, Any], pieces: Sequence[Any]) -> list[tuple[str, str]]:
    found = []
    for kind, key in KINDS.items():
        number = values.get(f"{GGML}{key}")
        if isinstance(number, int) and 0 <= number < len(pieces) and isinstance(pieces[number], str):
            found.append((kind, pieces[number]))
    return found


def _special(values: Mapping[str, Any], pieces: Sequence[Any]) -> frozenset[str]:
    kinds = values.get(f"{GGML}token_type")
    if not isinstance(kinds, Sequence):
        return frozenset()
    pairs = zip(pieces, kinds, strict=False)
    return frozenset(
        piece
        for piece, kind in pairs
        if kind in SPECIAL_TYPES and isinstance(piece, str) and 0 < len(piece.strip()) <= LONGEST_TOKEN
    )


def _adds_bos(values: Mapping[str, Any]) -> bool:
    """As llama.cpp decides it (src/llama-vocab.cpp): the file's word, else the rule of its vocabulary."""
    said = values.get(f"{GGML}add_bos_token")
    model, pre = values.get(f"{GGML}model"), LLAMA_CPP.get(_text(values.get(f"{GGML}pre")))
    if isinstance(said, bool) and model != GEMMA4:
        return said
    return model in ("llama", GEMMA4) or (model == "gpt2" and pre is not None and pre.adds_bos)


def _sampling(values: Mapping[str, Any]) -> list[tuple[str, int | float]]:
    found: list[tuple[str, int | float]] = []
    for key, parameter in SAMPLING.items():
        value = values.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) < 2**31:
            found.append((parameter, value))
    return found


def _license(values: Mapping[str, Any]) -> str:
    """What the source's card says of the licence: identifiers, a name, a link."""
    keys = ("general.license", "general.license.name", "general.license.link")
    return "\n".join(text for key in keys if (text := _text(values.get(key)).strip()))
