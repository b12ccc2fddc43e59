"""The bounded reader of tokenizer.model against the sentencepiece library, and against what is no such file."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_speed import within
from sentencepiece import SentencePieceProcessor
from tokenizer_kinds import BUNDLED, kind

from quantkit.errors import InputError, QuantkitError
from quantkit.tokenizer.sentencepiece_model import (
    BPE,
    UNIGRAM,
    Piece,
    SentencePieceModel,
    encode_sentencepiece,
    is_tiktoken,
    parse_sentencepiece,
)
from quantkit.tokenizer.vocabulary import TokenType

DATA = (BUNDLED / "tokenizer.model").read_bytes()


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def piece(text: bytes = b"a", score: bytes = struct.pack("<f", -1.0), rest: bytes = b"") -> bytes:
    return field(1, field(1, text) + b"\x15" + score + rest)


@pytest.mark.parametrize("name", ["llama_spm", "gemma2"])
def test_pieces_scores_and_types_are_the_librarys(name: str) -> None:
    data = kind(name).files["tokenizer.model"]
    library, model = SentencePieceProcessor(model_proto=data), parse_sentencepiece(data)
    assert len(model.pieces) == library.vocab_size()
    for index, found in enumerate(model.pieces):
        assert found.text == library.IdToPiece(index)
        assert struct.pack("<f", found.score) == struct.pack("<f", library.GetScore(index))
        kinds = [library.IsUnknown(index), library.IsControl(index), library.IsUnused(index), library.IsByte(index)]
        assert kinds == [
            found.kind is t for t in (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.UNUSED, TokenType.BYTE)
        ]


def test_normalizer_and_model_type_are_read() -> None:
    assert parse_sentencepiece(DATA).model_type == BPE
    gemma = parse_sentencepiece(kind("gemma2").files["tokenizer.model"])
    assert (gemma.add_dummy_prefix, gemma.remove_extra_whitespaces, gemma.charsmap) == (False, False, b"")
    assert {p.text for p in gemma.pieces if p.kind is TokenType.USER_DEFINED} >= {"▁▁", "<table>", "\n"}


def test_a_file_without_specs_has_the_defaults_of_the_proto() -> None:
    model = parse_sentencepiece(piece(b"a", rest=b"\x18\x01"))
    assert model == SentencePieceModel((Piece("a", -1.0, TokenType.NORMAL),), UNIGRAM)
    assert (model.add_dummy_prefix, model.remove_extra_whitespaces, model.escape_whitespaces) == (True, True, True)


def test_unknown_fields_are_skipped_and_the_last_of_equal_ones_counts() -> None:
    strange = b"\xa0\x06\x01" + b"\x9d\x06abcd" + b"\x99\x06abcdefgh" + field(5, b"??")
    trainer = field(2, b"\x18\x01") + field(2, b"\x18\x02")
    assert parse_sentencepiece(strange + trainer + piece()).model_type == BPE


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=30, unique=True
    ),
    st.floats(-1e6, 0, width=32),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_what_is_encoded_is_parsed(texts: list[str], score: float, flags: tuple[bool, bool, bool]) -> None:
    scores = struct.unpack(f"<{len(texts)}f", struct.pack(f"<{len(texts)}f", *(score - n for n in range(len(texts)))))
    pieces = tuple(Piece(t, s, TokenType(1 + n % 6)) for n, (t, s) in enumerate(zip(texts, scores, strict=True)))
    model = SentencePieceModel(pieces, BPE, b"", *flags)
    assert parse_sentencepiece(encode_sentencepiece(model)) == model


def test_the_library_loads_what_is_encoded() -> None:
    model = parse_sentencepiece(DATA)
    ours = SentencePieceProcessor(model_proto=encode_sentencepiece(model))
    theirs = SentencePieceProcessor(model_proto=DATA)
    for text in ("Hello  world", " é 🦙\n\t", "def f(x):\n    return x", "▁a", ""):
        assert ours.EncodeAsIds(text) == theirs.EncodeAsIds(text)


HOSTILE = {
    "empty": (b"", "no pieces"),
    "a web page": (b"<!DOCTYPE html><html>", "no SentencePiece model"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "no SentencePiece model"),
    "cut inside a piece": (DATA[:1000], "left"),
    "cut inside a number": (piece() + b"\x80", "inside a number"),
    "an endless number": (b"\xff" * 11, "more than 10 bytes"),
    "a length of 2^60": (b"\x0a" + b"\xff" * 8 + b"\x0f", "are left"),
    "field zero": (b"\x00\x00", "field number 0"),
    "a group": (b"\x0b\x0c", "wire type 3"),
    "a piece that is a number": (b"\x08\x01", "expected bytes"),
    "no text": (piece(b""), "0 characters"),
    "not UTF-8": (piece(b"\xff\xfe"), "not UTF-8"),
    "a score of NaN": (piece(b"a", struct.pack("<f", float("nan"))), "score"),
    "an infinite score": (piece(b"a", struct.pack("<f", float("-inf"))), "score"),
    "a score of another type": (field(1, field(1, b"a") + b"\x10\x01"), "not a float"),
    "an unknown type": (piece(rest=b"\x18\x63"), "has type 99"),
    "a type that is text": (piece(rest=b"\x1a\x011"), "has type"),
    "twice the same piece": (piece() + piece(b"b") + piece(), 'pieces 0 and 2 are both "a"'),
    "a trainer that is a number": (piece() + b"\x10\x01", "trainer_spec is a number"),
    "a model type that is text": (piece() + field(2, b"\x1a\x012"), "not a number"),
    "a charsmap that is a number": (piece() + field(3, b"\x10\x01"), "expected bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_model_is_refused(name: str) -> None:
    data, why = HOSTILE[name]
    with pytest.raises(InputError, match=why) as caught:
        parse_sentencepiece(data)
    assert caught.value.path == "tokenizer.model"
    assert caught.value.hint


SMALL = encode_sentencepiece(SentencePieceModel(parse_sentencepiece(DATA).pieces[:300], BPE))


@settings(derandomize=True, max_examples=800, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255), st.integers(0, 100))
def test_damage_is_an_error_or_another_model_but_never_anything_else(at: int, byte: int, cut: int) -> None:
    damaged = SMALL[:at] + bytes([byte]) + SMALL[at + 1 : len(SMALL) - cut]
    with within(2):
        try:
            parse_sentencepiece(damaged)
        except QuantkitError as error:
            assert isinstance(error, InputError)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_parsed(data: bytes) -> None:
    try:
        parse_sentencepiece(data)
    except QuantkitError as error:
        assert isinstance(error, InputError)


def test_tiktoken_vocabularies_are_told_from_sentencepiece() -> None:
    assert is_tiktoken(b"IQ== 0\nIg== 1\n")
    assert is_tiktoken(b"aGVsbG8 17\r\n")
    assert not is_tiktoken(DATA)
    assert not is_tiktoken(b"")
    assert not is_tiktoken(kind("gemma2").files["tokenizer.model"])
