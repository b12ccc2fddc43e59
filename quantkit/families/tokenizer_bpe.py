"""Byte-level BPE vocabularies (GPT-2's kind: Llama 3, Qwen, SmolLM, Phi-4) from tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.tokenizer_files import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    AddedToken,
    BpeTokenizer,
    Json,
    TokenizerFiles,
    bad,
    read_settings_added,
)
from quantkit.families.vocabulary import SPACE, Token, TokenType, Vocabulary, check_distinct, looks_special, padding
from quantkit.untrusted import shown

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")


def byte_level_vocabulary(tokenizer: BpeTokenizer, files: TokenizerFiles, pre: str) -> Vocabulary:
    """The vocabulary of a byte-level BPE tokenizer, padded to the rows of the embedding.

    Types and texts are those of the reference converter (conversion/base.py, get_vocab_base). Raises InputError when
    the vocabulary is larger than the embedding.
    """
    added, warnings = added_tokens(tokenizer, files)
    ids = {**tokenizer.vocab, **{token.content: token.index for token in tokenizer.added}}
    size = len(ids) if files.vocab_size is None else files.vocab_size
    for text, index in ids.items():
        if index >= size:
            raise bad(TOKENIZER_JSON, f'the id of "{shown(text)}"', index, f"one of the embedding's {size:,} rows")
    by_id = {index: Token(text, TokenType.NORMAL) for text, index in ids.items()}
    by_id.update((token.index, _added_token(token)) for token in added if token.index < size)
    beyond = [token.content for token in added if token.index >= size]
    if beyond:
        message = f"{TOKENIZER_CONFIG} adds {shown(beyond[0])} beyond the {size:,} rows of the embedding; left out"
        warnings = (*warnings, ("tokenizer-added", message))
    tokens = tuple(by_id.get(index) or padding(index, 0.0) for index in range(size))
    check_distinct(tokens)
    return Vocabulary("gpt2", pre, tokens, tokenizer.merge_lines, warnings=warnings)


def is_byte_level_class(settings: Mapping[str, Any]) -> bool:
    """Whether tokenizer_config.json names GPT-2's class, with which Phi-4 tells itself from Phi-3."""
    return settings.get("tokenizer_class") in {"GPT2Tokenizer", "GPT2TokenizerFast"}


def added_tokens(
    tokenizer: BpeTokenizer, files: TokenizerFiles
) -> tuple[tuple[AddedToken, ...], tuple[tuple[str, str], ...]]:
    """The added tokens of a tokenizer.json and what tokenizer_config.json adds to them, with warnings.

    As transformers does it: `added_tokens_decoder` in order of id, then the named special tokens; a token that the
    vocabulary lacks gets the next free id. tokenizer.json wins where the two contradict each other.
    """
    found = {token.content: token for token in tokenizer.added}
    following = max((len(tokenizer.vocab), *(token.index + 1 for token in tokenizer.added)))
    warnings = []
    for token in (*sorted(read_settings_added(files.settings), key=_index), *_named(files.settings)):
        known = found[token.content].index if token.content in found else tokenizer.vocab.get(token.content)
        index = following if known is None else known
        if token.index not in {index, -1}:
            where = f"{TOKENIZER_CONFIG} gives it {token.index}"
            warnings.append(("tokenizer-ids", f'"{shown(token.content)}" has id {index}; {where}'))
        if token.content not in found:
            found[token.content] = AddedToken(index, token.content, token.special, token.normalized)
            following = max(following, index + 1)
    return tuple(found.values()), tuple(warnings)


def _index(token: AddedToken) -> int:
    return token.index


def _named(settings: Mapping[str, Any]) -> list[AddedToken]:
    """Special tokens by name (bos_token ...) and in lists; their ids are unknown (-1)."""
    values = [settings.get(name) for name in NAMED_TOKENS]
    for name in TOKEN_LISTS:
        listed = settings.get(name)
        values += list(listed.values()) if isinstance(listed, dict) else listed if isinstance(listed, list) else []
    contents = [value.get("content") if isinstance(value, dict) else value for value in values]
    return [AddedToken(-1, text, special=True, normalized=False) for text in contents if isinstance(text, str) and text]


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
