"""The text that models are compared on, as windows of tokens: which predictions count, and whose document they are in.

Two ways to cut. `ALL`: every document by itself, in windows one after the other, each begun with the token that begins
texts where the model has one; every token that has one before it counts. `SECOND_HALF`: all documents as one stream,
and of every window only its second half counts, as in llama.cpp's perplexity tool.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.text.samples import I32, Texts, Tokens, fingerprint, joined_texts, select_samples
from quantkit.calibration.text.spec import embedding_rows, window_length
from quantkit.calibration.text.templates import read_chat_template
from quantkit.errors import InputError, UnsupportedError, UsageError, require_choice
from quantkit.families.describe import find_family
from quantkit.families.encoders import require_no_encoder
from quantkit.families.layers import DECODING
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.base import require_runnable
from quantkit.units import counted

WINDOW, TOKENS = 512, 20_000
STEP = 64  # windows are as long as a multiple of it: short documents are not padded to the whole window
ALL, SECOND_HALF = "all", "second-half"
SCORES = (ALL, SECOND_HALF)
SEED = 0


@record
class Cutting:
    """How text becomes windows of `window` tokens; `score` says which predictions count. At most about `tokens` tokens
    are run, None for all: the windows are chosen by a hash of their number, evenly from all documents."""

    window: int = WINDOW
    score: str = ALL
    tokens: int | None = TOKENS

    def check(self) -> None:
        """Raise UsageError for numbers and names that make no sense."""
        require_choice("--score", self.score, SCORES)
        for name, value, least in (("window", self.window, 4), ("tokens", self.tokens, 4)):
            if value is not None and value < least:
                raise UsageError(f"--{name} {value}", key=name, hint=f"{least} or more")


def cutting(checkpoint: Checkpoint, window: int | None, score: str = ALL, tokens: int | None = TOKENS) -> Cutting:
    """How text is cut for a model: into windows of WINDOW tokens where nothing else is asked for, or of as many as it
    has positions for. Raises UsageError where more are asked for."""
    return Cutting(window_length(checkpoint, window, WINDOW, "window"), score, tokens)


@record
class Batch:
    """Windows of one length: `tokens` int32 (n, seqlen). Where `scored` (n, seqlen) says so, the prediction that is
    made at that token, of the one behind it, counts. `windows` (n,) are their numbers in the corpus."""

    tokens: I32
    scored: NDArray[np.bool_]
    windows: I32


@record
class Corpus:
    """Windows of text, and for every prediction that counts, in the order of the text: int32 (t,) each

    `batch` and `row` where its window is, `window` the number of that, `position` the token in it after which it is
    made, `target` the token that follows, `document` the number of its document. `names` are those of the data, `cut`
    says how it was cut, `sha256` is that of the data and `token_sha256` that of all windows; of several files together
    `parts` are the hashes of each. `fingerprints` are those of the documents that are run, as calibration keeps them.
    """

    batches: tuple[Batch, ...]
    batch: I32
    row: I32
    window: I32
    position: I32
    target: I32
    document: I32
    name: str
    sha256: str
    token_sha256: str
    documents: int
    cut: Cutting
    bos: int | None
    parts: tuple[str, ...] = ()
    fingerprints: frozenset[str] = frozenset()

    @property
    def hashes(self) -> frozenset[str]:
        """Of the data as a whole and of each of its files."""
        return frozenset({self.sha256, *self.parts})

    @property
    def tokens(self) -> int:
        """How many predictions count."""
        return len(self.target)

    def as_json(self) -> dict[str, Any]:
        """What was run, without the text."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "token_sha256": self.token_sha256,
            "documents": len(np.unique(self.document)),
            "documents_in_data": self.documents,
            "windows": sum(len(batch.tokens) for batch in self.batches),
            "window": self.cut.window,
            "score": self.cut.score,
            "tokens": self.tokens,
            "bos": self.bos,
        }

    def before(self, window: int, start: int, stop: int) -> list[int]:
        """Tokens [start, stop) of a window, those of its padding left out."""
        for batch in self.batches:
            for row in np.flatnonzero(batch.windows == window):
                last = int(np.flatnonzero(batch.scored[row])[-1]) + 2
                return [int(token) for token in batch.tokens[row, max(start, 0) : min(stop, last)]]
        return []


@record
class _Window:
    """A window before it is padded: its tokens, the first prediction that counts, and the document of each token."""

    tokens: I32
    first: int
    documents: I32


@record
class Piece:
    """Tokens, and those behind them whose predictions count; neither is empty."""

    before: Sequence[int]
    after: Sequence[int]


def corpus_of(pieces: Sequence[Piece], name: str) -> Corpus:
    """Every piece as a window of its own; its number is that of the window and of the document."""
    windows = []
    for number, piece in enumerate(pieces):
        assert piece.before, "a prediction is made behind a token"
        assert piece.after, "a prediction is of a token"
        ids = np.array([*piece.before, *piece.after], np.int32)
        windows.append(_Window(ids, len(piece.before) - 1, np.full(len(ids), number, np.int32)))
    digest = hashlib.sha256(b"".join(w.tokens.astype("<i4").tobytes() for w in windows)).hexdigest()
    cut = Cutting(max(len(w.tokens) for w in windows), ALL, None)
    return _corpus(windows, Texts(("",) * len(windows), name, digest), Tokens(lambda text: [], 0, None), cut)


def require_predicting(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedError for a checkpoint that cannot be run, and for an encoder: it sees the tokens that it would
    have to predict, and what it computes are vectors."""
    require_runnable(checkpoint)
    family, _ = find_family(checkpoint.config)
    require_no_encoder(family, "no figure here is of it", "compare vectors of your own texts, as llama-embedding gives")


def require_continuing(checkpoint: Checkpoint, which: str) -> None:
    """The same, and for a decoder that reads an encoder: what it says does not continue a text. `which` says what asks
    for that."""
    require_predicting(checkpoint)
    family, _ = find_family(checkpoint.config)
    if family.hparams(checkpoint.config).number(DECODING):
        what = (
            f'{which}: family "{family.name}" has a decoder that answers what an encoder reads, and continues no text'
        )
        hint = "leave that out and measure it with --data, which gives half of a text to each"
        raise UnsupportedError(what, key=family.name, hint=hint)


def read_corpus(checkpoint: Checkpoint, data: Sequence[str], cut: Cutting, *, offline: bool = False) -> Corpus:
    """The windows that texts mean for the tokenizer of a checkpoint; reads no weights.

    `data` is as for calibration: files of text or JSON Lines, "hf://" data sets, "default". Raises InputError for data
    that is missing, empty or too short, UsageError, UnsupportedError for a checkpoint that cannot be run, NetworkError.
    """
    cut.check()
    require_predicting(checkpoint)
    if not data:
        raise UsageError("no text to measure on", key="data", hint="--data FILE: plain text or JSON Lines")
    template = read_chat_template(checkpoint)
    texts = joined_texts([load_texts(name, template, offline=offline) for name in data])
    return cut_texts(texts, model_tokens(checkpoint, embedding_rows(checkpoint)), cut)


def cut_texts(texts: Texts, tokens: Tokens, cut: Cutting) -> Corpus:
    """Texts as windows: of one stream, too, where an encoder reads half of each, and whatever the decoder predicts
    counts. Raises InputError where not one prediction counts, or a token has no embedding row."""
    alone = cut.score == ALL and tokens.middle is None
    found = _by_document(texts, tokens, cut) if alone else _of_stream(texts, tokens, cut)
    chosen = _chosen(found, cut.tokens)
    if not chosen:
        what = f"{texts.name} has too little text: no window of it has a token to predict"
        raise InputError(what, path=texts.name, key="data", hint="give more text, or a smaller --window")
    return _corpus(chosen, texts, tokens, cut)


def _by_document(texts: Texts, tokens: Tokens, cut: Cutting) -> list[_Window]:
    """Each document's windows: those after its first begin with the token that begins texts, too. A document that
    equals an earlier one is left out: it says nothing new, and would make errors look smaller than they are."""
    found = []
    for number, (document, first) in enumerate(zip(texts.documents, _firsts(texts), strict=True)):
        if number != first:
            continue
        ids = np.array(tokens.encode(document), np.int64)
        _require_rows(ids, tokens.size)
        start = [] if tokens.bos is None else [tokens.bos]
        if len(start) and ids[:1].tolist() == start:
            ids = ids[1:]
        step = cut.window - len(start)
        for at in range(0, len(ids), step):
            window = np.array([*start, *ids[at : at + step]], np.int32)
            if len(window) > 1:
                found.append(_Window(window, 0, np.full(len(window), number, np.int32)))
    return found


def _of_stream(texts: Texts, tokens: Tokens, cut: Cutting) -> list[_Window]:
    """llama.cpp's windows: `perplexity` in tools/perplexity/perplexity.cpp, n_ctx = window, first = n_ctx / 2."""
    chosen = select_samples(texts, tokens, seqlen=cut.window, option="--window")
    owners = _owners(texts, tokens, chosen.tokens.size)
    cut_owners = owners.reshape(chosen.tokens.shape)
    return [_Window(w, cut.window // 2, o) for w, o in zip(chosen.tokens, cut_owners, strict=True)]


def _owners(texts: Texts, tokens: Tokens, count: int) -> I32:
    """The document of each token of the stream that `select_samples` cuts, int32 (count,): of equal ones the first."""
    lengths = []
    for number, document in enumerate(texts.documents):
        ids = tokens.encode(document)
        framed = ids[:1] != [tokens.bos] if tokens.bos is not None else bool(number) and tokens.separator is not None
        lengths.append(len(ids) + framed)
    return np.repeat(np.array(_firsts(texts), np.int32), lengths)[:count]


def _firsts(texts: Texts) -> list[int]:
    """For every document the number of the first one that equals it."""
    first: dict[str, int] = {}
    return [first.setdefault(document, number) for number, document in enumerate(texts.documents)]


def _require_rows(ids: NDArray[np.int64], size: int) -> None:
    outside = ids[(ids < 0) | (ids >= size)]
    if outside.size:
        message = f"the tokenizer gives token {outside[0]}, the embedding has {counted(size, 'row')}"
        hint = "the tokenizer files and the weights are not of the same model"
        raise InputError(message, key="vocab_size", hint=hint)


def _chosen(windows: Sequence[_Window], most: int | None) -> list[_Window]:
    """As many windows as `most` tokens hold, at least one, in their order: first those of the smallest hash."""
    if most is None or sum(len(w.tokens) for w in windows) <= most:
        return list(windows)
    taken: list[int] = []
    total = 0
    for number in sorted(range(len(windows)), key=lambda n: hashlib.sha256(f"{SEED}:{n}".encode()).digest()):
        if taken and total + len(windows[number].tokens) > most:
            break
        taken.append(number)
        total += len(windows[number].tokens)
    return [windows[number] for number in sorted(taken)]


def _corpus(windows: Sequence[_Window], texts: Texts, tokens: Tokens, cut: Cutting) -> Corpus:
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, each in enumerate(windows):
        by_length[min(-(-len(each.tokens) // STEP) * STEP, cut.window)].append(number)
    batches = tuple(_batch([(n, windows[n]) for n in by_length[length]], length) for length in sorted(by_length))
    places = [list(part) for part in zip(*_places(windows, batches), strict=True)]
    batch, row, window, position, target, document = (np.array(part, np.int32) for part in places)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(w.tokens, "<i4").tobytes() for w in windows)).hexdigest()
    known = frozenset(fingerprint(texts.documents[number]) for number in np.unique(document))
    facts = (texts.name, texts.sha256, digest, len(texts.documents), cut, tokens.bos, texts.parts, known)
    return Corpus(batches, batch, row, window, position, target, document, *facts)


def _batch(windows: Sequence[tuple[int, _Window]], length: int) -> Batch:
    """Windows padded at their end with their own first token: attention looks back only, so nothing sees it."""
    tokens = np.empty((len(windows), length), np.int32)
    scored = np.zeros((len(windows), length), np.bool_)
    for row, (_, window) in enumerate(windows):
        count = len(window.tokens)
        tokens[row, :count], tokens[row, count:] = window.tokens, window.tokens[0]
        scored[row, window.first : count - 1] = True
    return Batch(tokens, scored, np.array([number for number, _ in windows], np.int32))


def _places(windows: Sequence[_Window], batches: Sequence[Batch]) -> Iterator[tuple[int, int, int, int, int, int]]:
    where = {int(n): (b, row) for b, batch in enumerate(batches) for row, n in enumerate(batch.windows)}
    for number, window in enumerate(windows):
        for position in range(window.first, len(window.tokens) - 1):
            target, document = int(window.tokens[position + 1]), int(window.documents[position + 1])
            yield (*where[number], number, position, target, document)
