"""A reference that is run once for several measurements on the same text: what is kept of its walk, and its replay.

Kept are its hidden states after the last block, the sketches of its weights, and the slabs of its head; of the curve of
errors over the blocks a replay has the last point alone. Tune asks for it: each of its steps measures another artifact,
and in the first the reference goes ahead, beside the conversion that reads the same weights.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch

from quantkit.calibration.text.samples import samples_of
from quantkit.calibration.walk.model import open_model
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.lockstep import Walker, start
from quantkit.evaluation.memory import Memory
from quantkit.evaluation.sides import Side
from quantkit.evaluation.vocabulary import ROWS, Head
from quantkit.evaluation.weights import Sketch, held


@dataclass
class Recording(Walker):
    """A walker whose walk is kept."""

    def advance(self, index: int) -> str:
        """As any walker, and keep what replays need."""
        assert self.memory is not None
        name = super().advance(index)
        self.memory.steps.append((name, _held(self.memory, self.sketch)))
        if index + 1 == len(self.model.steps):
            self.memory.embedded = self.embedded
        return name


@dataclass
class Replay(Walker):
    """The walk of an earlier measurement: its hidden states are those after the last block from the beginning on."""

    def advance(self, index: int) -> str:
        """What was kept of step `index`; nothing is read or run."""
        assert self.memory is not None
        name, self.sketch = self.memory.steps[index + 1]
        return name

    def at(self, index: int) -> bool:
        """Whether the hidden states are those after step `index`."""
        return index + 1 == len(self.model.steps)


def begin(side: Side, corpus: Corpus, pool: Workers) -> Walker:
    """A side at its start: one that walks, or where its memory holds a whole walk the replay of that."""
    memory = side.memory
    if memory is None:
        return start(side, corpus, pool)
    if memory.whole:
        samples = tuple(samples_of(batch.tokens) for batch in corpus.batches)
        model = open_model(side.checkpoint, threads=pool.count)
        return Replay(side, model, samples, memory.embedded, pool, memory.steps[0][1], memory)
    memory.clear()
    walker = start(side, corpus, pool)
    memory.steps.append(("", _held(memory, walker.sketch)))
    return Recording(walker.side, walker.model, walker.samples, walker.embedded, pool, walker.sketch, memory)


class Ahead:
    """A reference that goes through its blocks before there is anything to compare it with. Its head is read first."""

    def __init__(self, side: Side, corpus: Corpus, threads: int) -> None:
        self._open = ExitStack()
        pool = self._open.enter_context(workers(threads, torch.device("cpu")))
        try:
            self._walker = begin(side, corpus, pool)
            head = Head(self._walker)
            for first in range(0, head.linear.rows, ROWS):
                head.load(first, min(first + ROWS, head.linear.rows))
        except BaseException:
            self._open.close()
            raise
        self.done = 0  # steps

    @property
    def count(self) -> int:
        """How many steps there are, each through a block."""
        return len(self._walker.model.steps)

    def advance(self) -> None:
        """Run the next block."""
        self._walker.advance(self.done)
        self.done += 1

    def close(self) -> None:
        """Let the threads go."""
        self._open.close()


def _held(memory: Memory, sketch: Sketch) -> Sketch:
    """A sketch whose numbers lie where the memory has room."""
    return Sketch({name: held(memory, rows) for name, rows in sketch.rows.items()}, sketch.tensors)
