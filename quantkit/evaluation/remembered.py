"""A reference that is run once for several measurements on the same text: what is kept of its walk, and its replay.

Kept are its hidden states after the last block, the sketches of its weights, and the slabs of its head; of the curve of
errors over the blocks a replay has the last point alone. Tune asks for it: each of its steps measures another artifact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quantkit.calibration.text.samples import samples_of
from quantkit.calibration.walk.model import open_model
from quantkit.calibration.walk.threads import Workers
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.lockstep import Walker, start
from quantkit.evaluation.memory import Memory
from quantkit.evaluation.sides import Side
from quantkit.evaluation.weights import Sketch


@dataclass
class Recording(Walker):
    """A walker whose walk is kept as far as there is room for it."""

    memory: Memory = field(default_factory=Memory)

    def advance(self, index: int) -> str:
        """As any walker, and keep what replays need."""
        name = super().advance(index)
        self.memory.add(name, self.sketch, _nbytes(self.sketch))
        if index + 1 == self.model.count:
            self.memory.finish(self.embedded, sum(each.nbytes for each in self.hidden))
        return name


@dataclass
class Replay(Walker):
    """The walk of an earlier measurement: its hidden states are those after the last block from the beginning on."""

    memory: Memory = field(default_factory=Memory)

    def advance(self, index: int) -> str:
        """What was kept of block `index`; nothing is read or run."""
        name, self.sketch = self.memory.steps[index + 1]
        return name

    def at(self, index: int) -> bool:
        """Whether the hidden states are those after block `index`."""
        return index + 1 == self.model.count


def begin(side: Side, corpus: Corpus, workers: Workers) -> Walker:
    """A side at its start: one that walks, or where its memory holds a whole walk the replay of that."""
    memory = side.memory
    if memory is None:
        return start(side, corpus, workers)
    if memory.whole:
        samples = tuple(samples_of(batch.tokens) for batch in corpus.batches)
        model = open_model(side.checkpoint, threads=workers.count)
        return Replay(side, model, samples, memory.embedded, workers, memory.steps[0][1], memory.slabs, memory)
    memory.clear()
    walker = start(side, corpus, workers)
    if memory.takes(4 * walker.model.rows * walker.hidden[0].shape[-1]):
        memory.slabs = {}
    memory.add("", walker.sketch, _nbytes(walker.sketch))
    parts = (walker.side, walker.model, walker.samples, walker.embedded, walker.workers, walker.sketch)
    return Recording(*parts, memory.slabs, memory)


def _nbytes(sketch: Sketch) -> int:
    return sum(rows.nbytes for rows in sketch.rows.values())
