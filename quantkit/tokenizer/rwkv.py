"""RWKV's "World" vocabulary: byte strings in a text file of their own, and text is cut into the longest that fit.

rwkv_vocab_v20230424.txt has a line for each token: its id, the bytes as a Python literal (text or bytes), how many
they are. Id 0 is no line: it is the token that ends a text, which llama.cpp calls "<s>". A GGUF file holds every token
as Python writes its bytes, without the quotes ("\\x0b", "\\n\\n").
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from quantkit.errors import InputError
from quantkit.tokenizer.files import MAX_TOKENS, TokenizerFiles, read_text
from quantkit.tokenizer.libraries import BatchEncoder
from quantkit.tokenizer.vocabulary import Token, TokenType, Vocabulary, check_distinct, padding
from quantkit.untrusted import shown

RWKV = "rwkv"
WORLD = "rwkv_vocab_v20230424.txt"
END = "<s>"
MAX_LITERAL = 4096  # characters of a line; the longest token has 128 bytes
HINT = "the file is damaged: fetch it again"


def read_world(files: TokenizerFiles) -> tuple[bytes, ...] | None:
    """The tokens from id 1 on, None where there is no such file.

    Raises InputError naming the line for an id out of order, for what is no literal, and for a wrong length.
    """
    text = read_text(files.read_file, WORLD)
    if text is None:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    if not 0 < len(lines) < MAX_TOKENS:
        raise InputError(f"{WORLD} has {len(lines):,} tokens", path=WORLD, hint=HINT)
    return tuple(_token(line, number) for number, line in enumerate(lines, 1))


def _token(line: str, number: int) -> bytes:
    """The bytes of one line, whose id has to be `number`."""
    index, _, rest = line.partition(" ")
    literal, _, length = rest.rpartition(" ")
    if index != str(number) or len(literal) > MAX_LITERAL or not literal.startswith(("'", '"', "b'", 'b"')):
        raise _bad(number, f'"{shown(line[:80])}" is not the token of id {number}')
    try:
        found = ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise _bad(number, f'"{shown(literal[:80])}" is no text') from error
    if not isinstance(found, str | bytes):
        raise _bad(number, f'"{shown(literal[:80])}" is no text')
    try:
        token = found.encode() if isinstance(found, str) else found
    except UnicodeEncodeError as error:
        raise _bad(number, f'"{shown(literal[:80])}" is no text of whole characters') from error
    if length.strip() != str(len(token)) or not token:
        raise _bad(number, f'"{shown(literal[:80])}" has {len(token)} bytes, the line says {shown(length[:20])}')
    return token


def _bad(number: int, what: str) -> InputError:
    return InputError(f"{WORLD}, line {number:,}: {what}", path=WORLD, key=str(number), hint=HINT)


def spelled(token: bytes) -> str:
    """A token as llama.cpp reads it."""
    return repr(token)[2:-1]


def world_vocabulary(files: TokenizerFiles) -> Vocabulary:
    """The vocabulary, padded to the rows of the embedding. Raises InputError for more tokens than rows, for two that
    are the same, and where a byte has no token: there is text then that cannot be split."""
    tokens = read_world(files)
    if tokens is None:
        message = f"the checkpoint has no {WORLD}"
        raise InputError(message, path=WORLD, hint="copy the vocabulary of the original model here")
    rows = len(tokens) + 1 if files.vocab_size is None else files.vocab_size
    if len(tokens) >= rows:
        what = f"{WORLD} has {len(tokens) + 1:,} tokens, the embedding has {rows:,} rows"
        raise InputError(what, path=WORLD, key="vocab_size", hint="the vocabulary and the weights are of two models")
    known = frozenset(tokens)
    missing = next((byte for byte in range(256) if bytes([byte]) not in known), None)
    if missing is not None:
        raise InputError(f"{WORLD} has no token for the byte {missing}", path=WORLD, hint=HINT)
    found = [
        Token(END, TokenType.CONTROL),
        *(Token(spelled(token), TokenType.NORMAL) for token in tokens),
        *(padding(index, 0.0) for index in range(len(tokens) + 1, rows)),
    ]
    check_distinct(found)
    return Vocabulary(RWKV, "default", tuple(found))


def longest_first(ids: Mapping[bytes, int]) -> BatchEncoder:
    """The encoder of byte strings: at every place of a text the longest that fits. A byte without one is left out."""
    lengths: dict[int, list[int]] = {}
    for token in ids:
        lengths.setdefault(token[0], []).append(len(token))
    longest = {first: sorted(set(counts), reverse=True) for first, counts in lengths.items()}

    def encode(text: str) -> list[int]:
        data, at, found = text.encode("utf-8", "surrogatepass"), 0, []
        while at < len(data):
            fitting = (n for n in longest.get(data[at], ()) if data[at : at + n] in ids)
            length = next(fitting, 0)
            found += [ids[data[at : at + length]]] if length else []
            at += length or 1
        return found

    return lambda texts: [encode(text) for text in texts]


def rebuild_world(tokens: Sequence[str], kinds: Sequence[TokenType]) -> BatchEncoder:
    """The encoder of the tokens in a file. Raises InputError for one that is no byte string as Python writes it."""
    ids: dict[bytes, int] = {}
    for index, (text, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind is not TokenType.NORMAL:
            continue
        try:
            ids[text.encode("ascii").decode("unicode_escape").encode("latin-1")] = index
        except (UnicodeEncodeError, UnicodeDecodeError) as error:
            message = f'token {index} is "{shown(text[:80])}", which is no byte string'
            raise InputError(message, key="tokenizer.ggml.tokens", hint="the file is damaged: convert again") from error
    ids.pop(b"", None)
    return longest_first(ids)
