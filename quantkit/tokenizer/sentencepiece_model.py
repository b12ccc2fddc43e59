"""A bounded reader of SentencePiece's `tokenizer.model`: a serialized ModelProto, read without the library.

Message ModelProto (sentencepiece_model.proto), as far as it decides how text is split:

    1 pieces           { 1 piece: string   2 score: float32   3 type: enum }         repeated
    2 trainer_spec     { 3 model_type: enum   24 treat_whitespace_as_suffix: bool   35 byte_fallback: bool }
    3 normalizer_spec  { 2 precompiled_charsmap: bytes   3 add_dummy_prefix: bool
                         4 remove_extra_whitespaces: bool   5 escape_whitespaces: bool }

The wire format is Protocol Buffers': every field is a varint `number << 3 | wire type`, followed by a varint (0),
8 bytes (1), a length and bytes (2) or 4 bytes (5).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import replace

from quantkit.errors import InputError
from quantkit.records import record
from quantkit.tokenizer.files import MAX_TOKEN_CHARACTERS, MAX_TOKENS, TOKENIZER_MODEL
from quantkit.tokenizer.vocabulary import TokenType
from quantkit.untrusted import shown

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
UNIGRAM, BPE = 1, 2  # enum TrainerSpec.ModelType
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


MAX_UNKNOWN = 1000  # fields besides pieces and their settings: the library writes two

PIECE_TYPES = {int(kind): kind for kind in TokenType}  # enum ModelProto.SentencePiece.Type

# A piece as the library writes it
ONE_BYTE = tuple(bytes([number]) for number in range(0x80))
TEXT, SCORE, FLOAT = b"\x0a", b"\x15", struct.Struct("<f")
PIECE_TYPE = {b"": TokenType.NORMAL, **{bytes([0x18, number]): kind for number, kind in PIECE_TYPES.items()}}


@record(slots=True)
class Piece:
    """One vocabulary entry; spaces in `text` are U+2581."""

    text: str
    score: float
    kind: TokenType


@record
class SentencePieceModel:
    """What a tokenizer.model says. `charsmap` holds the rules of a normalizer other than identity."""

    pieces: tuple[Piece, ...]
    model_type: int = UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    treat_whitespace_as_suffix: bool = False
    byte_fallback: bool = False


Value = int | bytes


def parse_sentencepiece(data: bytes) -> SentencePieceModel:
    """Parse the bytes of a tokenizer.model.

    Raises InputError for anything that is not a ModelProto with distinct, non-empty UTF-8 pieces and finite scores.
    """
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    unknown = 0
    for number, value in _fields(data, "model"):
        if number == 1:
            if len(pieces) == MAX_TOKENS:
                raise _broken(f"more than {MAX_TOKENS:,} pieces")
            piece = _message(value, "pieces")
            pieces.append(_usual_piece(piece) or _piece(piece, len(pieces)))
        elif number == 2:
            trainer.update(_fields(_message(value, "trainer_spec"), "trainer_spec"))
        elif number == 3:
            normalizer.update(_fields(_message(value, "normalizer_spec"), "normalizer_spec"))
        else:
            unknown += 1
            if unknown > MAX_UNKNOWN:
                raise _broken(f"more than {MAX_UNKNOWN:,} fields that are not known")
    _check_pieces(pieces)
    return SentencePieceModel(
        pieces=tuple(pieces),
        model_type=_integer(trainer.get(3, UNIGRAM), "trainer_spec.model_type"),
        charsmap=_message(normalizer.get(2, b""), "normalizer_spec.precompiled_charsmap"),
        add_dummy_prefix=_flag(normalizer, 3, default=True),
        remove_extra_whitespaces=_flag(normalizer, 4, default=True),
        escape_whitespaces=_flag(normalizer, 5, default=True),
        treat_whitespace_as_suffix=_flag(trainer, 24, default=False),
        byte_fallback=_flag(trainer, 35, default=False),
    )


def encode_sentencepiece(model: SentencePieceModel) -> bytes:
    """The bytes of a tokenizer.model with byte fallback that the sentencepiece library loads (for verification)."""
    chunks = []
    for piece in model.pieces:
        text = piece.text.encode()
        score = SCORE + FLOAT.pack(piece.score)
        chunks.append(_chunk(1, _chunk(1, text) + score + b"\x18" + ONE_BYTE[piece.kind]))
    has_bytes = sum(piece.kind is TokenType.BYTE for piece in model.pieces) == 256  # the library wants all or none
    trainer = b"\x18" + bytes([model.model_type]) + b"\x98\x02" + bytes([has_bytes])  # model_type, byte_fallback (35)
    flags = (model.add_dummy_prefix, model.remove_extra_whitespaces, model.escape_whitespaces)
    charsmap = _chunk(2, model.charsmap) if model.charsmap else b""
    normalizer = charsmap + b"".join(bytes([number << 3, flag]) for number, flag in zip((3, 4, 5), flags, strict=True))
    return b"".join((*chunks, _chunk(2, trainer), _chunk(3, normalizer)))


def loadable(data: bytes, model: SentencePieceModel) -> bytes:
    """`data`, or where its specification contradicts its pieces, the bytes of the same pieces that the library loads.

    The sentencepiece library refuses byte pieces without the flag byte_fallback, some byte pieces instead of all, and
    two unknown pieces. llama.cpp goes by the pieces alone: it falls back to the byte pieces that there are. Bytes that
    are missing are put after all pieces here.
    """
    texts = {piece.text for piece in model.pieces}
    bytes_ = sum(piece.kind is TokenType.BYTE for piece in model.pieces)
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in texts] if bytes_ else []
    unknown = [index for index, piece in enumerate(model.pieces) if piece.kind is TokenType.UNKNOWN]
    if not missing and len(unknown) < 2 and bool(bytes_) == model.byte_fallback and bytes_ in {0, 256}:
        return data
    pieces = [
        replace(piece, kind=TokenType.CONTROL) if index in unknown[1:] else _byte(piece, bytes_)
        for index, piece in enumerate(model.pieces)
    ]
    more = [Piece(text, 0.0, TokenType.BYTE) for text in missing]
    return encode_sentencepiece(replace(model, pieces=(*pieces, *more)))


def _byte(piece: Piece, count: int) -> Piece:
    """A piece whose text is that of a byte is one, where there are bytes."""
    return replace(piece, kind=TokenType.BYTE) if count and BYTE.fullmatch(piece.text) else piece


def is_tiktoken(data: bytes) -> bool:
    """Whether a file called tokenizer.model is a tiktoken vocabulary: lines of base64, a space and a rank."""
    return re.match(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n", data[:1024]) is not None


def _broken(why: str) -> InputError:
    hint = "fetch the file again; a Git LFS pointer or a web page often takes its place"
    return InputError(f"{TOKENIZER_MODEL} is no SentencePiece model: {why}", path=TOKENIZER_MODEL, hint=hint)


def _fields(data: bytes, where: str) -> Iterator[tuple[int, Value]]:
    """(field number, value) of a message in file order; 4- and 8-byte values as bytes."""
    offset = 0
    while offset < len(data):
        tag, offset = _read_varint(data, offset, where)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _broken(f"field number 0 in {where}")
        if wire == VARINT:
            value, offset = _read_varint(data, offset, where)
            yield number, value
            continue
        if wire == BYTES:
            size, offset = _read_varint(data, offset, where)
        elif wire in {FIXED32, FIXED64}:
            size = 4 if wire == FIXED32 else 8
        else:
            raise _broken(f"wire type {wire} in {where}")
        if size > len(data) - offset:
            raise _broken(f"field {number} of {where} has {size:,} bytes, {len(data) - offset:,} are left")
        yield number, data[offset : offset + size]
        offset += size


def _read_varint(data: bytes, offset: int, where: str) -> tuple[int, int]:
    if offset < len(data) and data[offset] < 0x80:  # nearly all of them
        return data[offset], offset + 1
    value = 0
    for position in range(MAX_VARINT_BYTES):
        if offset + position >= len(data):
            raise _broken(f"{where} ends inside a number")
        byte = data[offset + position]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, offset + position + 1
    raise _broken(f"a number of more than {MAX_VARINT_BYTES} bytes in {where}")


def _chunk(number: int, data: bytes) -> bytes:
    """A field of bytes."""
    return ONE_BYTE[number << 3 | BYTES] + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    if value < 0x80:  # nearly all of them
        return ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(value: Value, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise _broken(f"{where} is a number, expected bytes")
    return value


def _integer(value: Value, where: str) -> int:
    if not isinstance(value, int):
        raise _broken(f"{where} is not a number")
    return value


def _flag(spec: dict[int, Value], number: int, *, default: bool) -> bool:
    return bool(_integer(spec.get(number, default), f"field {number}"))


def _usual_piece(data: bytes) -> Piece | None:
    """A piece as the library writes nearly all: a short text, its score, and the type of one that is not ordinary.

    None for any other, and for what is wrong, which `_piece` names. It takes a third of the time.
    """
    after = 2 + data[1] if data[:1] == TEXT and len(data) > 1 else 0
    if not 2 < after < 2 + 0x80 or data[after : after + 1] != SCORE:
        return None
    kind = PIECE_TYPE.get(data[after + 5 :])
    try:
        text = data[2:after].decode("utf-8")
    except UnicodeDecodeError:
        return None
    if kind is None or len(data) < after + 5:
        return None
    (score,) = FLOAT.unpack_from(data, after + 1)
    return Piece(text, score, kind) if math.isfinite(score) else None


def _piece(data: bytes, index: int) -> Piece:
    where = f"pieces[{index}]"
    found = dict(_fields(data, where))
    raw, score, kind = found.get(1, b""), found.get(2, bytes(4)), found.get(3, int(TokenType.NORMAL))
    raw = _message(raw, f"{where}.piece")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(f"{where} is not UTF-8: {shown(raw)}") from error
    if not 0 < len(text) <= MAX_TOKEN_CHARACTERS:
        raise _broken(f"{where} has {len(text):,} characters")
    if not isinstance(score, bytes) or len(score) != 4:
        raise _broken(f"the score of {where} is not a float")
    value = struct.unpack("<f", score)[0]
    if not math.isfinite(value):
        raise _broken(f"the score of {where} is {value}")
    if kind not in PIECE_TYPES:
        raise _broken(f"{where} has type {shown(str(kind))}")
    return Piece(text, value, PIECE_TYPES[_integer(kind, where)])


def _check_pieces(pieces: list[Piece]) -> None:
    if not pieces:
        raise _broken("it has no pieces")
    if len({piece.text for piece in pieces}) == len(pieces):
        return
    seen: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        if seen.setdefault(piece.text, index) != index:
            raise _broken(f'pieces {seen[piece.text]} and {index} are both "{shown(piece.text)}"')
