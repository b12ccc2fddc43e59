"""Unigram vocabularies (T5's and XLM-RoBERTa's kind) from tokenizer.json.

llama.cpp replaces characters by the source's own map, writes spaces as U+2581, and takes the pieces whose scores add
up highest. Source of keys and types: conversion/bert.py (_xlmroberta_set_vocab) and conversion/t5.py, October 2026.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quantkit.errors import UnsupportedError
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.bpe import added_tokens, rows_for
from quantkit.tokenizer.files import (
    MAX_TOKENS,
    TOKENIZER_JSON,
    AddedToken,
    Json,
    TokenizerFiles,
    bad,
    checked_vocab,
    numbered,
    parse_added,
)
from quantkit.tokenizer.libraries import load_tokenizer_json
from quantkit.tokenizer.native import no_panic
from quantkit.tokenizer.vocabulary import (
    ADDED_SCORE,
    PADDING_SCORE,
    SPACE,
    Token,
    TokenType,
    Vocabulary,
    check_distinct,
    padding,
)
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
HARMLESS = frozenset({"Replace", "Strip", "Precompiled"})  # steps whose effect on spaces is looked at
MAX_CHARSMAP = 1 << 24  # bytes; that of sentencepiece's nmt_nfkc has 240,000


@record
class UnigramTokenizer:
    """A tokenizer.json whose model is Unigram. `scores` are those of the ids from 0 on; `charsmap` is sentencepiece's
    compiled map of characters, empty where there is none."""

    vocab: Mapping[str, int]
    scores: tuple[float, ...]
    added: tuple[AddedToken, ...]
    unk: int
    byte_fallback: bool
    charsmap: bytes
    normalizer: Json
    warnings: tuple[tuple[str, str], ...]


def parse_unigram(raw: Mapping[str, Any]) -> UnigramTokenizer:
    """Check a parsed tokenizer.json whose model is Unigram and give it types.

    Raises InputError for broken vocabularies and maps, UnsupportedError for one that has no unknown token.
    """
    model = raw["model"]
    entries = model.get("vocab")
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_TOKENS:
        raise bad(TOKENIZER_JSON, "model.vocab", type(entries).__name__, f"a list of at most {MAX_TOKENS:,} pieces")
    texts: dict[str, int] = {}
    scores = []
    for index, entry in enumerate(entries):
        text, score = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if not isinstance(text, str) or not _is_score(score) or text in texts:
            raise bad(TOKENIZER_JSON, f"model.vocab[{index}]", entry, "a text that no other piece has, and a score")
        texts[text] = index
        scores.append(float(score or 0))
    unk = model.get("unk_id")
    if isinstance(unk, bool) or not isinstance(unk, int) or not 0 <= unk < len(entries):
        message = f"{TOKENIZER_JSON}: model.unk_id is {shown(str(unk))}; llama.cpp needs a token for what is unknown"
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="model.unk_id", hint="it cannot be written")
    added, warnings = numbered(parse_added(raw), checked_vocab(texts))
    fallback, normalizer = model.get("byte_fallback") is True, raw.get("normalizer")
    return UnigramTokenizer(texts, tuple(scores), added, unk, fallback, find_charsmap(normalizer), normalizer, warnings)


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def find_charsmap(section: Json) -> bytes:
    """The map of characters in a normalizer section, b"" without one. Raises InputError for one that is no base64."""
    for step in _steps(section):
        if step.get("type") == "Precompiled":
            said = step.get("precompiled_charsmap")
            try:
                found = base64.b64decode(said if isinstance(said, str) else "", validate=True)
            except (binascii.Error, ValueError) as error:
                raise bad(TOKENIZER_JSON, "normalizer.precompiled_charsmap", said, "base64") from error
            size = int.from_bytes(found[:4], "little")
            if found and not 4 < 4 + size < len(found) <= MAX_CHARSMAP:
                what = f"{len(found):,} bytes that say {size:,}"
                raise bad(TOKENIZER_JSON, "normalizer.precompiled_charsmap", what, "a map that sentencepiece compiled")
            return found
    return b""


def unigram_vocabulary(
    tokenizer: UnigramTokenizer, files: TokenizerFiles, data: bytes, counted: tuple[KeyValue, ...] = ()
) -> Vocabulary:
    """The vocabulary, padded to the rows of the embedding. `data` is tokenizer.json, asked what it does with spaces;
    `counted` the key that says how many kinds of token there are, for families that have it.

    Differs from the reference: tokens that only the added tokens name ("<mask>", "<extra_id_0>") have their names and
    are control tokens; spaces are dropped where the tokenizer drops them, not by `clean_up_tokenization_spaces`.
    """
    added, warnings = added_tokens(tokenizer, files)
    size, left_out = rows_for(tokenizer, added, files)
    size = max(size, len(tokenizer.scores)) if files.vocab_size is None else size
    tokens = [padding(index, PADDING_SCORE) for index in range(size)]
    for text, index in tokenizer.vocab.items():
        if index < size:
            kind = TokenType.BYTE if tokenizer.byte_fallback and BYTE.fullmatch(text) else TokenType.NORMAL
            tokens[index] = Token(text, kind, tokenizer.scores[index])
    for token in added:
        if token.index < size:
            score = tokenizer.scores[token.index] if token.index < len(tokenizer.scores) else ADDED_SCORE
            kind = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
            tokens[token.index] = Token(token.content, kind, score)
    tokens[tokenizer.unk] = Token(tokens[tokenizer.unk].text, TokenType.UNKNOWN, tokenizer.scores[tokenizer.unk])
    check_distinct(tokens)
    spaces = find_spaces(written_by(load_tokenizer_json(data)))
    more = (
        KeyValue("tokenizer.ggml.add_space_prefix", "bool", spaces.prefix),
        *counted,
        KeyValue("tokenizer.ggml.remove_extra_whitespaces", "bool", spaces.merged),
        *(charsmap_key(tokenizer.charsmap)),
    )
    notes = (*warnings, *left_out, *_odd(tokenizer), *spaces.warnings)
    return Vocabulary("t5", "default", tuple(tokens), more=more, warnings=notes)


def charsmap_key(charsmap: bytes) -> tuple[KeyValue, ...]:
    """The entry that holds a map of characters, none for an empty one."""
    if not charsmap:
        return ()
    return (KeyValue("tokenizer.ggml.precompiled_charsmap", "u8", tuple(charsmap), array=True),)


@record
class Spaces:
    """`prefix`: a space is put before text; `merged`: several spaces are one, and none is kept at the ends."""

    prefix: bool
    merged: bool
    warnings: tuple[tuple[str, str], ...]


def find_spaces(written: Callable[[str], str]) -> Spaces:
    """What a tokenizer.json does with spaces, seen by asking how it writes some texts.

    Raises UnsupportedError for one that does not write them as U+2581.
    """
    alone, apart, around = written("a"), written("a  b"), written(" a ")
    if written("a b") not in (f"{SPACE}a{SPACE}b", f"a{SPACE}b"):
        message = f"{TOKENIZER_JSON} does not write spaces as U+2581, which llama.cpp's Unigram does"
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="pre_tokenizer", hint="it cannot be written")
    merged = apart == written("a b")
    warnings = []
    if merged != (around == alone):
        message = f"{TOKENIZER_JSON} treats spaces at the ends of a text and inside it differently, llama.cpp alike"
        warnings.append(("tokenizer-normalizer", message))
    return Spaces(alone.startswith(SPACE), merged, tuple(warnings))


def written_by(library: Tokenizer) -> Callable[[str], str]:
    """A function that gives a text as the model of a tokenizer.json sees it."""

    def written(text: str) -> str:
        with no_panic(TOKENIZER_JSON):
            normal = library.normalizer.normalize_str(text) if library.normalizer else text
            parts = library.pre_tokenizer.pre_tokenize_str(normal) if library.pre_tokenizer else [(normal, (0, 0))]
        return "".join(part for part, _ in parts)

    return written


def _odd(tokenizer: UnigramTokenizer) -> Iterator[tuple[str, str]]:
    for step in _steps(tokenizer.normalizer):
        if step.get("type") not in HARMLESS:
            what = (
                f"applies {shown(str(step.get('type')))}, llama.cpp does not: text that it changes is split differently"
            )
            yield "tokenizer-normalizer", f"{TOKENIZER_JSON} {what}"
    if tokenizer.byte_fallback:
        yield "tokenizer-bytes", f"{TOKENIZER_JSON} falls back to bytes, llama.cpp's Unigram takes the unknown token"


def _steps(section: Json) -> Iterator[Mapping[str, Json]]:
    if section is None:
        return
    if not isinstance(section, dict):
        raise bad(TOKENIZER_JSON, "normalizer", section, "an object")
    listed = section.get("normalizers") if section.get("type") == "Sequence" else [section]
    if not isinstance(listed, list):
        raise bad(TOKENIZER_JSON, "normalizer.normalizers", listed, "a list")
    for each in listed:
        if each is section:
            yield section
        else:
            yield from _steps(each)
