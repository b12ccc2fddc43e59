"""What blocks hand on where that is more than a hidden state: for each token all of it in one row of activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor


class HandedOn(Protocol):
    """How a row (batch, tokens, numbers) is cut, and how it goes through a block. See `carried`, `cycles`, `paired`."""

    @property
    def width(self) -> int:
        """Numbers of the hidden states, which come first."""
        ...

    @property
    def vector(self) -> int:
        """Numbers of the vectors that blocks are given beside, 0 where there are none."""
        ...

    def alone(self) -> HandedOn:
        """Without what a model itself keeps from block to block."""
        ...

    def pack(self, hidden: Tensor, tokens: Tensor, vectors: Sequence[Tensor] = ()) -> Tensor:
        """The rows before the first block, of `hidden` as the model has it, ids (batch, tokens) and vectors."""
        ...

    def hidden_of(self, rows: Tensor) -> Tensor:
        """The hidden states as the model has them; rows may end behind them."""
        ...

    def through(self, index: int, block: Callable[..., Any], rows: Tensor) -> Tensor:
        """The rows behind step `index`, a function of what the model has and of keywords."""
        ...

    def anew(self, index: int, seqlen: int) -> slice:
        """Of `seqlen` tokens those that step `index` makes anew."""
        ...


def all_of(seqlen: int) -> slice:
    """Every token, as blocks of most models make them."""
    return slice(0, seqlen)
