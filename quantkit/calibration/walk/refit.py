"""Vectors of a finished file moved until it predicts what the original predicts: norms, which cost no bytes.

    KL = mean over tokens of sum over the vocabulary of p (log p - log q),   v' = v (1 + f),   |f| <= REFIT_REACH

with p what the original predicts, q what the file does, v a vector as the file stores it and a factor f for each of its
channels. The gradients of the true divergence are taken of some windows at a time, and f follows them by Adam (Kingma
and Ba, arXiv 1412.6980) with a rate that falls to zero: factors, not values, so that it does not matter how long the
channels of a checkpoint are.

One block of the file is in memory at a time, forward and back, each block computed once more on the way back; blocks
stay in memory where all of them take little of it. Pieces are cut by sizes alone, each is computed on one thread, and
gradients are added up in their order: the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantkit.calibration.text.samples import I32, Samples, samples_of
from quantkit.calibration.text.spec import REFIT_KEPT_BYTES, REFIT_STEP_TOKENS, REFIT_STEPS
from quantkit.calibration.walk.head import LOGITS_BYTES, load_head, load_matrix
from quantkit.calibration.walk.model import (
    BlockModel,
    Embedded,
    block_at,
    embed,
    read_embedding,
    token_rows,
)
from quantkit.calibration.walk.passes import Pass, advance, chunk_samples
from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.skeleton import Arguments, set_parameter
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.calibration.walk.weights import held_by, locate
from quantkit.methods.settings import REFIT_REACH
from quantkit.records import record
from quantkit.tensors import F32

RATE = 0.001  # of Adam, at the first step: a larger one does harm where models are larger
DECAYS = (0.9, 0.99)  # of the means of gradients and of their squares
EPOCHS = 5  # that the text is seen, at most: with little text there are fewer steps
TINY = 1e-12  # where a gradient is zero

F64 = NDArray[np.float64]
Vectors = dict[str, nn.Parameter]  # parameters in memory by the names of the source's tensors
Task = TypeVar("Task")
Result = TypeVar("Result")


@record
class Refitted:
    """What became of vectors: their new `values` by the names of the source, as the file stores them, float32 (n,).

    `before` and `after` are mean divergences in nats per token, float64, of each window that was not learned from;
    `tokens` were learned from.
    """

    values: Mapping[str, F32]
    before: F64
    after: F64
    tokens: int


def refit(
    models: tuple[BlockModel, BlockModel],
    text: tuple[Samples, Samples],
    vectors: Mapping[str, float],
    vocabulary: int,
    beat: Callable[[int, int], None] = lambda done, count: None,
) -> Refitted:
    """Fit the vectors of a file, the second of `models`, to what the first, the original, predicts.

    `text` is what to learn from, and other text to judge by, in windows of the same length. `vectors` are the names of
    source tensors with what a file adds to their values; they begin as the original has them. The first `vocabulary`
    rows of the heads count. `beat(done, count)` is called before each step, and may raise. Raises what loading and
    running blocks raises.
    """
    file = models[1]
    with workers(file.threads, file.device) as pool:
        return _Fit(models, text, vectors, vocabulary, pool).run(beat)


@dataclass
class _Moving:
    """A vector on its way: as the file would store it unmoved, its factor, and Adam's means; float32 (n,) each."""

    start: Tensor
    add: float
    factor: Tensor
    mean: Tensor
    square: Tensor

    def now(self) -> Tensor:
        """As the file stores it with this factor."""
        return self.start * (1 + self.factor)

    def step(self, gradient: Tensor, number: int, count: int) -> None:
        """One of Adam's `count` steps, numbered from 0, against a gradient with regard to the vector."""
        gradient = gradient * self.start
        first, second = DECAYS
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        mean, square = self.mean / (1 - first ** (number + 1)), self.square / (1 - second ** (number + 1))
        moved = self.factor - RATE * (1 - number / count) * mean / (square.sqrt() + TINY)
        self.factor = moved.clamp(-REFIT_REACH, REFIT_REACH)


@dataclass
class _Blocks:
    """The blocks of the file with its vectors as they are now. `kept` are those that stay in memory."""

    model: BlockModel
    moving: Mapping[str, _Moving]
    arguments: Sequence[Arguments]
    keeps: bool
    kept: dict[int, Resident] = field(default_factory=dict)

    def load(self, index: int) -> tuple[Resident, Vectors]:
        """A block, and its vectors among its parameters."""
        resident = self.kept.get(index) or block_at(self.model, index, self.arguments)
        if self.keeps:
            self.kept[index] = resident
        return resident, self.put(resident)

    def put(self, resident: Resident) -> Vectors:
        """Put the vectors into a block, or the head."""
        found: Vectors = {}
        held = held_by(self.model.checkpoint)
        for path, value in list(resident.module.named_parameters()):
            if value.ndim != 1 or value.is_meta:
                continue
            name = locate(resident.prefix + path, value.shape, held).tensor
            if name in self.moving:
                moving = self.moving[name]
                set_parameter(resident.module, path, (moving.now() - moving.add).to(value.device))
                found[name] = resident.module.get_parameter(path)
                found[name].requires_grad_()
        return found


@record
class _Piece:
    """Some tokens at the head: the window's row among those at hand, the sum of their divergence in nats, and the
    gradients of the sum with regard to vectors."""

    row: int
    divergence: float
    gradients: Mapping[str, Tensor]


class _Fit:
    """The windows of both texts, one after the other: `expected` is what the original's head reads, `hidden` what the
    file's first block does, float32 (n, seqlen, hidden)."""

    def __init__(
        self,
        models: tuple[BlockModel, BlockModel],
        text: tuple[Samples, Samples],
        vectors: Mapping[str, float],
        vocabulary: int,
        pool: Workers,
    ) -> None:
        self._original, self._file = models
        self._pool, self._vocabulary = pool, vocabulary
        learned, self._batches = _batches(text[0])
        self._samples = samples_of(np.concatenate([learned, text[1].tokens]))
        self._learned, self._judged = len(learned), len(text[1].tokens)
        self._moving = {name: self._unmoved(name, add) for name, add in vectors.items()}
        self._expected = self._outputs()
        found = self._embedded(self._file)
        self._hidden = found.hidden
        self._begin = self._file.skeleton.predicts_from(found.hidden.shape[1])
        size = 4 * sum(value.numel() for block in self._file.skeleton.blocks for value in block.parameters())
        self._blocks = _Blocks(self._file, self._moving, found.arguments, size <= REFIT_KEPT_BYTES)
        self._heads = load_head(self._original), load_head(self._file)
        for model, head in zip(models, self._heads, strict=True):
            load_matrix(model, head)

    def run(self, beat: Callable[[int, int], None]) -> Refitted:
        before, batches = self._judge(), self._batches
        gradients, *kept = (self._new(len(batches[0])) for _ in range(len(self._file.steps) + 2))
        for number, batch in enumerate(batches):
            beat(number, len(batches))
            for name, gradient in self._gradients(batch, kept, gradients).items():
                self._moving[name].step(gradient, number, len(batches))
        values = {name: one.now().numpy() for name, one in self._moving.items()}
        return Refitted(values, before, self._judge(), self._learned * self._samples.tokens.shape[1])

    @property
    def _predicted(self) -> int:
        """How many predictions of a window count."""
        return int(self._hidden.shape[1]) - self._begin

    def _unmoved(self, name: str, add: float) -> _Moving:
        ref = self._original.checkpoint.ref(name)
        start = torch.from_numpy(ref.read(0, ref.info.rows).reshape(-1) + np.float32(add))
        return _Moving(start, add, *(torch.zeros_like(start) for _ in range(3)))

    def _new(self, count: int) -> Tensor:
        return self._file.new_activations((count, *self._hidden.shape[1:]))

    def _embedded(self, model: BlockModel) -> Embedded:
        return embed(model, self._samples, read_embedding(model, token_rows(self._samples)), self._pool)

    def _outputs(self) -> Tensor:
        """What the original's head reads."""
        model, found = self._original, self._embedded(self._original)
        for index in range(len(model.steps)):
            self._advance(model, block_at(model, index, found.arguments), found.hidden)
        return found.hidden

    def _advance(self, model: BlockModel, resident: Resident, hidden: Tensor) -> None:
        size = model.token_bytes(resident, hidden.shape[1])
        advance(Pass(resident, hidden, self._samples, self._pool, model.device, size, model.settle))

    def _judge(self) -> F64:
        """The mean divergence of each window that is not learned from."""
        windows = range(self._learned, self._learned + self._judged)
        hidden = self._new(self._judged)
        hidden[:] = self._hidden[windows.start : windows.stop]
        for index in range(len(self._file.steps)):
            self._advance(self._file, self._blocks.load(index)[0], hidden)
        sums = np.zeros(self._judged)
        for piece in self._at_head(windows, hidden):
            sums[piece.row] += piece.divergence
        found: F64 = sums / self._predicted
        return found

    def _gradients(self, batch: Sequence[int], kept: Sequence[Tensor], gradients: Tensor) -> dict[str, Tensor]:
        """Gradients of the mean divergence with regard to every vector; what blocks read goes to `kept`, and what comes
        back from block to block to `gradients`."""
        for row, window in enumerate(batch):
            kept[0][row] = self._hidden[window]
        for index in range(len(self._file.steps)):
            kept[index + 1][:] = kept[index]
            self._advance(self._file, self._blocks.load(index)[0], kept[index + 1])
        sums = {name: torch.zeros_like(one.start, dtype=torch.float64) for name, one in self._moving.items()}
        for piece in self._at_head(batch, kept[len(self._file.steps)], gradients):
            _add(sums, piece.gradients)
        for index in reversed(range(len(self._file.steps))):
            for own in self._backward(index, kept[index], gradients):
                _add(sums, own)
        return {name: (one / (len(batch) * self._predicted)).float() for name, one in sums.items()}

    def _at_head(self, windows: Sequence[int], read: Tensor, gradients: Tensor | None = None) -> Iterator[_Piece]:
        """How far the file's predictions are from the original's, from what its head reads (windows, seqlen, hidden);
        the gradients of that go to `gradients`, if there is such a place."""
        original, file = self._heads
        vectors = self._blocks.put(file)
        (linear,) = file.linears.values()
        step = max(1, LOGITS_BYTES // (4 * linear.rows))

        def piece(task: tuple[int, int]) -> _Piece:
            row, place = task[0], slice(task[1], task[1] + step)
            ours = self._log(original, self._expected[windows[row], place])
            hidden = read[row, place].to(self._file.device)
            with torch.set_grad_enabled(gradients is not None):
                hidden.requires_grad_(gradients is not None)
                apart = (ours.exp() * (ours - self._log(file, hidden))).sum()
            if gradients is None:
                return _Piece(row, float(apart), {})
            found, *own = torch.autograd.grad(apart, [hidden, *vectors.values()], allow_unused=True)
            gradients[row, place] = found.to(gradients.device)
            return _Piece(row, float(apart.detach()), _present(vectors, own))

        if gradients is not None:
            gradients[:, : self._begin] = 0
        starts = range(self._begin, read.shape[1], step)
        return self._waves(piece, [(row, start) for row in range(len(windows)) for start in starts])

    def _log(self, head: Resident, hidden: Tensor) -> Tensor:
        """Logarithms of what a head predicts, (tokens, vocabulary)."""
        logits, _ = head.run(hidden.unsqueeze(0).to(self._file.device))
        assert logits is not None
        return torch.log_softmax(logits[0, :, : self._vocabulary], -1)

    def _backward(self, index: int, read: Tensor, gradients: Tensor) -> Iterator[Mapping[str, Tensor]]:
        """Gradients at what a block gives become those at what it reads; gradients of its vectors."""
        resident, vectors = self._blocks.load(index)

        def back(chunk: slice) -> Mapping[str, Tensor]:
            hidden = read[chunk].to(self._file.device)
            with torch.enable_grad():
                output, _ = resident.run(hidden.requires_grad_())
                assert output is not None
                to = gradients[chunk].to(output.device)
                found, *own = torch.autograd.grad(output, [hidden, *vectors.values()], to, allow_unused=True)
            gradients[chunk] = found.to(gradients.device)
            return _present(vectors, own)

        count, step = len(read), chunk_samples(read.shape[1], self._file.device)
        return self._waves(back, [slice(first, min(first + step, count)) for first in range(0, count, step)])

    def _waves(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """What work gives for all tasks, in their order."""
        for first in range(0, len(tasks), self._pool.count):
            yield from self._pool.map(work, tasks[first : first + self._pool.count])
            self._file.settle()


def _batches(text: Samples) -> tuple[I32, list[list[int]]]:
    """The windows that are learned from, (n, seqlen), and those of each step, numbered among them: far apart in the
    text, none twice before all were there."""
    count, seqlen = text.tokens.shape
    size = min(count, max(1, REFIT_STEP_TOKENS // seqlen))
    stride = count // size
    order = [window for first in range(stride) for window in range(first, count, stride)]
    order = order[: REFIT_STEPS * size]
    steps = min(REFIT_STEPS, -(-EPOCHS * count // size))
    return text.tokens[order], [[(step * size + k) % len(order) for k in range(size)] for step in range(steps)]


def _present(vectors: Vectors, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """The gradients of those vectors that are made use of."""
    return {name: one for name, one in zip(vectors, gradients, strict=True) if one is not None}


def _add(sums: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    for name, one in gradients.items():
        sums[name] += one.to(sums[name].device, torch.float64)
