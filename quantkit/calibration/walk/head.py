"""What follows the last block: final norm, head matrix, soft cap, in transformers' own code."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantkit.calibration.statistics.sums import Linear
from quantkit.calibration.walk.model import BlockModel
from quantkit.calibration.walk.resident import Resident, load_parameters, observe
from quantkit.calibration.walk.skeleton import Skeleton, build_skeleton, fill_buffers, run_head, set_parameter
from quantkit.calibration.walk.threads import Workers
from quantkit.calibration.walk.weights import held_by, locate, read_rows, stored_type
from quantkit.families.model import Rows
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import F32

# Models that bring hidden states to the type of the head's matrix.
CASTING = frozenset({"FalconMambaForCausalLM", "HYV4ForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM"})
SLAB_ROWS = 8192  # rows of the matrix multiplied at once
LOGITS_BYTES = 1 << 26  # of one call


def load_head(model: BlockModel) -> Resident:
    """The head with everything but its matrix in memory.

    `load_matrix` reads that where logits of many tokens are wanted; without it, a run reads it slab by slab.
    """
    skeleton = build_skeleton(model.checkpoint)
    embedding, head = skeleton.model.get_input_embeddings(), skeleton.model.get_output_embeddings()
    table, matrix = (f"{skeleton.name_of(module)}.weight" for module in (embedding, head))
    name = table if head.weight is embedding.weight else matrix
    source = locate(name, head.weight.shape, held_by(model.checkpoint))
    _load_end(model, skeleton)
    read = partial(_read_slab, model.checkpoint, source, model.device)
    head.forward = partial(_in_slabs, weakref.proxy(head), read)  # a cycle would keep the matrix in memory
    linears = {matrix: Linear(matrix, source, *head.weight.shape)}
    return observe(Resident("", skeleton.model, linears, partial(run_head, skeleton)))


def load_norm(model: BlockModel) -> Resident:
    """What makes a model's vectors (1, tokens, hidden) of what the last block gives: all of the head but its matrix."""
    skeleton = build_skeleton(model.checkpoint)
    _load_end(model, skeleton)
    skeleton.model.get_output_embeddings().forward = _as_given
    return observe(Resident("", skeleton.model, {}, partial(run_head, skeleton)))


def _load_end(model: BlockModel, skeleton: Skeleton) -> None:
    """Have in memory what is behind the last block, without the head's matrix."""
    load_parameters(model.checkpoint, skeleton.model, "", skeleton.around, model.device)
    fill_buffers(skeleton, skeleton.model, model.device)
    # the head is fed hidden states: one row is enough for the ids that the model's forward asks for
    for each in skeleton.tables:
        row = torch.zeros(1, each.embedding_dim, device=model.device)
        set_parameter(skeleton.model, f"{skeleton.name_of(each)}.weight", row)


def _as_given(hidden: Tensor) -> Tensor:
    return hidden


def load_matrix(model: BlockModel, head: Resident) -> None:
    """Read the head's matrix, in its stored type, if it is not there yet."""
    (linear,) = head.linears.values()
    if head.parameter(linear.name).is_meta:
        own = type(head.module).__name__ in CASTING
        dtype = torch.float32 if own else stored_type(model.checkpoint.tensors()[linear.source.tensor])
        shape = torch.Size((linear.rows, linear.cols))
        set_parameter(head.module, linear.name, read_rows(model.checkpoint, linear.source, shape, model.device, dtype))


@record
class Logits:
    """Logits of tokens [start, start + n) of the sample at `position`: float32 (n, vocabulary).

    `reference` is what the original weights give, None where the walk keeps no reference; the same tensor as
    `candidate` as long as no weight was replaced.
    """

    position: int
    start: int
    candidate: Tensor
    reference: Tensor | None


@record
class Stream:
    """Outputs of the last block, float32 (n, seqlen, hidden), and the head they go into."""

    head: Resident
    hidden: Tensor

    def logits(self, position: int, tokens: slice, device: torch.device) -> Tensor:
        """Float32 (tokens, vocabulary)."""
        output, _ = self.head.run(self.hidden[position, tokens].unsqueeze(0).to(device))
        assert output is not None
        return output[0]


def logits_at(stream: Stream, places: Sequence[tuple[int, int]], device: torch.device, workers: Workers) -> F32:
    """Logits of tokens, each (sample, token of it): float32 (n, vocabulary). The matrix need not be in memory."""
    (linear,) = stream.head.linears.values()
    step = max(1, LOGITS_BYTES // (4 * linear.rows))

    def some(first: int) -> F32:
        chosen = [stream.hidden[sample, token] for sample, token in places[first : first + step]]
        output, _ = stream.head.run(torch.stack(chosen).unsqueeze(0).to(device))
        assert output is not None
        found: F32 = output[0].cpu().numpy()
        return found

    return np.concatenate(workers.map(some, range(0, len(places), step)))


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


def _in_slabs(head: Any, read: Callable[[int, int], Tensor], hidden: Tensor) -> Tensor:
    """The linear's product, slab by slab of rows widened to float32: rows stored in 16 bits stay so in memory."""
    rows = head.weight.shape[0]
    out = hidden.new_empty((*hidden.shape[:-1], rows))
    for start in range(0, rows, SLAB_ROWS):
        stop = min(start + SLAB_ROWS, rows)
        slab = read(start, stop) if head.weight.is_meta else head.weight[start:stop].float()
        out[..., start:stop] = nn.functional.linear(hidden, slab)
    return out if head.bias is None else out + head.bias.to(out.device)


def _read_slab(checkpoint: Checkpoint, source: Rows, device: torch.device, start: int, stop: int) -> Tensor:
    ref = checkpoint.ref(source.tensor)
    return torch.from_numpy(ref.read(source.start + start, source.start + stop)).to(device)
