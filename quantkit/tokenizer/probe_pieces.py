"""Which texts llama.cpp changes otherwise than the source before WordPiece or Unigram sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from quantkit.tokenizer.libraries import Finder
from quantkit.tokenizer.own import SourceTokenizer
from quantkit.tokenizer.probes import Why
from quantkit.tokenizer.rebuilt_pieces import LOWERCASE, STRIP_ACCENTS, normalizing, unigram_model, words_of
from quantkit.tokenizer.unigram import find_charsmap, find_spaces, written_by
from quantkit.tokenizer.vocabulary import TokenType

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECES = (("<unk>", 0.0, TokenType.UNKNOWN), ("a", 0.0, TokenType.NORMAL))  # the least that sentencepiece loads
LONGEST = 100  # characters of a word beyond which WordPiece takes the unknown token


def piece_rules(source: SourceTokenizer, finder: Finder) -> Iterator[Why]:
    """Each says why a text is left out, or None."""
    library = source.library
    assert library is not None
    if source.kind == "WordPiece":
        yield _words(source, library, _as_llama_cpp(library), finder)
    else:
        yield _written(source, written_by(library), finder)


def _as_llama_cpp(library: Tokenizer) -> Callable[[str], list[str]]:
    """How llama.cpp cuts text where it is told what the source does, which is asked and not read."""
    changed = library.normalizer.normalize_str("\u00c9") if library.normalizer else "\u00c9"
    return words_of({LOWERCASE: changed in ("e", "\u00e9"), STRIP_ACCENTS: changed in ("e", "E")})


def _words(source: SourceTokenizer, library: Tokenizer, theirs: Callable[[str], list[str]], finder: Finder) -> Why:
    longest = ((source.raw or {}).get("model") or {}).get("max_input_chars_per_word", LONGEST)
    reason = "llama.cpp cuts or normalizes the words of such text otherwise"

    def why(text: str) -> str | None:
        for part in finder.cut(text):
            if not isinstance(part, str) or not part:
                continue
            words = _cut(library, part)
            if _ids(library, words) != _ids(library, theirs(part)):
                return reason
            if any(len(word) > longest for word in words):
                return f"the source splits no words of more than {longest} characters, llama.cpp does"
        return None

    return why


def _ids(library: Tokenizer, words: list[str]) -> list[int]:
    """What the source's model makes of words."""
    return [token.id for word in words for token in library.model.tokenize(word)]


def _cut(library: Tokenizer, text: str) -> list[str]:
    normal = library.normalizer.normalize_str(text) if library.normalizer else text
    return [word for word, _ in _split(library, normal)]


def _split(library: Tokenizer, text: str) -> list[tuple[str, Any]]:
    return list(library.pre_tokenizer.pre_tokenize_str(text)) if library.pre_tokenizer else [(text, None)]


def _written(source: SourceTokenizer, mine: Callable[[str], str], finder: Finder) -> Why:
    spaces, section = find_spaces(mine), (source.raw or {}).get("normalizer")
    told = {
        "precompiled_charsmap": find_charsmap(section),
        "add_space_prefix": spaces.prefix,
        "remove_extra_whitespaces": spaces.merged,
    }
    theirs = normalizing(unigram_model(told, PIECES, 0))

    def why(text: str) -> str | None:
        parts = finder.cut(text)
        for part in parts:
            if isinstance(part, str) and part and mine(part) != theirs(part):
                return "llama.cpp normalizes such text, or its spaces, otherwise"
        return None

    return why
