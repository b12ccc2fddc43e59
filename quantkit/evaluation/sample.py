"""The text on which an engine is checked: natural text of the model's kind, as little of it as tells right from wrong.

It is the text that ships with quantkit, cut evenly from all of its documents; half of it is conversations where the
model has a chat template, written out by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.text.samples import Texts, Tokens
from quantkit.calibration.text.shipped import DEFAULT, conversations
from quantkit.calibration.text.spec import embedding_rows, longest_context
from quantkit.calibration.text.templates import read_chat_template
from quantkit.evaluation.corpus import Batch, Corpus, Cutting, cut_texts
from quantkit.evaluation.engines import Engine
from quantkit.source import Checkpoint
from quantkit.source.base import require_runnable
from quantkit.tensors import F32

WINDOW, TOKENS, LEAST = 128, 1024, 256
FLOPS = 1e12  # of one run: 1,024 tokens of models up to 0.5 billion weights, fewer of larger ones
SHORTEST = 4  # tokens of a window
KEPT_BYTES = 1 << 28


def checked_text(checkpoint: Checkpoint) -> Corpus:
    """The windows for a source that is run here. Raises what `read_corpus` raises."""
    require_runnable(checkpoint)
    template = read_chat_template(checkpoint)
    texts = load_texts(DEFAULT, template)
    if template is not None:
        texts = _half_chat(texts)
    longest = longest_context(checkpoint)
    window = min(WINDOW, longest) if longest >= SHORTEST else WINDOW
    weights = sum(info.elements for info in checkpoint.tensors().values())
    return cut_texts(texts, model_tokens(checkpoint, embedding_rows(checkpoint)), _cut(window, weights))


def text_by_engine(tokenize: Callable[..., list[int]], vocabulary: int, weights: int) -> Corpus:
    """The windows for a source that only an engine runs, whose tokens are those of the engine."""
    plain, framed = tokenize("a", special=False), tokenize("a")
    bos = framed[0] if framed[:1] != plain[:1] else None
    tokens = Tokens(lambda text: tokenize(text, special=False), vocabulary, bos)
    return cut_texts(load_texts(DEFAULT), tokens, _cut(WINDOW, weights))


def _cut(window: int, weights: int) -> Cutting:
    return Cutting(window, tokens=int(np.clip(FLOPS / (2 * weights), LEAST, TOKENS)))


def _half_chat(texts: Texts) -> Texts:
    """All conversations, and as many other documents from all over."""
    chosen = conversations()
    others = [number for number in range(len(texts.documents)) if number not in chosen]
    numbers = sorted({*chosen, *others[:: max(len(others) // len(chosen), 1)]})
    return replace(texts, documents=tuple(texts.documents[number] for number in numbers))


def padded(corpus: Corpus, least: int) -> Corpus:
    """The same predictions, in windows of at least so many tokens: what follows the text is seen by nothing."""

    def wider(batch: Batch) -> Batch:
        more = max(least - batch.tokens.shape[1], 0)
        tokens = np.concatenate([batch.tokens, np.repeat(batch.tokens[:, :1], more, axis=1)], axis=1)
        return replace(batch, tokens=tokens, scored=np.pad(batch.scored, ((0, 0), (0, more))))

    return replace(corpus, batches=tuple(map(wider, corpus.batches)))


@dataclass
class Recorded:
    """An engine whose answers are kept, up to KEPT_BYTES of them, so that it runs each text once."""

    engine: Engine
    kept: dict[tuple[int, ...], list[F32]]
    room: int = KEPT_BYTES

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def version(self) -> str:
        return self.engine.version

    @property
    def vocabulary(self) -> int:
        return self.engine.vocabulary

    def logits(self, tokens: Sequence[int], places: Sequence[int]) -> Iterator[F32]:
        """As the engine's own, of a text that was run before what was said then."""
        key = (*tokens, -1, *places)
        if key in self.kept:
            yield from self.kept[key]
            return
        found = []
        for piece in self.engine.logits(tokens, places):
            found.append(piece)
            yield piece
        nbytes = sum(piece.nbytes for piece in found)
        if nbytes <= self.room:
            self.room -= nbytes
            self.kept[key] = found

    def close(self) -> None:
        """End the engine, and forget."""
        self.kept.clear()
        self.engine.close()
