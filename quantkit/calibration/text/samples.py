"""Texts to windows of tokens: which ones, in which order, and a record of it that holds no text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError
from quantkit.records import record
from quantkit.units import counted

I32 = NDArray[np.int32]

MAX_SEEN = 4096  # fingerprints in a record
# Of the windows, more of something else: random tokens, the shipped text, and both together at least
# (docs/benchmarks.md, a real model).
RANDOM, SHIPPED, WIDER = 0.125, 0.375, 0.25
Encoder = Callable[[str], list[int]]


@record
class Texts:
    """Documents from a file or data set. `sha256` is that of the file's bytes, or of the documents where there is
    no file. `rendered` says that they are conversations written out by the model's chat template, `skipped` counts
    rows without text. Of several files together `parts` are the hashes of each."""

    documents: tuple[str, ...]
    name: str
    sha256: str
    rendered: bool = False
    skipped: int = 0
    parts: tuple[str, ...] = ()


def joined_texts(texts: Sequence[Texts]) -> Texts:
    """The documents of several files as one, in their order. `rendered` only where all of them are."""
    if len(texts) == 1:
        return texts[0]
    return Texts(
        documents=tuple(document for one in texts for document in one.documents),
        name=", ".join(one.name for one in texts),
        sha256=hashlib.sha256("\n".join(one.sha256 for one in texts).encode()).hexdigest(),
        rendered=all(one.rendered for one in texts),
        skipped=sum(one.skipped for one in texts),
        parts=tuple(one.sha256 for one in texts),
    )


@record
class Tokens:
    """How a model writes text: `encode` gives token ids without any that mark begin or end.

    `bos` is put before every document and at the start of every window, None for models that have none; then
    `separator` (the end-of-text token, if there is one) stands between documents. `size` is the number of embedding
    rows. `chat` says that the model comes with a chat template. `middle` is what ends the source and what begins the
    target of a model with an encoder and a decoder, None for others.
    """

    encode: Encoder
    size: int
    bos: int | None = None
    separator: int | None = None
    chat: bool = False
    middle: tuple[int, int] | None = None


@record
class DataRecord:
    """What was run, without the text: enough to choose the same windows again.

    `ids` are the numbers of the windows that were chosen, ascending, of `windows` there are; `tokens` counts the
    tokens of those and `token_sha256` is their hash, `repeated` counts windows that equal an earlier one.
    `documents` counts the documents of the data, `repeated_documents` those that equal an earlier one; half of them
    have at most `median_tokens` tokens. `chat` says that the model has a chat template, `rendered` that it was used.
    Of several files together `parts` are the hashes of each, `sha256` is one over them. `seen` are fingerprints of
    documents that the chosen windows hold something of, ascending, of many documents the first MAX_SEEN.
    """

    name: str
    sha256: str
    seed: int
    seqlen: int
    windows: int
    documents: int
    repeated_documents: int
    median_tokens: int
    tokens: int
    token_sha256: str
    repeated: int
    bos: int | None
    chat: bool
    rendered: bool
    ids: tuple[int, ...]
    parts: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the windows: everything but `parts` and `seen`, which follow from it."""
        return {name: value for name, value in asdict(self).items() if name not in ("parts", "seen")}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over everything but the name, and what follows from the rest."""
        facts = {**self.deciding, "name": ""}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@record
class Samples:
    """Windows of tokens, int32 (n, seqlen), at positions `start`, start + 1, ... of `record.ids`. `documents` are the
    numbers of the first and the last document of which each holds something, () where nobody knows. `middle` is that
    of the model's tokens: then the first half of a window is read by an encoder, the other by a decoder."""

    tokens: I32
    record: DataRecord
    start: int = 0
    documents: tuple[tuple[int, int], ...] = ()
    middle: tuple[int, int] | None = None

    @property
    def first(self) -> int:
        """The first token of a window whose prediction counts: a decoder's, where an encoder reads what is before."""
        return 0 if self.middle is None else source_length(self.tokens.shape[1])

    def part(self, start: int, stop: int) -> Samples:
        """The samples at positions [start, stop) of these. Cut at multiples of 64 for bit-equal merges."""
        documents = self.documents[start:stop]
        return replace(self, tokens=self.tokens[start:stop], start=self.start + start, documents=documents)

    def cut(self, start: int, stop: int) -> Samples:
        """The samples at positions [start, stop) of these, with a record of their own: text by itself."""
        return self.chosen(range(len(self.tokens))[start:stop])

    def chosen(self, positions: Sequence[int]) -> Samples:
        """The samples at these positions of these, with a record of their own."""
        tokens = self.tokens[list(positions)]
        record = replace(
            self.record,
            tokens=tokens.size,
            token_sha256=_token_sha256(tokens),
            repeated=len(tokens) - len(np.unique(tokens, axis=0)),
            ids=tuple(self.id_at(position) for position in positions),
        )
        documents = tuple(self.documents[position] for position in positions) if self.documents else ()
        return Samples(tokens, record, documents=documents, middle=self.middle)

    def apart(self, last: int) -> tuple[Samples, Samples, bool]:
        """Windows to learn from, the `last` ones to judge by, and whether no document is in both: windows that share
        one with the last are left out, unless that leaves less than half."""
        count = len(self.tokens)
        judged, before = self.cut(count - last, count), count - last
        if self.documents:
            first, _ = judged.documents[0]
            others = sum(end < first for _, end in self.documents[:before])
            if 2 * others >= count:
                return self.cut(0, others), judged, True
        return self.cut(0, before), judged, False

    def id_at(self, position: int) -> int:
        """The window number of a position counted from the first of these samples."""
        return self.record.ids[self.start + position]


def select_samples(
    texts: Texts,
    tokens: Tokens,
    *,
    seqlen: int,
    samples: int | None = None,
    seed: int = 0,
    option: str = "--seqlen",
) -> Samples:
    """Cut the texts into windows of `seqlen` tokens and choose `samples` of them (None: all).

    All documents form one stream, each after `bos` (unless it begins with it, as chat templates write it) or between
    separators; windows are consecutive pieces of the stream, a rest shorter than one is left out, and `bos` replaces
    the first token of every window. This is how llama-imatrix cuts a file, so the same file gives the same tokens.
    Where an encoder reads the first half of a window, and a decoder the other, `middle` replaces the tokens there.
    Chosen are the windows whose number has the smallest SHA-256 of (seed, number); they keep their order.
    Raises InputError when there is not one window, or a token has no embedding; `option` is the name of `seqlen`.
    """
    if seqlen < 2:
        raise InputError(f"sequence length {seqlen}: at least 2 tokens are needed", key="seqlen")
    encoded = [
        _framed(tokens.encode(document), tokens, first=not number) for number, document in enumerate(texts.documents)
    ]
    stream = _joined(encoded, tokens.size)
    windows = len(stream) // seqlen
    if windows == 0:
        raise InputError(
            f"{texts.name} has {counted(len(stream), 'token')} in {counted(len(texts.documents), 'document')}, "
            f"one sequence takes {seqlen:,}",
            path=texts.name,
            hint=f"give more text or a smaller {option}",
        )
    cut = stream[: windows * seqlen].reshape(windows, seqlen)
    ids = tuple(sorted(sorted(range(windows), key=lambda number: _rank(seed, number))[:samples]))
    chosen = cut[list(ids)]
    if tokens.bos is not None:
        chosen[:, 0] = tokens.bos
    chosen = _parted(chosen, tokens.middle)
    held = _documents([len(each) for each in encoded], ids, seqlen)
    record = DataRecord(
        name=texts.name,
        sha256=texts.sha256,
        seed=seed,
        seqlen=seqlen,
        windows=windows,
        documents=len(encoded),
        repeated_documents=len(encoded) - len(set(texts.documents)),
        median_tokens=int(np.median([len(ids) for ids in encoded])),
        tokens=chosen.size,
        token_sha256=_token_sha256(chosen),
        repeated=len(chosen) - len(np.unique(chosen, axis=0)),
        bos=tokens.bos,
        chat=tokens.chat,
        rendered=texts.rendered,
        ids=ids,
        parts=texts.parts,
        seen=_seen(texts, held),
    )
    return Samples(chosen, record, documents=held, middle=tokens.middle)


def source_length(seqlen: int) -> int:
    """How many tokens of a window an encoder reads: the decoder reads as many, or one more."""
    return seqlen // 2


def _parted(windows: I32, middle: tuple[int, int] | None) -> I32:
    """Windows with the tokens that end a source and begin a target, in the place of two of the text."""
    if middle is None:
        return windows
    parted, at = windows.copy(), source_length(windows.shape[1])
    parted[:, at - 1 : at + 1] = middle
    return parted


def fingerprint(document: str) -> str:
    """64 bits (hex) by which a document is known again, and from which nobody reads it."""
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _documents(lengths: Sequence[int], ids: Sequence[int], seqlen: int) -> tuple[tuple[int, int], ...]:
    """The first and the last document of which each window holds something; `lengths` are those of all in tokens."""
    ends = np.cumsum(lengths)
    found = (np.searchsorted(ends, [window * seqlen, (window + 1) * seqlen - 1], "right") for window in ids)
    return tuple((int(first), int(last)) for first, last in found)


def _seen(texts: Texts, held: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Fingerprints of the documents of which windows hold something, from the first to the last of each."""
    numbers: set[int] = set()
    for first, last in held:
        numbers.update(range(first, last + 1))
        if len(numbers) >= MAX_SEEN:
            break
    return tuple(sorted({fingerprint(texts.documents[number]) for number in sorted(numbers)[:MAX_SEEN]}))


def widened(samples: Samples, size: int, shipped: Samples | None) -> Samples:
    """These samples and, behind them, half as many windows of what they may lack: a quarter of these of random tokens
    and the others of the shipped text. Where that is among the samples, a quarter as many, of random tokens alone.

    Text of one kind leaves out most of what a model can read, and errors that are fed back gather where it is silent.
    """
    random, others = widening(len(samples.tokens), shipped)
    wider = with_random(samples, size, random)
    return wider if shipped is None else beside(wider, shipped.tokens[:others])


def widening(windows: int, shipped: Samples | None) -> tuple[int, int]:
    """How many windows of random tokens and of the shipped text, as far as there are some, go behind some of text."""
    others = 0 if shipped is None else min(shipped_windows(windows), len(shipped.tokens))
    return max(math.ceil(windows * RANDOM), math.ceil(windows * WIDER) - others), others


def shipped_windows(windows: int) -> int:
    """How many windows of the shipped text go behind some of other text."""
    return int(windows * SHIPPED)


def with_random(samples: Samples, size: int, count: int) -> Samples:
    """These samples and, behind them, `count` windows of tokens drawn at random, all 0..size - 1 as likely.

    Random tokens say a little of everything. Drawn from a hash of the samples, so that the same samples give the same
    windows everywhere. `bos` starts them as it starts all windows.
    """
    seqlen = samples.tokens.shape[1]
    seed = _token_sha256(samples.tokens).encode()
    drawn = np.frombuffer(hashlib.shake_256(seed).digest(4 * count * seqlen), "<u4") % np.uint32(size)
    windows = drawn.astype(np.int32).reshape(count, seqlen)
    if samples.record.bos is not None:
        windows[:, 0] = samples.record.bos
    return beside(samples, _parted(windows, samples.middle))


def beside(samples: Samples, windows: I32) -> Samples:
    """These samples and, behind them, windows of other text, int32 (n, seqlen), numbered from `record.windows` on."""
    record, tokens = samples.record, np.concatenate([samples.tokens, windows])
    numbers = (*record.ids, *range(record.windows, record.windows + len(windows)))
    record = replace(
        record,
        windows=record.windows + len(windows),
        tokens=tokens.size,
        token_sha256=_token_sha256(tokens),
        ids=numbers,
    )
    return Samples(tokens, record, middle=samples.middle)


def samples_of(windows: I32, name: str = "tokens") -> Samples:
    """Given windows of tokens, int32 (n, seqlen), as samples: all of them, in their order."""
    count, seqlen = windows.shape
    record = DataRecord(
        name=name,
        sha256=_token_sha256(windows),
        seed=0,
        seqlen=seqlen,
        windows=count,
        documents=count,
        repeated_documents=0,
        median_tokens=seqlen,
        tokens=windows.size,
        token_sha256=_token_sha256(windows),
        repeated=count - len(np.unique(windows, axis=0)),
        bos=None,
        chat=False,
        rendered=False,
        ids=tuple(range(count)),
    )
    return Samples(windows, record)


def _framed(ids: list[int], tokens: Tokens, *, first: bool) -> list[int]:
    """A document's tokens with what stands before it."""
    if tokens.bos is not None:
        return ids if ids[:1] == [tokens.bos] else [tokens.bos, *ids]
    return ids if first or tokens.separator is None else [tokens.separator, *ids]


def _joined(documents: Sequence[Sequence[int]], size: int) -> I32:
    """All tokens of all documents, int32 (n,)."""
    stream = np.concatenate([np.array(ids, np.int64) for ids in documents]) if documents else np.zeros(0, np.int64)
    outside = stream[(stream < 0) | (stream >= size)]
    if outside.size:
        raise InputError(
            f"the tokenizer gives token {outside[0]}, the embedding has {counted(size, 'row')}",
            key="vocab_size",
            hint="the tokenizer files and the weights are not of the same model",
        )
    return stream.astype(np.int32)


def _token_sha256(windows: I32) -> str:
    """The tokens depend on the tokenizer, too, which no hash of the data knows."""
    return hashlib.sha256(np.ascontiguousarray(windows, "<i4").tobytes()).hexdigest()


def _rank(seed: int, number: int) -> bytes:
    return hashlib.sha256(f"{seed}:{number}".encode()).digest()
