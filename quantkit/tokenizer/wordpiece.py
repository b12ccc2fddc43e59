"""WordPiece vocabularies (BERT's kind) from tokenizer.json.

llama.cpp cuts text into words as BERT does, puts U+2581 before each and takes the longest token that fits, again and
again. So a token that begins a word is written with U+2581 before it, and one that continues a word, "##ing", without
its mark. The reference does the same (conversion/bert.py, BertModel.set_vocab, October 2026).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.bpe import added_tokens, rows_for
from quantkit.tokenizer.files import (
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
from quantkit.tokenizer.pre_hashes import HASHES, OF_WORDPIECE, PROBE_TEXT
from quantkit.tokenizer.vocabulary import SPACE, Token, TokenType, Vocabulary, check_distinct, looks_special, padding
from quantkit.untrusted import shown

CONTINUES = "##"
DEFAULT_PRE = "default"  # llama.cpp reads no name for this kind of vocabulary; the reference writes one that it knows
CUTS_WORDS = ("BertPreTokenizer",)


@record
class WordPieces:
    """A tokenizer.json whose model is WordPiece. `unk` is the text of the unknown token, `longest` the characters of
    the longest word that is split at all."""

    vocab: Mapping[str, int]
    added: tuple[AddedToken, ...]
    unk: str
    longest: int
    normalizer: Json
    warnings: tuple[tuple[str, str], ...]


def parse_wordpiece(raw: Mapping[str, Any]) -> WordPieces:
    """Check a parsed tokenizer.json whose model is WordPiece and give it types.

    Raises InputError for broken vocabularies, UnsupportedError for marks and cuts that llama.cpp does not have.
    """
    model = raw["model"]
    mark = model.get("continuing_subword_prefix", CONTINUES)
    if mark != CONTINUES:
        message = f'{TOKENIZER_JSON}: model.continuing_subword_prefix is "{shown(str(mark))}", not "{CONTINUES}"'
        hint = "llama.cpp has no such tokenizer"
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="model.continuing_subword_prefix", hint=hint)
    cuts = raw.get("pre_tokenizer")
    kind = cuts.get("type") if isinstance(cuts, dict) else None
    if kind not in CUTS_WORDS:
        message = f"{TOKENIZER_JSON}: WordPiece after {shown(str(kind))}, llama.cpp cuts words as BertPreTokenizer does"
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="pre_tokenizer", hint="it cannot be written")
    vocab = checked_vocab(model.get("vocab"))
    unk = model.get("unk_token", "[UNK]")
    if not isinstance(unk, str) or unk not in vocab:
        raise bad(TOKENIZER_JSON, "model.unk_token", unk, "a token of the vocabulary")
    added, warnings = numbered(parse_added(raw), vocab)
    longest = model.get("max_input_chars_per_word", 100)
    if not isinstance(longest, int) or longest < 1:
        raise bad(TOKENIZER_JSON, "model.max_input_chars_per_word", longest, "a number of characters")
    return WordPieces(vocab, added, unk, longest, raw.get("normalizer"), warnings)


def wordpiece_vocabulary(pieces: WordPieces, files: TokenizerFiles, data: bytes, pre: str | None) -> Vocabulary:
    """The vocabulary, padded to the rows of the embedding; `data` is tokenizer.json, `pre` a name that is asked for."""
    added, warnings = added_tokens(pieces, files)
    size, left_out = rows_for(pieces, added, files)
    by_id = {index: Token(phantom(text), TokenType.NORMAL) for text, index in pieces.vocab.items()}
    by_id.update((token.index, _added_token(token)) for token in added)
    blank = (Token(phantom(padding(i, 0.0).text), TokenType.UNUSED) for i in range(size) if i not in by_id)
    tokens = tuple(by_id[index] if index in by_id else next(blank) for index in range(size))
    check_distinct(tokens)
    name = pre or {**HASHES, **OF_WORDPIECE}.get(_hash(data), DEFAULT_PRE)
    keys, odd = normalizer_keys(pieces.normalizer)
    return Vocabulary("bert", name, tokens, normal=keys, warnings=(*warnings, *left_out, *odd))


def phantom(text: str) -> str:
    """A token as llama.cpp has it: with U+2581 where it begins a word."""
    return text[len(CONTINUES) :] if text.startswith(CONTINUES) else SPACE + text


def _added_token(token: AddedToken) -> Token:
    if token.special or looks_special(token.content):
        return Token(token.content, TokenType.CONTROL)
    return Token(phantom(token.content), TokenType.USER_DEFINED)


def _hash(data: bytes) -> str:
    library = load_tokenizer_json(data)
    with no_panic(TOKENIZER_JSON):
        return hashlib.sha256(str(library.encode(PROBE_TEXT).ids).encode()).hexdigest()


def normalizer_keys(section: Json) -> tuple[tuple[KeyValue, ...], tuple[tuple[str, str], ...]]:
    """The keys that say whether text is put into lower case and loses its accents, and warnings.

    Without the first llama.cpp does both, so it is written where the source does not (the reference leaves it out).
    """
    lower: bool | None = None
    strip: bool | None = None
    warnings: list[tuple[str, str]] = []
    for step in _steps(section):
        kind = step.get("type")
        if kind == "BertNormalizer":
            lower = step.get("lowercase", True) is True
            said = step.get("strip_accents")
            strip = said if isinstance(said, bool) else strip
            warnings += _odd(step)
        elif kind == "Lowercase":
            lower = True
        elif kind == "StripAccents":
            strip = True
        elif kind != "NFD":  # what accents are stripped after, and llama.cpp too
            message = f"{TOKENIZER_JSON} applies {shown(str(kind))}, llama.cpp does not: text that it changes differs"
            warnings.append(("tokenizer-normalizer", message))
    keys = [KeyValue("tokenizer.ggml.normalizer.lowercase", "bool", lower is True)]
    if strip is not None:
        keys.append(KeyValue("tokenizer.ggml.normalizer.strip_accents", "bool", strip))
    return tuple(keys), tuple(warnings)


def _steps(section: Json) -> Iterator[Mapping[str, Json]]:
    if section is None:
        return
    if not isinstance(section, dict):
        raise bad(TOKENIZER_JSON, "normalizer", section, "an object")
    if section.get("type") != "Sequence":
        yield section
        return
    listed = section.get("normalizers")
    if not isinstance(listed, list):
        raise bad(TOKENIZER_JSON, "normalizer.normalizers", listed, "a list")
    for each in listed:
        yield from _steps(each)


def _odd(step: Mapping[str, Json]) -> Iterable[tuple[str, str]]:
    for key, what in (("clean_text", "drops control characters"), ("handle_chinese_chars", "cuts at ideographs")):
        if step.get(key, True) is not True:
            message = f"{TOKENIZER_JSON}: {key} is {step[key]}, llama.cpp {what}: such text is split differently"
            yield "tokenizer-normalizer", message
