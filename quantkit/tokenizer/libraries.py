"""The libraries that split text, `tokenizers` and `sentencepiece`: loaded when needed, their errors made ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantkit.errors import InputError
from quantkit.tokenizer.files import HINT, TOKENIZER_JSON, TOKENIZER_MODEL
from quantkit.tokenizer.native import no_panic, require_harmless
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

Encoder = Callable[[str], list[int]]
BatchEncoder = Callable[[Sequence[str]], list[list[int]]]


def load_tokenizer_json(data: bytes, more: Iterable[AddedToken] = ()) -> Tokenizer:
    """Load the bytes of a tokenizer.json, without truncation and padding; add the tokens of `more` in their order.

    Takes about 0.5 s for 150,000 tokens. Raises InputError when the library rejects the file,
    or dies of it in the process in which anything unusual is tried first.
    """
    import tokenizers

    require_harmless(data, TOKENIZER_JSON)
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing narrower
        message = f"{TOKENIZER_JSON}: the tokenizers library rejects it: {shown(str(error))}"
        raise InputError(message, path=TOKENIZER_JSON, hint=HINT) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_tokens(list(more))
    return tokenizer


def load_sentencepiece(data: bytes) -> Any:
    """A SentencePieceProcessor for the bytes of a tokenizer.model. Raises InputError when the library rejects them."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        message = f"{TOKENIZER_MODEL}: sentencepiece rejects it: {shown(str(error))}"
        raise InputError(message, path=TOKENIZER_MODEL, hint="fetch the file again") from error
    return processor


def by_library(tokenizer: Tokenizer) -> BatchEncoder:
    """The ids that a loaded tokenizer.json gives, without what its post-processor adds."""

    def encode(texts: Sequence[str]) -> list[list[int]]:
        with no_panic(TOKENIZER_JSON):
            return [found.ids for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    return encode


def by_sentencepiece(processor: Any) -> BatchEncoder:
    """The ids that a SentencePieceProcessor gives."""

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in processor.EncodeAsIds(list(texts))]

    return encode


def one_by_one(encode: BatchEncoder, first: Sequence[int] = (), last: Sequence[int] = ()) -> Encoder:
    """The same for single texts, with ids before and after those of the text."""
    return lambda text: [*first, *encode([text])[0], *last]


def cut_before(cut: Callable[[str], Iterable[str | int]], encode: BatchEncoder) -> BatchEncoder:
    """Encode what `cut` leaves as text by itself, between the ids that it puts in place of tokens."""

    def encode_all(texts: Sequence[str]) -> list[list[int]]:
        parts = [[part for part in cut(text) if part != ""] for text in texts]
        following = iter(encode([part for found in parts for part in found if isinstance(part, str)]))
        return [
            next(following)
            if len(found) == 1 and isinstance(found[0], str)
            else [i for part in found for i in ([part] if isinstance(part, int) else next(following))]
            for found in parts
        ]

    return encode_all


class Finder:
    """Finds tokens in text: at every place where one begins, in time that does not depend on how many there are."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = tokens
        lengths: dict[str, set[int]] = {}
        for token in tokens:
            lengths.setdefault(token[0], set()).add(len(token))
        self._lengths = {character: sorted(found, reverse=True) for character, found in lengths.items()}
        self._first = re.compile("[" + "".join(map(re.escape, sorted(lengths))) + "]") if lengths else None

    def all(self, text: str) -> Iterator[tuple[int, str]]:
        """Every token at every place, overlapping ones too; at one place the longest first."""
        for found in self._first.finditer(text) if self._first else ():
            at = found.start()
            for length in self._lengths[found[0]]:
                if (token := text[at : at + length]) in self._tokens:
                    yield at, token

    def _none(self, text: str) -> bool:
        """Whether no token begins like any character of the text, as in most texts."""
        return self._first is None or self._first.search(text) is None

    def cut(self, text: str) -> list[str | int]:
        """The text with ids in place of tokens, from left to right; of those that begin at one place the longest."""
        if self._none(text):
            return [text]
        parts: list[str | int] = []
        done = 0
        for at, token in self.all(text):
            if at >= done:
                parts += [text[done:at], self._tokens[token]]
                done = at + len(token)
        return [*parts, text[done:]]

    def cut_longest_first(self, text: str) -> list[str | int]:
        """llama.cpp's order: all places of the longest token (in bytes) first, then of the next."""
        parts: list[str | int] = [text]
        if self._none(text):
            return parts
        present = {token for _, token in self.all(text)}
        for token in sorted(present, key=lambda token: (-len(token.encode()), self._tokens[token])):
            parts = [piece for part in parts for piece in _around(part, token, self._tokens[token])]
        return parts


def _around(part: str | int, token: str, index: int) -> list[str | int]:
    if isinstance(part, int):
        return [part]
    return [piece for text in part.split(token) for piece in (text, index)][:-1]
