"""A set of prompts put to models: what each continues them with, and how likely it finds what the original wrote."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.evaluation.answers import Heard
from quantkit.evaluation.corpus import Piece
from quantkit.evaluation.generation import Until, continuations
from quantkit.evaluation.likelihood import likelihoods
from quantkit.evaluation.prompts import Asked
from quantkit.evaluation.sides import Side
from quantkit.events import Sink, ignore


def ask(
    asked: Asked,
    length: int,
    reference: Side,
    others: Sequence[Side],
    *,
    threads: int | None = None,
    emit: Sink = ignore,
) -> list[Heard]:
    """What the reference and each of `others` make of the prompts, in continuations of at most `length` tokens.

    Raises what `continuations` and `measure` raise.
    """
    sides = (reference, *others)
    written = continuations(sides, asked.ids, length, until=Until(asked.ends), threads=threads, emit=emit)
    pieces = [Piece(ids, own) for ids, own in zip(asked.ids, written[0], strict=True)]
    count = len(pieces)
    pieces += [Piece(ids, option) for ids, options in zip(asked.ids, asked.options, strict=True) for option in options]
    found = likelihoods(reference, others, pieces, threads=threads, emit=emit)
    heard = []
    for tokens, likely in zip(written, found, strict=True):
        rest = iter(likely[count:])
        options = [[next(rest) for _ in each] for each in asked.options]
        heard.append(Heard(tokens, likely[:count], options))
    return heard
