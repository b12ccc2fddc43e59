"""WordPiece and Unigram vocabularies of a GGUF file, encoded as llama.cpp does (src/llama-vocab.cpp, October 2026)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quantkit.tokenizer.libraries import BatchEncoder, by_library, load_sentencepiece
from quantkit.tokenizer.sentencepiece_model import UNIGRAM, Piece, SentencePieceModel, encode_sentencepiece
from quantkit.tokenizer.vocabulary import SPACE, TokenType

LOWERCASE, STRIP_ACCENTS = "normalizer.lowercase", "normalizer.strip_accents"
WHITE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(0x2000 + i) for i in range(11)}
IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
NO_LIMIT = 1 << 30  # characters of a word


def words_of(values: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """How llama.cpp cuts text into the words of a WordPiece vocabulary, by the entries of the file.

    Of a character that decomposes it takes the first part alone, so that a Korean syllable becomes its first letter.
    """
    lower = values.get(LOWERCASE, True) is True
    strip = values.get(STRIP_ACCENTS, lower) is True

    def words(text: str) -> list[str]:
        found: list[str] = []
        word = ""
        for given in text:
            character = unicodedata.normalize("NFD", given)[0] if strip else given
            category = unicodedata.category(character)
            if character in WHITE:
                found, word = ([*found, word] if word else found), ""
                continue
            if character in "\0\ufffd" or category[0] == "C" or (strip and category[0] == "M"):
                continue
            alone = category[0] == "P" or (ord(character) < 0x7F and category[0] == "S") or _ideograph(character)
            small = character.lower()[0] if lower else character
            if alone:
                found, word = [*found, *([word] if word else []), small], ""
            else:
                word += small
        return [*found, word] if word else found

    return words


def _ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


def rebuild_wordpiece(values: Mapping[str, Any], tokens: Sequence[str], unk: int) -> BatchEncoder:
    """The ids of texts in which no special token is looked for; `unk` is the unknown token's."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import WhitespaceSplit

    vocab = {text[1:] if text.startswith(SPACE) else f"##{text}": index for index, text in enumerate(tokens)}
    unknown = f"\0{unk}"  # no text has it: words have no control characters
    library = Tokenizer(WordPiece({**vocab, unknown: unk}, unk_token=unknown, max_input_chars_per_word=NO_LIMIT))
    library.pre_tokenizer = WhitespaceSplit()
    words, encode = words_of(values), by_library(library)
    return lambda texts: encode([" ".join(words(text)) for text in texts])


def unigram_model(
    values: Mapping[str, Any], pieces: Sequence[tuple[str, float, TokenType]], unk: int
) -> SentencePieceModel:
    """A vocabulary as a SentencePiece model, which llama.cpp's code follows."""
    found = []
    for index, (text, score, kind) in enumerate(pieces):
        told = TokenType.CONTROL if kind in (TokenType.UNKNOWN, TokenType.BYTE) else kind
        found.append(Piece(text, score, TokenType.UNKNOWN if index == unk else told))
    return SentencePieceModel(
        tuple(found),
        UNIGRAM,
        charsmap=bytes(values.get("precompiled_charsmap") or b""),
        add_dummy_prefix=values.get("add_space_prefix", False) is True,
        remove_extra_whitespaces=values.get("remove_extra_whitespaces", False) is True,
    )


def rebuild_unigram(model: SentencePieceModel) -> BatchEncoder:
    """The ids of texts in which no special token is looked for.

    The tokenizers library adds scores in f64 as llama.cpp does; sentencepiece does in f32, and ties come out otherwise.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram

    worst = min((piece.score for piece in model.pieces if piece.kind is TokenType.NORMAL), default=0.0)
    scores = [(p.text, p.score if p.kind is TokenType.NORMAL else worst) for p in model.pieces]
    unk = next(i for i, piece in enumerate(model.pieces) if piece.kind is TokenType.UNKNOWN)
    normal, encode = normalizing(model), by_library(Tokenizer(Unigram(scores, unk, byte_fallback=False)))
    return lambda texts: encode([normal(text) for text in texts])


def normalizing(model: SentencePieceModel) -> Callable[[str], str]:
    """How such a model writes a text before it is split, with U+2581 for spaces."""
    processor = load_sentencepiece(encode_sentencepiece(model))
    return lambda text: str(processor.Normalize(text)).replace(" ", SPACE)
