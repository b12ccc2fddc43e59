"""How likely models find continuations that are given to them: all of them in lockstep with the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from quantkit.calibration.text.samples import I32
from quantkit.calibration.text.spec import row_width
from quantkit.evaluation.corpus import STEP, Piece, corpus_of
from quantkit.evaluation.measure import measure
from quantkit.evaluation.scores import F64, Likelihood
from quantkit.evaluation.sides import Side
from quantkit.events import Sink, ignore
from quantkit.machine import memory_limit_bytes

SHARE = 0.2  # of the memory that this process may use, for activations


def likelihoods(
    reference: Side, others: Sequence[Side], pieces: Sequence[Piece], *, threads: int | None = None, emit: Sink = ignore
) -> list[list[Likelihood]]:
    """For the reference and each of `others`, for each piece, how likely its second part is behind the first.

    Pieces whose activations do not fit into memory together are run in waves, each of which reads the models once.
    Raises what `measure` raises.
    """
    found: list[list[Likelihood]] = [[] for _ in (reference, *others)]
    row = max(row_width(reference.checkpoint), 1)
    room = int(SHARE * memory_limit_bytes()) // (4 * row * (1 + len(others)))
    for wave in _waves(pieces, room):
        corpus = corpus_of(wave, "continuations")
        scores = measure(reference, others, corpus, threads=threads, emit=emit)
        zero = np.zeros(corpus.tokens)
        sides = [(scores[0].reference, scores[0].right, zero), *((s.other, s.other_right, s.kl) for s in scores)]
        for into, (log, right, kl) in zip(found, sides, strict=True):
            logs, hits, distance = (
                _sums(corpus.window, values, len(wave)) for values in (log, right.astype(np.float64), kl)
            )
            into += [
                Likelihood(float(logs[n]), bool(hits[n] == len(piece.after)), float(distance[n] / len(piece.after)))
                for n, piece in enumerate(wave)
            ]
    return found


def _sums(windows: I32, values: F64, count: int) -> F64:
    found: F64 = np.bincount(windows, values, minlength=count).astype(np.float64)
    return found


def _waves(pieces: Sequence[Piece], room: int) -> Iterator[list[Piece]]:
    """Pieces whose tokens, padded, are about `room` in number at most."""
    wave: list[Piece] = []
    taken = 0
    for piece in pieces:
        length = -(-(len(piece.before) + len(piece.after)) // STEP) * STEP
        if wave and taken + length > room:
            yield wave
            wave, taken = [], 0
        wave.append(piece)
        taken += length
    if wave:
        yield wave
