"""Texts to windows of tokens: which ones, in which order, and a record of it that holds no text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError

I32 = NDArray[np.int32]
Encoder = Callable[[str], list[int]]


@dataclass(frozen=True)
class Texts:
    """Documents from a file or data set. `sha256` is that of the file's bytes, or of the documents where there is
    no file. `rendered` says that they are conversations written out by the model's chat template."""

    documents: tuple[str, ...]
    name: str
    sha256: str
    rendered: bool = False


@dataclass(frozen=True)
class Tokens:
    """How a model writes text: `encode` gives token ids without any that mark begin or end.

    `bos` is put before every document and at the start of every window, None for models that have none; then
    `separator` (the end-of-text token, if there is one) stands between documents. `size` is the number of embedding
    rows. `chat` says that the model comes with a chat template.
    """

    encode: Encoder
    size: int
    bos: int | None = None
    separator: int | None = None
    chat: bool = False


@dataclass(frozen=True)
class DataRecord:
    """What was run, without the text: enough to choose the same windows again.

    `ids` are the numbers of the windows that were chosen, ascending, of `windows` there are; `tokens` counts the
    tokens of those; `documents` the documents of the data.
    """

    name: str
    sha256: str
    seed: int
    seqlen: int
    windows: int
    documents: int
    tokens: int
    bos: int | None
    rendered: bool
    ids: tuple[int, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over everything but the name."""
        facts = {**asdict(self), "name": ""}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Samples:
    """Windows of tokens, int32 (n, seqlen), at positions `start`, start + 1, ... of `record.ids`."""

    tokens: I32
    record: DataRecord
    start: int = 0

    def part(self, start: int, stop: int) -> Samples:
        """The samples at positions [start, stop) of these. Cut at multiples of 64 for bit-equal merges."""
        return replace(self, tokens=self.tokens[start:stop], start=self.start + start)

    def id_at(self, position: int) -> int:
        """The window number of a position counted from the first of these samples."""
        return self.record.ids[self.start + position]


def select_samples(texts: Texts, tokens: Tokens, *, seqlen: int, samples: int | None = None, seed: int = 0) -> Samples:
    """Cut the texts into windows of `seqlen` tokens and choose `samples` of them (None: all).

    All documents form one stream, each after `bos` (unless it begins with it, as chat templates write it) or between
    separators; windows are consecutive pieces of the stream, a rest shorter than one is left out, and `bos` replaces
    the first token of every window. This is how llama-imatrix cuts a file, so the same file gives the same tokens.
    Chosen are the windows whose number has the smallest SHA-256 of (seed, number); they keep their order.
    Raises InputError when there is not one window, or a token has no embedding.
    """
    if seqlen < 2:
        raise InputError(f"sequence length {seqlen}: at least 2 tokens are needed", key="seqlen")
    stream = _stream(texts, tokens)
    windows = len(stream) // seqlen
    if windows == 0:
        raise InputError(
            f"{texts.name} has {len(stream):,} tokens in {len(texts.documents):,} documents, "
            f"one sequence takes {seqlen:,}",
            path=texts.name,
            hint="give more text or a smaller --seqlen",
        )
    cut = stream[: windows * seqlen].reshape(windows, seqlen)
    ids = tuple(sorted(sorted(range(windows), key=lambda number: _rank(seed, number))[:samples]))
    chosen = cut[list(ids)]
    if tokens.bos is not None:
        chosen[:, 0] = tokens.bos
    record = DataRecord(
        name=texts.name,
        sha256=texts.sha256,
        seed=seed,
        seqlen=seqlen,
        windows=windows,
        documents=len(texts.documents),
        tokens=chosen.size,
        bos=tokens.bos,
        rendered=texts.rendered,
        ids=ids,
    )
    return Samples(chosen, record)


def samples_of(windows: I32, name: str = "tokens") -> Samples:
    """Given windows of tokens, int32 (n, seqlen), as samples."""
    count, seqlen = windows.shape
    sha256 = hashlib.sha256(np.ascontiguousarray(windows, "<i4").tobytes()).hexdigest()
    record = DataRecord(name, sha256, 0, seqlen, count, count, windows.size, None, False, tuple(range(count)))
    return Samples(windows, record)


def _stream(texts: Texts, tokens: Tokens) -> I32:
    """All tokens of all documents, int32 (n,)."""
    pieces: list[Sequence[int]] = []
    for number, document in enumerate(texts.documents):
        ids = tokens.encode(document)
        if tokens.bos is not None and ids[:1] != [tokens.bos]:
            pieces.append([tokens.bos])
        elif tokens.bos is None and tokens.separator is not None and number:
            pieces.append([tokens.separator])
        pieces.append(ids)
    stream = np.concatenate([np.array(piece, np.int64) for piece in pieces]) if pieces else np.zeros(0, np.int64)
    outside = stream[(stream < 0) | (stream >= tokens.size)]
    if outside.size:
        raise InputError(
            f"the tokenizer gives token {outside[0]}, the embedding has {tokens.size:,} rows",
            key="vocab_size",
            hint="the tokenizer files and the weights are not of the same model",
        )
    return stream.astype(np.int32)


def _rank(seed: int, number: int) -> bytes:
    return hashlib.sha256(f"{seed}:{number}".encode()).digest()
