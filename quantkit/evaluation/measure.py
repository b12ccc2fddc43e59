"""The measurement: one reference and any number of others, block by block, then their predictions token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from quantkit.calibration.walk.threads import workers
from quantkit.errors import InputError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.lockstep import hidden_errors, require_alike, start
from quantkit.evaluation.scores import Scores
from quantkit.evaluation.sides import Side
from quantkit.evaluation.vocabulary import score
from quantkit.evaluation.weights import Compared, take_all
from quantkit.events import BlockProgress, Sink, StageStarted, ignore
from quantkit.machine import core_count

STAGE = "evaluate"


def measure(
    reference: Side, others: Sequence[Side], corpus: Corpus, *, threads: int | None = None, emit: Sink = ignore
) -> list[Scores]:
    """How each of `others` predicts the corpus beside the reference, which runs once for all of them.

    The same numbers for any number of `threads` (all cores). Raises InputError for a model of other sizes and for
    tokens without an embedding row, NonFiniteError naming side, block and module, ResourceError where activations do
    not fit, UnsupportedError for an architecture that is not run here.
    """
    if not others:
        raise InputError("nothing to compare with the reference", key="artifact")
    with workers(threads or core_count(), torch.device("cpu")) as pool:
        emit(StageStarted(STAGE, 0, f"{corpus.tokens:,} tokens, {1 + len(others)} models in lockstep"))
        first = start(reference, corpus, pool)
        rest = []
        for side in others:
            rest.append(start(side, corpus, pool))
            require_alike(first, rest[-1])
        count, compared = first.model.count, [Compared(side.checkpoint) for side in others]
        take_all(compared, [walker.sketch for walker in (first, *rest)])
        curves: list[list[tuple[str, float]]] = [[] for _ in rest]
        for index in range(count):
            for number, walker in enumerate((first, *rest)):
                name = walker.advance(index)
                emit(BlockProgress(STAGE, name, index + 1, count + 1, number + 1, 1 + len(rest)))
            take_all(compared, [walker.sketch for walker in (first, *rest)])
            for curve, error in zip(curves, hidden_errors(first, rest, corpus), strict=True):
                curve.append((name, error))

        def beat(done: int, of: int) -> None:
            emit(BlockProgress(STAGE, "head", count + 1, count + 1, done, of))

        found = score(first, rest, corpus, compared, beat)
    weights = [one.found(side.moved) for one, side in zip(compared, others, strict=True)]
    return [replace(s, errors=tuple(curve), weights=w) for s, curve, w in zip(found, curves, weights, strict=True)]
