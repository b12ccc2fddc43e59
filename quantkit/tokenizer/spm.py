"""SentencePiece-style vocabularies: from `tokenizer.model`, or from a tokenizer.json with byte fallback.

llama.cpp merges the neighbours whose concatenation is the token with the best score, leftmost first, over the whole
text with spaces written as U+2581. A tokenizer.model brings those scores; a tokenizer.json brings merges by rank,
which become scores here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.records import record
from quantkit.tokenizer.bpe import added_tokens, rows_for
from quantkit.tokenizer.files import TOKENIZER_JSON, TOKENIZER_MODEL, BpeTokenizer, Json, TokenizerFiles, bad
from quantkit.tokenizer.listed_tokens import place_listed
from quantkit.tokenizer.sentencepiece_model import BPE, SentencePieceModel
from quantkit.tokenizer.space_effect import effect
from quantkit.tokenizer.token_flags import FIRST_ONLY
from quantkit.tokenizer.vocabulary import (
    PADDING_SCORE,
    SPACE,
    Token,
    TokenType,
    Vocabulary,
    check_distinct,
    missing_bytes,
    padding,
)
from quantkit.untrusted import listed, shown

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
METASPACE = "the source puts no space before text that begins with one, llama.cpp does; other text is split alike"
LEFT_OUT = frozenset({TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED})  # kinds that no text is split into
UNICODE_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Precompiled"})


def sentencepiece_vocabulary(
    model: SentencePieceModel, files: TokenizerFiles, raw: Mapping[str, Any] | None = None, *, phi: bool = False
) -> Vocabulary:
    """The vocabulary of a tokenizer.model, with what the other files add or replace, padded to the embedding.

    `raw` is the parsed tokenizer.json beside it; what counts of it and of the other files, and `phi`, is said at
    `place_listed`. Differs from the reference (conversion/base.py, _create_vocab_sentencepiece) in what is said there;
    user-defined pieces keep that type, so that llama.cpp finds them in text as SentencePiece does (the reference calls
    them normal); and `space_prefix` follows the model. Raises InputError when there are more pieces that text is split
    into than rows of the embedding, UnsupportedError for models that are not BPE.
    """
    _check_model(model)
    size = len(model.pieces) if files.vocab_size is None else files.vocab_size
    warnings = list(_pieces_beyond(model, size))
    tokens = [padding(index, PADDING_SCORE) for index in range(size)]
    for index, piece in enumerate(model.pieces[:size]):
        text = piece.text.replace(SPACE, " ") if piece.kind is TokenType.USER_DEFINED else piece.text
        tokens[index] = Token(text, piece.kind, piece.score)
    warnings += _model_warnings(model)
    warnings += place_listed(tokens, model, files, raw, phi=phi)
    check_distinct(tokens)
    prefix = None if model.add_dummy_prefix else False
    warnings += missing_bytes(tokens)
    return Vocabulary("llama", "default", tuple(tokens), space_prefix=prefix, warnings=tuple(warnings))


def _pieces_beyond(model: SentencePieceModel, size: int) -> Iterable[tuple[str, str]]:
    """A warning for special pieces beyond the embedding; the model has no vector for them."""
    beyond = model.pieces[size:]
    if any(piece.kind not in LEFT_OUT for piece in beyond):
        raise bad(TOKENIZER_MODEL, "the number of pieces", len(model.pieces), f"at most the embedding's {size:,} rows")
    if beyond:
        who = listed([f'"{piece.text}"' for piece in beyond], 3)
        yield "tokenizer-added", f"{TOKENIZER_MODEL}: {who} beyond the embedding's {size:,} rows; left out"


def _check_model(model: SentencePieceModel) -> None:
    rules = (
        (model.model_type != BPE, "is not a BPE model (trainer_spec.model_type); llama.cpp would split it as one"),
        (model.treat_whitespace_as_suffix, "writes spaces after words (treat_whitespace_as_suffix)"),
        (not model.escape_whitespaces, "does not write spaces as U+2581 (escape_whitespaces)"),
    )
    for broken, why in rules:
        if broken:
            hint = "only BPE models with spaces before words can be written as a llama.cpp vocabulary"
            raise UnsupportedError(f"{TOKENIZER_MODEL} {why}", path=TOKENIZER_MODEL, hint=hint)


def _model_warnings(model: SentencePieceModel) -> Iterable[tuple[str, str]]:
    if model.charsmap:
        message = f"{TOKENIZER_MODEL} normalizes Unicode, llama.cpp does not: text that changes is split differently"
        yield "tokenizer-normalizer", message
    if model.remove_extra_whitespaces:
        message = f"{TOKENIZER_MODEL} drops repeated spaces, llama.cpp does not: such text is split differently"
        yield "tokenizer-normalizer", message


def byte_fallback_vocabulary(tokenizer: BpeTokenizer, files: TokenizerFiles) -> Vocabulary:
    """The vocabulary of a tokenizer.json whose BPE falls back to bytes, with scores made from its merges.

    Token k of those that merges make, in order of rank, has score -k: llama.cpp then merges in the order of the
    source, and where a SentencePiece model was converted to this file, its own scores come back. Ordinary tokens that
    no merge makes (single characters) follow in order of id; the rest comes last.

    Differs from the reference (gguf-py/gguf/vocab.py, LlamaHfVocab): that writes -1000 for every token, with which
    llama.cpp splits many words differently from the source; it writes no padding, with which llama.cpp refuses the
    file; and it takes added tokens inside the base vocabulary for ordinary ones.
    """
    spaces = find_spaces(tokenizer)
    added, warnings = added_tokens(tokenizer, files)
    size, left_out = rows_for(tokenizer, added, files)
    scores, unmade = merge_scores(tokenizer, {token.content for token in added})
    worst = -float(len(scores))
    tokens = [padding(index, worst) for index in range(size)]
    for text, index in tokenizer.vocab.items():
        if index >= size:
            continue
        kind = TokenType.BYTE if BYTE.fullmatch(text) else TokenType.NORMAL
        tokens[index] = Token(text, kind, scores.get(text, worst))
    for token in added:
        # A merge makes this token from spaces; as an added token it is only matched where the text has U+2581.
        merged = SPACE in token.content and not token.special and token.content in scores
        if token.index < size and not merged:
            text = token.content if token.special else token.content.replace(SPACE, " ")
            tokens[token.index] = Token(text, TokenType.CONTROL if token.special else TokenType.USER_DEFINED, worst)
    check_distinct(tokens)
    notes = (*warnings, *left_out, *spaces.warnings, *_merge_warnings(tokenizer, unmade), *missing_bytes(tokens))
    prefix = None if spaces.prefix else False
    return Vocabulary("llama", "default", tuple(tokens), space_prefix=prefix, warnings=notes)


def merge_scores(tokenizer: BpeTokenizer, added: set[str]) -> tuple[dict[str, float], int]:
    """Score of every token that is ordinary or made by a merge, and how many longer ones no merge makes."""
    scores: dict[str, float] = {}
    for left, right in tokenizer.merges:
        scores.setdefault(left + right, -float(len(scores)))
    unmade = 0
    for text in sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__):
        if text not in scores and text not in added and not BYTE.fullmatch(text):
            scores[text] = -float(len(scores))
            unmade += len(text) > 1
    return scores, unmade


def _merge_warnings(tokenizer: BpeTokenizer, unmade: int) -> Iterable[tuple[str, str]]:
    if unmade:
        tokens = f"{unmade:,} tokens of {TOKENIZER_JSON} are" if unmade > 1 else f"1 token of {TOKENIZER_JSON} is"
        message = f"{tokens} made by no merge; llama.cpp may form {'them' if unmade > 1 else 'it'} all the same"
        yield "tokenizer-merges", message
    if tokenizer.ignore_merges:
        message = f"{TOKENIZER_JSON} takes whole words without merging (ignore_merges), llama.cpp does not"
        yield "tokenizer-merges", message


@record
class Spaces:
    """What the normalizer and pre-tokenizer of a SentencePiece-style tokenizer.json do with spaces.

    `prefix`: a space is put before text; `shared`: but not before text that begins with one.
    """

    prefix: bool
    shared: bool
    warnings: tuple[tuple[str, str], ...]


def find_spaces(tokenizer: BpeTokenizer) -> Spaces:
    """Read the normalizer and pre-tokenizer; steps that are not known are judged by what all of them do together.

    Raises UnsupportedError, showing the section, for what llama.cpp cannot do.
    """
    prefix, escaped, shared = False, False, False
    warnings = []
    for section, step in (*_steps("normalizer", tokenizer), *_steps("pre_tokenizer", tokenizer)):
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE:
            escaped = True
        elif kind == "Metaspace" and step.get("replacement") == SPACE:
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            prefix, escaped, shared = scheme != "never", True, scheme != "never"
            if shared:
                warnings.append(("tokenizer-space-prefix", METASPACE))
            if scheme == "first":
                warnings.append(("tokenizer-space-prefix", FIRST_ONLY))
        elif kind in UNICODE_NORMALIZERS:
            message = f"{TOKENIZER_JSON} applies {kind}, llama.cpp does not: text that it changes is split differently"
            warnings.append(("tokenizer-normalizer", message))
        elif not (escaped and kind == "Split" and step.get("pattern") == {"String": " "}):
            return _by_effect(tokenizer, section, step, tuple(warnings))
    if not escaped:
        return _by_effect(tokenizer, "normalizer", tokenizer.normalizer, tuple(warnings))
    return Spaces(prefix, shared, tuple(warnings))


def _by_effect(tokenizer: BpeTokenizer, section: str, step: object, warnings: tuple[tuple[str, str], ...]) -> Spaces:
    found = effect(tokenizer)
    if found is None:
        raise _unknown(section, step)
    when, changes_unicode = found
    notes = [warning for warning in warnings if warning[1] != METASPACE or when == "unless"]
    if when == "unless" and ("tokenizer-space-prefix", METASPACE) not in notes:
        notes.append(("tokenizer-space-prefix", METASPACE))
    if changes_unicode and not any(code == "tokenizer-normalizer" for code, _ in notes):
        message = f"{TOKENIZER_JSON} normalizes Unicode, llama.cpp does not: text that changes is split differently"
        notes.append(("tokenizer-normalizer", message))
    return Spaces(when != "never", when == "unless", tuple(notes))


def _steps(section: str, tokenizer: BpeTokenizer) -> list[tuple[str, Mapping[str, Json]]]:
    """The steps of a section in order, sequences unfolded."""
    step: Json = tokenizer.normalizer if section == "normalizer" else tokenizer.pre_tokenizer
    listed: Json = [step]
    if isinstance(step, dict) and step.get("type") == "Sequence":
        listed = step.get("normalizers" if section == "normalizer" else "pretokenizers")
    if step is None:
        return []
    if not isinstance(listed, list):
        raise bad(TOKENIZER_JSON, section, listed, "a list of steps")
    steps: list[tuple[str, Mapping[str, Json]]] = []
    for each in listed:
        if not isinstance(each, dict) or not isinstance(each.get("type"), str):
            raise bad(TOKENIZER_JSON, section, each, "an object with a type")
        steps.append((section, each))
    return steps


def _unknown(section: str, step: object) -> UnsupportedError:
    message = f"{TOKENIZER_JSON}: {section} is {shown(str(step), 400)}, which llama.cpp's SentencePiece cannot do"
    hint = "a tokenizer.model beside it would be used instead"
    return UnsupportedError(message, path=TOKENIZER_JSON, key=section, hint=hint)
