"""Byte-level BPE vocabularies (GPT-2's kind: Llama 3, Qwen, SmolLM, Phi-4) from tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol

from quantkit.errors import UnsupportedError
from quantkit.tokenizer.files import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    AddedToken,
    BpeTokenizer,
    Json,
    TokenizerFiles,
    bad,
    named_tokens,
    read_settings_added,
)
from quantkit.tokenizer.vocabulary import SPACE, Token, TokenType, Vocabulary, check_distinct, looks_special, padding
from quantkit.untrusted import shown


class Tokens(Protocol):
    """What the models of tokenizer.json have in common: ids of texts, and tokens that are added to them."""

    @property
    def vocab(self) -> Mapping[str, int]: ...

    @property
    def added(self) -> tuple[AddedToken, ...]: ...

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]: ...


def byte_level_vocabulary(tokenizer: BpeTokenizer, files: TokenizerFiles, pre: str) -> Vocabulary:
    """The vocabulary of a byte-level BPE tokenizer, padded to the rows of the embedding.

    Types and texts are those of the reference converter (conversion/base.py, get_vocab_base). Raises InputError when
    the vocabulary is larger than the embedding.
    """
    added, warnings = added_tokens(tokenizer, files)
    size, left_out = rows_for(tokenizer, added, files)
    by_id = {index: Token(text, TokenType.NORMAL) for text, index in tokenizer.vocab.items()}
    by_id.update((token.index, _added_token(token)) for token in added)
    tokens = tuple(by_id.get(index) or padding(index, 0.0) for index in range(size))
    check_distinct(tokens)
    return Vocabulary("gpt2", pre, tokens, tokenizer.merge_lines, warnings=(*warnings, *left_out))


def rows_for(
    tokenizer: Tokens, added: Sequence[AddedToken], files: TokenizerFiles
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """How many rows the embedding has, and a warning for added tokens beyond them: the model has no vector for these.

    Raises InputError for other tokens beyond: text is split into those.
    """
    ids = {**tokenizer.vocab, **{token.content: token.index for token in tokenizer.added}}
    size = max(ids.values()) + 1 if files.vocab_size is None else files.vocab_size
    beyond = {token.content: token.index for token in added if token.index >= size}
    for text, index in tokenizer.vocab.items():
        if index >= size and text not in beyond:
            raise bad(TOKENIZER_JSON, f'the id of "{shown(text)}"', index, f"one of the embedding's {size:,} rows")
    if not beyond:
        return size, ()
    who = ", ".join(f'"{shown(text)}" has id {index}' for text, index in list(beyond.items())[:3])
    more = f" and {len(beyond) - 3:,} more" if len(beyond) > 3 else ""
    return size, (("tokenizer-added", f"{who}{more}, the embedding {size:,} rows; left out"),)


def is_byte_level_class(settings: Mapping[str, Any]) -> bool:
    """Whether tokenizer_config.json names GPT-2's class, with which Phi-4 tells itself from Phi-3."""
    return settings.get("tokenizer_class") in ("GPT2Tokenizer", "GPT2TokenizerFast")


def added_tokens(
    tokenizer: Tokens, files: TokenizerFiles
) -> tuple[tuple[AddedToken, ...], tuple[tuple[str, str], ...]]:
    """The added tokens of a tokenizer.json and what tokenizer_config.json adds to them, with warnings.

    As transformers does it: `added_tokens_decoder` in order of id, then the named special tokens; a token that the
    vocabulary lacks gets the next free id. tokenizer.json wins where the two contradict each other.
    """
    found = {token.content: token for token in tokenizer.added}
    following = max((len(tokenizer.vocab), *(token.index + 1 for token in tokenizer.added)))
    warnings = list(tokenizer.warnings)
    for token in (*sorted(read_settings_added(files.settings), key=_index), *named_tokens(files)):
        known = found[token.content].index if token.content in found else tokenizer.vocab.get(token.content)
        index = following if known is None else known
        if token.index not in {index, -1}:
            where = f"{TOKENIZER_CONFIG} gives it {token.index}"
            warnings.append(("tokenizer-ids", f'"{shown(token.content)}" has id {index}; {where}'))
        if token.content not in found:
            found[token.content] = replace(token, index=index)
            following = max(following, index + 1)
    return tuple(found.values()), tuple(warnings)


def _index(token: AddedToken) -> int:
    return token.index


def _added_token(token: AddedToken) -> Token:
    # llama.cpp matches these texts as they are, so one that the tokenizer would normalize is normalized here.
    text = token.content if token.normalized else byte_level_decoded(token.content)
    if token.special or looks_special(text):
        return Token(text, TokenType.CONTROL)
    return Token(text.replace(SPACE, " "), TokenType.USER_DEFINED)


def check_byte_level(decoder: Json) -> None:
    """Raise UnsupportedError unless a decoder section is byte-level."""
    steps = decoder.get("decoders") if isinstance(decoder, dict) and decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps] if isinstance(steps, list) else []
    if kinds != ["ByteLevel"]:
        message = f"{TOKENIZER_JSON}: the decoder is {shown(str(kinds))}, neither byte-level nor with byte fallback"
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="decoder", hint="llama.cpp has no such tokenizer")


@cache
def byte_alphabet() -> Mapping[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 on.

    Source: GPT-2's encoder.py, bytes_to_unicode.
    """
    printable = [byte for byte in range(256) if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255]
    rest = [byte for byte in range(256) if byte not in printable]
    return MappingProxyType({**{chr(b): b for b in printable}, **{chr(256 + n): b for n, b in enumerate(rest)}})


def byte_level_decoded(text: str) -> str:
    """What the byte-level decoder of the tokenizers library makes of one token.

    A token with a character outside the byte alphabet is text already and stays as it is; so does, unlike there, one
    whose bytes are no text.
    """
    alphabet = byte_alphabet()
    values = [alphabet.get(character) for character in text]
    known = bytes(value for value in values if value is not None)
    try:
        return known.decode("utf-8") if len(known) == len(values) else text
    except UnicodeDecodeError:
        return text
