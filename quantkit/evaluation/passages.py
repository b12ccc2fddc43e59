"""Where models differ most: the passages with the largest divergence, token by token, and how tokens are spread."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.scores import F64, Scores
from quantkit.records import record

PASSAGE, WORST = 32, 10  # tokens of a passage, and how many are shown
EDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the histogram, in nats; two bins between each

Text = Callable[[list[int]], str]


@record
class Bin:
    """How many tokens diverge by `low` nats or more and less than `high`, None without an end."""

    low: float
    high: float | None
    tokens: int

    def as_json(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "tokens": self.tokens}


@record
class Choice:
    """One prediction of a passage: the text's own token, what the reference and the other put first, and the
    divergence."""

    text: str
    reference: str
    other: str
    same: bool
    kl: float

    def as_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "reference": self.reference,
            "artifact": self.other,
            "same": self.same,
            "kl": self.kl,
        }


@record
class Passage:
    """Consecutive tokens of a document at which the models differ most: the mean divergence, how likely each model
    found the text (geometric mean of the right tokens' probabilities), the text before and in it, and both models'
    choices at every token where they are known."""

    document: int
    window: int
    position: int
    tokens: int
    kl: float
    reference: float
    other: float
    before: str
    text: str
    choices: tuple[Choice, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "document": self.document,
            "window": self.window,
            "position": self.position,
            "tokens": self.tokens,
            "kl": self.kl,
            "reference_probability": self.reference,
            "probability": self.other,
            "before": self.before,
            "text": self.text,
            "choices": [choice.as_json() for choice in self.choices],
        }


def histogram(kl: F64) -> tuple[Bin, ...]:
    """Divergences (t,) counted in bins of half a decade from 1e-6 to 10 nats, with one bin at either end."""
    halves = [edge * factor for edge in EDGES[:-1] for factor in (1.0, 10**0.5)]
    edges = np.array([*halves, EDGES[-1]])
    counts = np.bincount(np.searchsorted(edges, kl, side="right"), minlength=len(edges) + 1)
    bounds = [0.0, *(float(f"{edge:.3g}") for edge in edges)]
    return tuple(
        Bin(low, high, int(count)) for low, high, count in zip(bounds, [*bounds[1:], None], counts, strict=True)
    )


def worst_passages(scores: Scores, corpus: Corpus, text: Text | None) -> tuple[Passage, ...]:
    """The passages of up to PASSAGE tokens with the largest mean divergence, the worst first, none twice."""
    edges = np.flatnonzero(np.diff(corpus.window) != 0) + 1
    starts: list[tuple[int, int]] = []
    for part in np.split(np.arange(corpus.tokens), edges):
        starts += [
            (int(part[0]) + at, int(min(part[0] + at + PASSAGE, part[-1] + 1))) for at in range(0, len(part), PASSAGE)
        ]
    means = [float(scores.kl[first:last].mean()) for first, last in starts]
    order = sorted(range(len(starts)), key=lambda n: (-means[n], n))[:WORST]
    return tuple(_passage(scores, corpus, text, *starts[n]) for n in order if means[n] > 0)


def _passage(scores: Scores, corpus: Corpus, text: Text | None, first: int, last: int) -> Passage:
    window, position = int(corpus.window[first]), int(corpus.position[first])
    before = corpus.before(window, position + 1 - PASSAGE // 2, position + 1)
    anchor = before[-1:]
    before = before[1:] if before[:1] == [corpus.bos] else before
    inside = [int(token) for token in corpus.target[first:last]]
    return Passage(
        document=int(corpus.document[first]),
        window=window,
        position=position,
        tokens=last - first,
        kl=float(scores.kl[first:last].mean()),
        reference=exp(float(scores.reference[first:last].mean())),
        other=exp(float(scores.other[first:last].mean())),
        before=text(before) if text else "",
        text=text(inside) if text else "",
        choices=_choices(scores, text, slice(first, last), [*anchor, *inside]) if text else (),
    )


def _choices(scores: Scores, text: Text, part: slice, tokens: list[int]) -> tuple[Choice, ...]:
    """What both put first at each token of a passage; `tokens` are its own, behind the one before it."""
    if scores.tops is None:
        return ()
    ours, theirs = (tops[part] for tops in scores.tops)
    kl: NDArray[np.float64] = scores.kl[part]
    found = []
    for at, token in enumerate(tokens[1:]):
        own, one, two = (_piece(text, tokens[at], int(each)) for each in (token, ours[at], theirs[at]))
        found.append(Choice(own, one, two, bool(ours[at] == theirs[at]), float(kl[at])))
    return tuple(found)


def _piece(text: Text, before: int, token: int) -> str:
    """A token as it reads behind another one: tokenizers drop a space where text begins."""
    start, both = text([before]), text([before, token])
    return both[len(start) :] if both.startswith(start) else text([token])
