"""Models that a text goes through in cycles, two stacks of layers again and again (HRM-Text).

    z_H = embedding,  z_L = what the model begins with
    H_cycles times:   L_cycles times  z_L = norm(low stack(z_L + z_H));   z_H = norm(high stack(z_H + z_L))

A pass through a stack reads the sum of both states and makes one of them anew; the other stays. So a row of the
activations is

    | what the next layer reads | the state that this pass leaves as it is |
    | hidden                    | hidden                                   |

and a step is a layer in the order in which the text goes through them. Source: HrmTextModel.forward of transformers.

Calibration sees each layer once, with the inputs of all passes together. What a pass starts from then comes from the
original weights, all of whose steps are run beforehand; inside a pass, and from the low stack to the high one, inputs
come from the rounded layers before. Inputs of a later pass do depend on every layer, also on those that are not rounded
yet: errors that come back through the cycles are not in the statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quantkit.calibration.walk.handing import all_of
from quantkit.records import record

STACKS = ("L_module", "H_module")  # low and high


@record
class Cycles:
    """How a text goes through the stacks of `decoder`, which are `layers` layers each: `high` times through the high
    one, `low` times through the low one before each of them. Rows are cut as `carried.Carried` cuts its own."""

    decoder: Any
    layers: int
    high: int
    low: int

    vector: ClassVar[int] = 0

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        return int(self.decoder.config.hidden_size)

    @property
    def steps(self) -> tuple[int, ...]:
        """The block of each step; those of the low stack come first."""
        low, high = range(self.layers), range(self.layers, 2 * self.layers)
        return (*(*low,) * self.low, *high) * self.high

    @property
    def begins(self) -> tuple[int, ...]:
        """The step before which the embedding is seen: the first of the high stack, where the low one gives zeros."""
        return (self.low * self.layers,)

    def calls(self, block: int) -> int:
        """How many times a block is run."""
        return self.high * (self.low if block < self.layers else 1)

    def is_low(self, number: int) -> bool:
        """Whether a pass, numbered from 0, goes through the low stack."""
        return number % (self.low + 1) < self.low

    def pack(self, hidden: Tensor, tokens: Tensor, vectors: Sequence[Tensor] = ()) -> Tensor:
        """The rows (batch, tokens, numbers) before the first step, of the high state (batch, tokens, hidden)."""
        return torch.cat([self.decoder.z_L_init + hidden, hidden], -1)

    def hidden_of(self, rows: Tensor) -> Tensor:
        """What the last layer gave; rows may end behind it."""
        return rows[..., : self.width]

    def alone(self) -> Cycles:
        """The same: no keys and values are in a row."""
        return self

    def through(self, index: int, block: Callable[..., Any], rows: Tensor) -> Tensor:
        """The rows behind step `index`, a function of what the layer reads."""
        given, stays = block(rows[..., : self.width]), rows[..., self.width :]
        number, place = divmod(index, self.layers)
        if place < self.layers - 1 or index == len(self.steps) - 1:  # the model itself does the rest behind the last
            return torch.cat([given, stays], -1)
        made = self.made(number, given)
        again = self.is_low(number) and self.is_low(number + 1)
        return torch.cat([made + stays, stays if again else made], -1)

    def anew(self, index: int, seqlen: int) -> slice:
        """Every token."""
        return all_of(seqlen)

    def made(self, number: int, given: Tensor) -> Tensor:
        """The state that a pass makes of what its last layer gave."""
        norm: nn.Module = getattr(self.decoder, STACKS[not self.is_low(number)]).final_norm
        state: Tensor = norm(given)
        return state


def stacks_of(decoder: Any) -> tuple[nn.Module, ...] | None:
    """The layers of both stacks, the low one's first; None for a decoder that has no such stacks."""
    if not all(hasattr(decoder, name) for name in STACKS):
        return None
    return tuple(layer for name in STACKS for layer in getattr(decoder, name).layers)


def cycles_of(decoder: Any) -> Cycles | None:
    """How a text goes through a decoder, None where it goes through every layer once."""
    if stacks_of(decoder) is None:
        return None
    config = decoder.config
    return Cycles(decoder, config.num_layers_per_stack, config.H_cycles, config.L_cycles)
