"""Several models through their blocks side by side, one block of one of them in memory at a time.

for index in range(blocks):  reference: load, run, drop;  each other: load, run, drop;  compare what came out
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantkit.calibration.text.samples import Samples, samples_of
from quantkit.calibration.walk.handing import HandedOn, all_of
from quantkit.calibration.walk.model import (
    BlockModel,
    Embedded,
    block_at,
    called_with,
    embed,
    open_model,
    read_embedding,
    token_rows,
)
from quantkit.calibration.walk.passes import Pass, advance
from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.threads import Workers
from quantkit.calibration.walk.weights import held_by, locate
from quantkit.errors import InputError, NonFiniteError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.memory import Memory
from quantkit.evaluation.sides import Rounding, Side
from quantkit.evaluation.weights import Sketch, sketch_block

ROWS_TOGETHER = 4  # windows whose hidden states are compared at once


@dataclass
class Walker:
    """One side on its way: its model, and for every batch of the corpus its activations, float32 (n, seqlen, hidden)"""

    side: Side
    model: BlockModel
    samples: tuple[Samples, ...]
    embedded: tuple[Embedded, ...]
    workers: Workers
    sketch: Sketch
    memory: Memory | None = None  # where its walk is kept, if that is wanted

    def at(self, index: int) -> bool:
        """Whether the hidden states are those after step `index`, once it was run."""
        return True

    @property
    def hidden(self) -> tuple[Tensor, ...]:
        """Hidden states, without what else is carried from block to block."""
        carried = self.model.skeleton.carried
        return tuple(each.hidden[..., : carried.width] if carried else each.hidden for each in self.embedded)

    def advance(self, index: int) -> str:
        """Run all batches through the block of step `index`; its name. Raises NonFiniteError naming the side."""
        resident = block_at(self.model, index, self.embedded[0].arguments)
        seen = self.model.steps[index] in self.model.steps[:index]
        self.sketch = Sketch() if seen else sketch_block(resident, self.side.checkpoint, self.workers)
        round_inputs(resident, self.side)
        try:
            for samples, each in zip(self.samples, self.embedded, strict=True):
                bound = called_with(resident, each.arguments[index])
                size = self.model.token_bytes(resident, each.hidden.shape[1])
                place = (self.workers, self.model.device, size, self.model.settle)
                advance(Pass(bound, each.hidden, samples, *place))
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{self.side.name}: {error.message}", tensor=error.tensor, path=error.path, hint=error.hint
            ) from error
        return resident.name


def start(side: Side, corpus: Corpus, workers: Workers) -> Walker:
    """A side with the corpus embedded. Raises what `open_model` and `embed` raise."""
    model = open_model(side.checkpoint, threads=workers.count)
    samples = tuple(samples_of(batch.tokens) for batch in corpus.batches)
    embedding = model.skeleton.model.get_input_embeddings()
    name = model.skeleton.name_of(embedding) + ".weight"
    source = locate(name, embedding.weight.shape, held_by(side.checkpoint)).tensor
    used = np.unique(np.concatenate([token_rows(each) for each in samples]))
    table = read_embedding(model, used)
    sketch = Sketch()
    sketch.add(f"{name} (rows of the text)", source, table, workers)
    embedded = []
    for each in samples:
        rows = torch.from_numpy(np.searchsorted(used, token_rows(each)))
        embedded.append(embed(model, each, table[rows], workers))
    return Walker(side, model, samples, tuple(embedded), workers, sketch)


def require_alike(reference: Walker, other: Walker) -> None:
    """Raise InputError for models whose hidden states or vocabularies cannot be compared."""
    pairs = (
        ("blocks", len(reference.model.steps), len(other.model.steps)),
        ("hidden channels", reference.hidden[0].shape[-1], other.hidden[0].shape[-1]),
        ("rows in the embedding", reference.model.rows, other.model.rows),
    )
    for what, here, there in pairs:
        if here != there:
            message = f"{other.side.name} has {there:,} {what}, {reference.side.name} has {here:,}"
            raise InputError(message, hint="they are not of the same model: give the source it was made from")


def round_inputs(resident: Resident, side: Side) -> None:
    """Have the layers of a block multiply what the side's engine makes of their inputs."""
    for name, linear in resident.linears.items():
        rounded = side.rounding(linear.source.tensor)
        if rounded is not None:
            path = name.removeprefix(resident.prefix).removesuffix(".weight")
            resident.module.get_submodule(path).register_forward_pre_hook(partial(_rounded, rounded))


def _rounded(rounding: Rounding, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (rounding(args[0]), *args[1:])


def hidden_errors(reference: Walker, others: Sequence[Walker], corpus: Corpus, index: int) -> list[float]:
    """How far each is from the reference after block `index`: the root of the mean, over the tokens at which a
    prediction counts, of |h - h'|^2 / |h|^2. Tokens count alike, so that the few of great length decide nothing. Of an
    encoder whose decoder predicts, it is that over the tokens that the encoder reads."""
    found = []
    for other in others:
        parts: list[tuple[float, int]] = []
        for batch, ours, theirs in zip(corpus.batches, reference.hidden, other.hidden, strict=True):
            counted = _counted(reference.model.skeleton.carried, index, batch.scored)
            parts += reference.workers.map(_part(counted, ours, theirs), range(0, len(counted), ROWS_TOGETHER))
        found.append((sum(part for part, _ in parts) / max(sum(count for _, count in parts), 1)) ** 0.5)
    return found


def _counted(carried: HandedOn | None, index: int, scored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The tokens (n, seqlen) that count after step `index`, where those at which `scored` predictions are made do: of
    an encoder, behind whose tokens there are others, all that it reads."""
    seqlen = scored.shape[1]
    made = all_of(seqlen) if carried is None else carried.anew(index, seqlen)
    if made.stop == seqlen:
        return scored
    read = np.zeros_like(scored)
    read[:, made] = True
    return read


def _part(counted: NDArray[np.bool_], ours: Tensor, theirs: Tensor) -> Callable[[int], tuple[float, int]]:
    def part(first: int) -> tuple[float, int]:
        rows = slice(first, first + ROWS_TOGETHER)
        scored = torch.from_numpy(np.ascontiguousarray(counted[rows]))
        here, there = ours[rows][scored].double(), theirs[rows][scored].double()
        energy = here.square().sum(-1)
        noise = (here - there).square().sum(-1)
        ratio = torch.where(energy > 0, noise / energy, (noise > 0).double())
        return float(ratio.sum()), int(scored.sum())

    return part
