"""Where the passes of a model in cycles start from, so that each of its blocks can be seen with all that it reads.

See `cycles`: the starts are those of the original weights, between them text goes through blocks as they are by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from quantkit.calibration.statistics.sums import SPAN
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk.cycles import Cycles
from quantkit.calibration.walk.model import BlockModel, Embedded, block_at
from quantkit.calibration.walk.passes import Pass, advance
from quantkit.calibration.walk.threads import Workers
from quantkit.records import record

Beat = Callable[[str, int, int], None]  # of a block by its name: how many samples are through, and of all


@dataclass
class Activations:
    """Inputs of the block at hand, float32 (n, seqlen, hidden); of one that is run several times those of all its calls
    side by side.

    `reference` is what the original weights give, None as long as it is the same. `high` are the high states of a model
    in cycles, of the candidate and of a reference that began otherwise.
    """

    candidate: Tensor
    reference: Tensor | None = None
    high: tuple[Tensor, ...] = ()

    def behind(self, first: int) -> Activations:
        """Those of the tokens from `first` on, where they are."""
        if not first:
            return self
        return Activations(self.candidate[:, first:], None if self.reference is None else self.reference[:, first:])


@record
class Starts:
    """What the passes through the low stack read first, float32 (n, seqlen, passes * hidden), and the high states that
    the cycles begin with, (n, seqlen, cycles * hidden)."""

    low: Tensor
    high: Tensor


def starts_of(model: BlockModel, samples: Samples, embedded: Embedded, pool: Workers, beat: Beat) -> Starts:
    """Run the original weights of a model in cycles step by step, up to the last pass that is needed; what is embedded
    is lost. Memory: a block, the rows and the starts. Raises what `advance` raises."""
    assert model.cycles is not None, "others have no passes"
    cycles, rows, width = model.cycles, embedded.hidden, model.cycles.width
    low, high = (model.new_activations((*rows.shape[:2], count * width)) for count in (cycles.calls(0), cycles.high))
    passes = cycles.calls(0)
    for step in range(len(model.steps)):
        number, place = divmod(step, cycles.layers)
        if place == 0 and cycles.is_low(number):
            turn, call = divmod(number, cycles.low + 1)
            _put(model, rows[..., :width], low, turn * cycles.low + call)
            _put(model, rows[..., width:], high, turn)
            passes -= 1
        if passes == 0:
            break
        resident = block_at(model, step, embedded.arguments)
        size = model.token_bytes(resident, rows.shape[1])
        named = _named(beat, resident.name)
        advance(Pass(resident, rows, samples, pool, model.device, size, model.settle, beat=named))
    return Starts(low, high)


def _into_high(model: BlockModel, cycles: Cycles, given: Tensor, high: Tensor) -> Tensor:
    """What the passes through the high stack read first, (n, seqlen, cycles * hidden), of what the last layer of the
    low one gave in all of its passes and of the high states."""
    width, made = cycles.width, model.new_activations(tuple(high.shape))
    for turn in range(cycles.high):
        call = turn * cycles.low + cycles.low - 1
        for start in range(0, len(given), SPAN):
            part = slice(start, start + SPAN)
            low = cycles.made(0, given[part, :, call * width : (call + 1) * width])
            place = slice(turn * width, (turn + 1) * width)
            made[part, :, place] = high[part, :, place] + low
            model.settle()
    return made


def between_stacks(model: BlockModel, index: int, activations: Activations) -> None:
    """Before the first block of the high stack, and before the head, bring what came out to what is read there."""
    cycles = model.cycles
    if cycles is None or index not in (cycles.layers, model.count):
        return

    def read(given: Tensor, high: Tensor) -> Tensor:
        return given[..., -cycles.width :] if index == model.count else _into_high(model, cycles, given, high)

    activations.candidate = read(activations.candidate, activations.high[0])
    if activations.reference is not None:
        activations.reference = read(activations.reference, activations.high[-1])


def _put(model: BlockModel, rows: Tensor, into: Tensor, number: int) -> None:
    """Write rows in the place of a pass."""
    width = rows.shape[-1]
    for start in range(0, len(rows), SPAN):
        into[start : start + SPAN, :, number * width : (number + 1) * width] = rows[start : start + SPAN]
        model.settle()


def _named(beat: Beat, name: str) -> Callable[[int, int], None]:
    return lambda done, count: beat(name, done, count)
