"""PLaMo's vocabulary: pieces with scores in a file of their own, and text is cut into those of the best sum.

tokenizer.jsonl has a line for each token, a list of its text, its score and its kind ("NORMAL", "BYTE", "CONTROL",
"UNKNOWN"), and more that nothing here reads. What no piece covers is spelled in bytes. Source: `_set_vocab_plamo` of
conversion/base.py and `llm_tokenizer_plamo2` of llama.cpp, October 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from quantkit.errors import InputError
from quantkit.families.hparams import MAX_NUMBER
from quantkit.tokenizer.files import MAX_TOKENS, TokenizerFiles, read_text
from quantkit.tokenizer.libraries import BatchEncoder
from quantkit.tokenizer.vocabulary import ADDED_SCORE, Token, TokenType, Vocabulary, check_distinct, padding
from quantkit.untrusted import shown

PLAMO = "plamo2"
LINES = "tokenizer.jsonl"
MAX_LINE = 1 << 16  # characters
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character
KINDS = {"UNKNOWN": TokenType.UNKNOWN, "CONTROL": TokenType.CONTROL, "BYTE": TokenType.BYTE}
CONTROL = ("<|plamo:", "|>")  # how control tokens begin and end, whatever their kind
SCALE = 10_000  # scores are whole numbers of this part of one
UNKNOWN, NEVER = -10_000_000, -20_000_000  # the score of a character without a piece; no piece has less than the other
BOM = "\ufeff"  # dropped by llama.cpp where a text begins with it
HINT = "the file is damaged: fetch it again"


def read_lines(files: TokenizerFiles) -> tuple[Token, ...] | None:
    """The tokens of the file with scores as float32 has them, None where there is no file.

    Raises InputError naming the line of what is no token.
    """
    text = read_text(files.read_file, LINES)
    if text is None:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    if not 0 < len(lines) <= MAX_TOKENS:
        raise InputError(f"{LINES} has {len(lines):,} tokens", path=LINES, hint=HINT)
    return tuple(_token(line, number) for number, line in enumerate(lines, 1))


def _token(line: str, number: int) -> Token:
    try:
        entry = json.loads(line) if len(line) <= MAX_LINE else None
    except (ValueError, RecursionError):
        entry = None
    text, score, kind = [*entry, None][:3] if isinstance(entry, list) and len(entry) > 1 else (None, None, None)
    scored = isinstance(score, int | float) and not isinstance(score, bool) and abs(score) <= MAX_NUMBER
    if scored and isinstance(text, str) and text and not SURROGATE.search(text):
        return Token(text, _kind(text, kind), float(np.float32(score or 0.0)))
    what = f'{LINES}, line {number:,}: "{shown(line[:80])}" is no list of a text and a number'
    raise InputError(what, path=LINES, key=str(number), hint=HINT)


def _kind(text: str, said: object) -> TokenType:
    """What a token is: by its text where it looks like PLaMo's control tokens and nothing else is said."""
    begins, ends = CONTROL
    looks = TokenType.CONTROL if text.startswith(begins) and text.endswith(ends) else TokenType.NORMAL
    return KINDS.get(said, looks) if isinstance(said, str) else looks


def plamo_vocabulary(files: TokenizerFiles) -> Vocabulary:
    """The vocabulary, padded to the rows of the embedding. Raises InputError for more tokens than rows, for two that
    are the same, and where a byte has no token."""
    tokens = read_lines(files)
    if tokens is None:
        message = f"the checkpoint has no {LINES}"
        raise InputError(message, path=LINES, hint="copy the vocabulary of the original model here")
    rows = files.vocab_size or len(tokens)
    if len(tokens) > rows:
        what = f"{LINES} has {len(tokens):,} tokens, the embedding has {rows:,} rows"
        raise InputError(what, path=LINES, key="vocab_size", hint="the vocabulary and the weights are of two models")
    bytes_of([token.text for token in tokens], [token.kind for token in tokens])
    found = (*tokens, *(padding(number, ADDED_SCORE) for number in range(1, rows - len(tokens) + 1)))
    check_distinct(found)
    return Vocabulary(PLAMO, "default", found, space_prefix=False)


def bytes_of(texts: Sequence[str], kinds: Sequence[TokenType]) -> tuple[int, ...]:
    """The tokens of the 256 bytes. Raises InputError for a byte without one; llama.cpp wants it not to be token 0."""
    ids = {text: index for index, (text, kind) in enumerate(zip(texts, kinds, strict=True)) if kind is TokenType.BYTE}
    found = tuple(ids.get(f"<0x{byte:02X}>", 0) for byte in range(256))
    if 0 in found:
        what = f"the vocabulary has no token for the byte {found.index(0)}"
        raise InputError(what, path=LINES, key="tokenizer.ggml.tokens", hint=HINT)
    return found


def best_sum(tokens: Sequence[Token]) -> BatchEncoder:
    """The encoder of these tokens: the pieces of a text whose scores have the highest sum. Of two ways of the same sum
    the one counts that begins with the longer piece; a piece of the score of unknown characters hides shorter ones."""
    spelled = bytes_of([token.text for token in tokens], [token.kind for token in tokens])
    pieces: dict[str, tuple[int, int]] = {}
    lengths: dict[str, set[int]] = {}
    for index, token in enumerate(tokens):
        if token.kind is not TokenType.BYTE and token.text:
            pieces[token.text] = (index, round(token.score * SCALE))
            lengths.setdefault(token.text[0], set()).add(len(token.text))
    longest = {first: sorted(counts, reverse=True) for first, counts in lengths.items()}

    def encode(text: str) -> list[int]:
        text = text.removeprefix(BOM)
        best, taken = [0] * (len(text) + 1), [(-1, 1)] * len(text)
        for at in range(len(text) - 1, -1, -1):
            best[at], taken[at] = _choose(text, at, best, longest.get(text[at], ()), pieces)
        found, at = list[int](), 0
        while at < len(text):
            index, length = taken[at]
            found += [index] if index >= 0 else [spelled[byte] for byte in text[at].encode("utf-8", "surrogatepass")]
            at += length
        return found

    return lambda texts: [encode(text) for text in texts]


def _choose(
    text: str, at: int, best: Sequence[int], lengths: Sequence[int], pieces: Mapping[str, tuple[int, int]]
) -> tuple[int, tuple[int, int]]:
    """What the text from `at` on costs at least, with the token that does it (-1 for bytes) and its length."""
    found: tuple[int, tuple[int, int]] | None = None
    for length in (length for length in lengths if at + length <= len(text)):
        index, score = pieces.get(text[at : at + length], (-1, NEVER))
        if score > NEVER and (found is None or best[at + length] - score < found[0]):
            found = best[at + length] - score, (index, length)
        if score == UNKNOWN and found is not None:
            return found
    unknown = best[at + 1] - UNKNOWN
    return (unknown, (-1, 1)) if found is None or unknown < found[0] else found
