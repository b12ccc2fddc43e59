"""Where columns of matrices can be scaled at no cost: the places of a checkpoint that its family's folds speak of.

What a norm or a linear gives, channel by channel, is read by columns of the matrices behind it: dividing the columns
by a factor that the channels are multiplied by leaves the function as it is. Headers only; names are the source's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.folds import Fold
from quantkit.families.known import folds_of
from quantkit.families.linears import WEIGHT, outline
from quantkit.families.model import Model, ModelTensor, Rows
from quantkit.families.names import block_of, expert_of
from quantkit.records import record
from quantkit.tensors import TensorInfo

BIAS = ".bias"
OUTPUT, OUTPUT_NORM, FURTHER = "output.weight", "output_norm.weight", ".nextn."


@record
class Site:
    """Rows that make channels, and the matrices whose columns alone read them.

    The last `channels` rows of `producer`, and of its `bias`, are the channels: values of a norm (`centered`: distances
    from 1), or rows of a matrix. `channel_of` is the channel that each column of the consumers reads, int64 (cols,).
    """

    producer: Rows
    consumers: tuple[Rows, ...]
    channel_of: NDArray[np.int64]
    bias: Rows | None = None
    centered: bool = False

    @property
    def rows(self) -> tuple[Rows, ...]:
        """All that a factor of a channel changes."""
        return (self.producer, *([self.bias] if self.bias else ()), *self.consumers)

    @property
    def channels(self) -> int:
        return int(self.channel_of.max()) + 1


def sites_of(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], model: Model) -> tuple[Site, ...]:
    """All sites of a checkpoint, in the order of its blocks, the head last; () for a family that names none.

    `model` is what the checkpoint becomes in a GGUF file. A site of which the checkpoint lacks a tensor, or has it
    otherwise than as rows of one (turned stacks), is none.
    """
    try:
        linears = outline(tensors, config).tensors
    except (UnsupportedError, InputError):
        return ()
    folds = folds_of(model.family, config)
    finder = _Finder(tensors, {linear.name: _whole(linear) for linear in linears}, model.shape.head_dim)
    found = [site for fold in _placed(linears, folds) if (site := finder.site(fold)) is not None]
    head = _head(model, finder) if folds else None
    return (*found, *([head] if head else []))


def _placed(linears: tuple[ModelTensor, ...], folds: tuple[Fold, ...]) -> Iterator[Fold]:
    """Folds in every block, under the names of the checkpoint, one for each expert."""
    blocks: dict[str, list[str]] = {}
    for linear in linears:
        number, inside = block_of(linear.name)
        if number is not None:
            blocks.setdefault(linear.name.removesuffix(inside), []).append(linear.name)
    for prefix, names in blocks.items():
        experts = 1 + max((number for name in names if (number := expert_of(name)) is not None), default=-1)
        for fold in folds:
            for one in [fold.of_expert(number) for number in range(experts)] if fold.expert else [fold]:
                yield one.placed(prefix, experts)


@record
class _Finder:
    """The tensors of a checkpoint, the rows of its linears by their names (None for one that does not lie row by row),
    and the size of an attention head."""

    tensors: Mapping[str, TensorInfo]
    linears: Mapping[str, Rows | None]
    head: int

    def site(self, fold: Fold) -> Site | None:
        """The site of a fold whose names are those of modules of the checkpoint."""
        producer, consumers = self.rows(fold.producer), [self.rows(name) for name in fold.consumers]
        if producer is None or not consumers or any(rows is None for rows in consumers):
            return None
        found = tuple(rows for rows in consumers if rows is not None)
        channel_of = self._channels(fold, producer, {self.tensors[rows.tensor].cols for rows in found})
        norm = len(self.tensors[producer.tensor].shape) == 1
        if channel_of is None or norm != fold.norm:
            return None
        bias = self.tensors.get(f"{fold.producer}{BIAS}")
        rows = None if bias is None else Rows(bias.name, 0, bias.rows)
        return Site(producer, found, channel_of, rows, fold.centered)

    def rows(self, module: str) -> Rows | None:
        """The rows of a module's weight, None where it has none that lies there row by row."""
        if module in self.linears:
            return self.linears[module]
        info = self.tensors.get(f"{module}{WEIGHT}")
        return None if info is None or len(info.shape) > 2 else Rows(info.name, 0, info.rows)

    def _channels(self, fold: Fold, producer: Rows, widths: set[int]) -> NDArray[np.int64] | None:
        """The channel that each column reads, None where rows and columns do not go together."""
        cols, rows = max(widths), producer.rows
        if len(widths) > 1:
            return None
        column = _numbers(cols)
        if not fold.heads:
            return column if cols == rows or (cols < rows and not fold.norm) else None
        values = rows if rows <= cols else (rows - cols) // 2  # a fused projection makes queries, keys and values
        if self.head <= 0 or values <= 0 or cols % self.head or values % self.head or cols % values:
            return None
        return column // self.head // (cols // values) * self.head + column % self.head


@cache
def _numbers(count: int) -> NDArray[np.int64]:
    """0, 1, 2, ..: one array for the experts of all blocks."""
    numbers = np.arange(count)
    numbers.flags.writeable = False
    return numbers


def _head(model: Model, finder: _Finder) -> Site | None:
    """The head behind the last norm, where both are tensors that nothing else is made of and no further token is
    predicted from what that norm gives."""
    made = {tensor.name: tensor for tensor in model.tensors}
    head, norm = (_whole(made[name]) if name in made else None for name in (OUTPUT, OUTPUT_NORM))
    if head is None or norm is None or any(FURTHER in name for name in made):
        return None
    uses = [rows.tensor for tensor in model.tensors for part in tensor.parts for rows in part.sources]
    if uses.count(head.tensor) > 1 or uses.count(norm.tensor) > 1:
        return None
    centered = made[OUTPUT_NORM].add == 1.0
    names = norm.tensor.removesuffix(WEIGHT), (head.tensor.removesuffix(WEIGHT),)
    fold = Fold(*names, norm=True, centered=centered)
    return finder.site(fold)


def _whole(tensor: ModelTensor) -> Rows | None:
    """The source rows that a tensor is, None for one that lies there otherwise."""
    return tensor.parts[0].source if len(tensor.parts) == 1 else None
