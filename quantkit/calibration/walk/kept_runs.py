"""Runs of blocks that gradients are taken of later, where what they hold fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import torch
from torch import Tensor, nn

from quantkit.calibration.text.spec import FISHER_KEPT_BYTES
from quantkit.calibration.walk.resident import Resident
from quantkit.records import record


@record
class Run:
    """A block in memory with its runs, which gradients can be taken of: what it read and gave, by first sample."""

    resident: Resident
    nbytes: int
    found: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class KeptRuns:
    """The runs of some blocks, by number, that take FISHER_KEPT_BYTES together at most."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}

    def room_for(self, index: int, run: Run) -> Run | None:
        """`run`, which is kept in the place of those of earlier blocks; None where it is too large."""
        if run.nbytes > FISHER_KEPT_BYTES:
            return None
        while sum(each.nbytes for each in self._runs.values()) + run.nbytes > FISHER_KEPT_BYTES:
            del self._runs[min(self._runs)]
        self._runs[index] = run
        return run

    def pop(self, index: int) -> Run | None:
        """The runs of a block, which are kept no more; None where they were not."""
        return self._runs.pop(index, None)


def parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def held_bytes(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """How much memory a run of a module holds for gradients, beside its parameters: its output, and what is saved.

    Counted, not estimated: a recurrent block holds its state at every token, many times what its matrices read.
    """
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = run()  # it holds what is counted meanwhile, so that each has a place of its own
        note(output)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    return sum(nbytes for place, nbytes in found.items() if place not in own)
