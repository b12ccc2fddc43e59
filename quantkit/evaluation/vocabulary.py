"""What follows the last block, a slab of the vocabulary at a time: numbers for every token, and never whole logits.

Of each chunk of tokens and each slab of the head's rows the logits a (reference) and b (another side) go into sums
that are carried from slab to slab: the largest logit, Z = sum exp(a - max), S = sum exp(a - max) (a - b). Then

    KL = S / Z - (log-sum-exp of a - log-sum-exp of b)

Slabs are read once each; memory does not grow with the vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantkit.calibration.walk.head import load_head
from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.weights import stored_type
from quantkit.errors import NonFiniteError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.lockstep import Walker, round_inputs
from quantkit.evaluation.scores import F64, Scores
from quantkit.evaluation.weights import Compared, Sketch, held, sketch_block, take_all

ROWS = 4096  # of the head, read at once
CHUNK = 512  # tokens that run at once


class Head:
    """Norm, head and soft cap of one side; its matrix is there a slab at a time."""

    def __init__(self, walker: Walker) -> None:
        self.walker = walker
        self.resident: Resident = load_head(walker.model)
        ((_, self.linear),) = self.resident.linears.items()
        round_inputs(self.resident, walker.side)
        self._weights: Tensor | None = None
        self._range = (0, 0)
        self.kept: dict[int, Tensor] | None = walker.memory.slabs if walker.memory else None  # by their first rows
        model: Any = self.resident.module
        head = model.get_output_embeddings()
        head.forward = partial(_one_slab, weakref.proxy(head), weakref.proxy(self))

    def load(self, start: int, stop: int) -> None:
        """Put rows [start, stop) of the vocabulary in the place of the whole matrix."""
        kept = None if self.kept is None else self.kept.get(start)
        if kept is not None and len(kept) >= stop - start:
            self._weights = kept[: stop - start].float()
        else:
            self._weights = self._read(start, stop)
            if self.kept is not None:
                memory, stored = self.walker.memory, self._weights.to(self._stored)
                self.kept[start] = stored if memory is None else held(memory, stored)
        self._range = (start, stop)

    def _read(self, start: int, stop: int) -> Tensor:
        source = self.linear.source
        ref = self.walker.model.checkpoint.ref(source.tensor)
        return torch.from_numpy(ref.read(source.start + start, source.start + stop))

    @property
    def _stored(self) -> torch.dtype:
        """The type that holds the matrix in the fewest bytes."""
        return stored_type(self.walker.model.checkpoint.tensors()[self.linear.source.tensor])

    def sketch(self) -> Sketch:
        """Of the rows at hand."""
        found = Sketch()
        found.add(self.linear.name, self.linear.source.tensor, self.slab[0], self.walker.workers)
        return found

    @property
    def slab(self) -> tuple[Tensor, int, int]:
        assert self._weights is not None, "load first"
        return self._weights, *self._range

    def logits(self, hidden: Tensor) -> Tensor:
        """Those of the rows at hand: float32 (tokens, rows)."""
        output, _ = self.resident.run(hidden.unsqueeze(0))
        assert output is not None
        return output[0]


def _one_slab(head: Any, owner: Head, hidden: Tensor) -> Tensor:
    weights, start, stop = owner.slab
    bias = None if head.bias is None else head.bias[start:stop]
    return nn.functional.linear(hidden, weights, bias)


class Running:
    """The sums of one side over the slabs so far, for all tokens."""

    def __init__(self, count: int) -> None:
        self.top = np.full(count, -np.inf)
        self.first = np.zeros(count, np.int64)
        self.total = np.zeros(count)
        self.right = np.full(count, np.nan)

    def add(self, part: slice, logits: Tensor, start: int, target: Tensor) -> Tensor:
        """Take in the logits of a slab from row `start`; exp(logits - the new largest) (tokens, rows)."""
        largest, at = logits.max(dim=1)
        before, now = self.top[part], largest.numpy().astype(np.float64)
        top = np.maximum(before, now)
        shares = torch.exp(logits - torch.from_numpy(top.astype(np.float32))[:, None])
        self.total[part] = self.total[part] * np.exp(before - top) + shares.sum(dim=1).numpy()
        self.first[part] = np.where(now > before, at.numpy() + start, self.first[part])
        self.top[part] = top
        inside = (target >= start) & (target < start + logits.shape[1])
        own = logits.gather(1, (target - start).clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        self.right[part] = np.where(inside.numpy(), own.numpy(), self.right[part])
        return shares

    def log_sum(self) -> F64:
        found: F64 = self.top + np.log(self.total)
        return found


def score(
    reference: Walker,
    others: Sequence[Walker],
    corpus: Corpus,
    compared: Sequence[Compared],
    beat: Callable[[int, int], None],
) -> list[Scores]:
    """The predictions of all sides, compared with the reference's. `compared` takes in their heads, `beat(done, count)`
    is called after each slab.

    Raises NonFiniteError for logits that are no numbers.
    """
    heads = [Head(walker) for walker in (reference, *others)]
    take_all(compared, [sketch_block(h.resident, h.walker.side.checkpoint, h.walker.workers) for h in heads])
    rows = min(min(head.linear.rows, head.walker.side.vocabulary or head.linear.rows) for head in heads)
    running = [Running(corpus.tokens) for _ in heads]
    distance = [np.zeros(corpus.tokens) for _ in heads]
    target = torch.from_numpy(corpus.target.astype(np.int64))
    chunks = [slice(at, min(at + CHUNK, corpus.tokens)) for at in range(0, corpus.tokens, CHUNK)]

    def one(part: slice, start: int) -> None:
        hidden = [gather(walker, corpus, part) for walker in (reference, *others)]
        ours = heads[0].logits(hidden[0])
        before = running[0].top[part].copy()
        shares = running[0].add(part, ours, start, target[part])
        fade = np.exp(before - running[0].top[part])
        for at in range(1, len(heads)):
            theirs = heads[at].logits(hidden[at])
            running[at].add(part, theirs, start, target[part])
            distance[at][part] = distance[at][part] * fade + (shares * (ours - theirs)).sum(dim=1).numpy()

    for start in range(0, rows, ROWS):
        stop = min(start + ROWS, rows)
        for head in heads:
            head.load(start, stop)
        take_all(compared, [head.sketch() for head in heads])
        reference.workers.map(partial(one, start=start), chunks)
        beat(stop, rows)
    return [_scores(corpus, others[at - 1], running[0], running[at], distance[at]) for at in range(1, len(heads))]


def gather(walker: Walker, corpus: Corpus, part: slice) -> Tensor:
    """Hidden states at the predictions of a chunk, float32 (tokens, hidden)."""
    batch, row, position = corpus.batch[part], corpus.row[part], corpus.position[part]
    out = torch.empty((len(batch), walker.hidden[0].shape[-1]))
    for number in np.unique(batch):
        chosen = batch == number
        at = (torch.from_numpy(row[chosen].astype(np.int64)), torch.from_numpy(position[chosen].astype(np.int64)))
        out[torch.from_numpy(chosen)] = walker.hidden[number][at]
    return out


def _scores(corpus: Corpus, walker: Walker, ours: Running, theirs: Running, distance: F64) -> Scores:
    log_ours, log_theirs = ours.log_sum(), theirs.log_sum()
    kl = distance / ours.total - (log_ours - log_theirs)
    reference, other = ours.right - log_ours, theirs.right - log_theirs
    if not (np.isfinite(kl).all() and np.isfinite(reference).all() and np.isfinite(other).all()):
        at = int(np.flatnonzero(~(np.isfinite(kl) & np.isfinite(reference) & np.isfinite(other)))[0])
        message = (
            f"{walker.side.name}: logits of token {corpus.position[at]} of window {corpus.window[at]} are no numbers"
        )
        raise NonFiniteError(message, hint="look at the final norm and the head with quantkit inspect")
    return Scores(
        walker.side.name,
        np.maximum(kl, 0.0),  # of equal distributions rounding leaves some 1e-8 on either side of zero
        reference,
        other,
        np.exp(ours.top - log_ours),
        ours.first == theirs.first,
        ours.first == corpus.target,
        theirs.first == corpus.target,
        tops=(ours.first, theirs.first),
    )
