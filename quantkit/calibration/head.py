"""What follows the last block: final norm, head matrix, soft cap, in transformers' own code."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantkit.calibration.model import BlockModel
from quantkit.calibration.resident import Resident, load_parameters, observe
from quantkit.calibration.skeleton import build_skeleton, fill_buffers, run_head, set_parameter
from quantkit.calibration.statistics import Linear
from quantkit.calibration.threads import Workers
from quantkit.calibration.weights import locate, read_rows, stored_type
from quantkit.tensors import F32

SLAB_ROWS = 8192  # rows of the matrix multiplied at once
LOGITS_BYTES = 1 << 26  # of one call


def load_head(model: BlockModel) -> Resident:
    """The head with everything but its matrix in memory: `load_matrix` reads that when logits are wanted."""
    skeleton = build_skeleton(model.checkpoint)
    embedding, head = skeleton.model.get_input_embeddings(), skeleton.model.get_output_embeddings()
    table, matrix = (f"{skeleton.name_of(module)}.weight" for module in (embedding, head))
    source = locate(table if head.weight is embedding.weight else matrix, head.weight.shape, model.checkpoint.tensors())
    blocks = skeleton.name_of(skeleton.layers) + "."
    names = [n for n, _ in skeleton.model.named_parameters() if n not in {table, matrix} and not n.startswith(blocks)]
    load_parameters(model.checkpoint, skeleton.model, "", names, model.device)
    fill_buffers(skeleton, skeleton.model, model.device)
    # the head is fed hidden states: one row is enough for the ids that the model's forward asks for
    set_parameter(skeleton.model, table, torch.zeros(1, embedding.embedding_dim, device=model.device))
    head.forward = partial(_in_slabs, weakref.proxy(head))  # a cycle would keep the matrix in memory
    linears = {matrix: Linear(matrix, source, *head.weight.shape)}
    return observe(Resident("", skeleton.model, linears, partial(run_head, skeleton)))


def load_matrix(model: BlockModel, head: Resident) -> None:
    """Read the head's matrix, in its stored type, if it is not there yet."""
    (linear,) = head.linears.values()
    if head.parameter(linear.name).is_meta:
        dtype = stored_type(model.checkpoint.tensors()[linear.source.tensor])
        shape = torch.Size((linear.rows, linear.cols))
        set_parameter(head.module, linear.name, read_rows(model.checkpoint, linear.source, shape, model.device, dtype))


@dataclass(frozen=True)
class Logits:
    """Logits of tokens [start, start + n) of the sample at `position`: float32 (n, vocabulary).

    `reference` is what the original weights give, None where the walk keeps no reference; the same tensor as
    `candidate` as long as no weight was replaced.
    """

    position: int
    start: int
    candidate: Tensor
    reference: Tensor | None


@dataclass(frozen=True)
class Stream:
    """Outputs of the last block, float32 (n, seqlen, hidden), and the head they go into."""

    head: Resident
    hidden: Tensor

    def logits(self, position: int, tokens: slice, device: torch.device) -> Tensor:
        """Float32 (tokens, vocabulary)."""
        output, _ = self.head.run(self.hidden[position, tokens].unsqueeze(0).to(device))
        assert output is not None
        return output[0]


def logits_at(stream: Stream, tokens: Sequence[int], device: torch.device, workers: Workers) -> F32:
    """Logits of one token of each sample, float32 (n, vocabulary)."""

    def one(task: tuple[int, int]) -> F32:
        position, token = task
        found: F32 = stream.logits(position, slice(token, token + 1), device)[0].cpu().numpy()
        return found

    return np.stack(workers.map(one, list(enumerate(tokens))))


def read_logits(
    candidate: Stream, reference: Stream | None, device: torch.device, workers: Workers
) -> Iterator[Logits]:
    """The logits of all samples in order, in pieces whose size depends on the vocabulary alone."""
    (linear,) = candidate.head.linears.values()
    step = max(1, LOGITS_BYTES // (4 * linear.rows))

    def piece(task: tuple[int, int]) -> Logits:
        position, start = task
        tokens = slice(start, start + step)
        found = candidate.logits(position, tokens, device)
        if reference is None or reference is candidate:
            return Logits(position, start, found, None if reference is None else found)
        return Logits(position, start, found, reference.logits(position, tokens, device))

    count, seqlen, _ = candidate.hidden.shape
    tasks = [(position, start) for position in range(count) for start in range(0, seqlen, step)]
    for first in range(0, len(tasks), workers.count):
        yield from workers.map(piece, tasks[first : first + workers.count])


def _in_slabs(head: Any, hidden: Tensor) -> Tensor:
    """The linear's product, slab by slab of rows widened to float32: rows stored in 16 bits stay so in memory."""
    out = hidden.new_empty((*hidden.shape[:-1], head.weight.shape[0]))
    for start in range(0, head.weight.shape[0], SLAB_ROWS):
        slab = head.weight[start : start + SLAB_ROWS].float()
        out[..., start : start + slab.shape[0]] = nn.functional.linear(hidden, slab)
    return out if head.bias is None else out + head.bias
