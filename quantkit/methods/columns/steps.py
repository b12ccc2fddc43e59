"""Rows rounded a few at a time, each at weights that make up for the errors of the rows before it.

What a linear gives is seldom read row by row: queries are read through keys, and an error of all rows of a head that no
key has a part in does nothing. With G = sum of g g^T, g the gradients at what the linear gives, errors E cost

    trace(G E H E^T)

as far as gradients and inputs have nothing to do with each other, and feedback over rows is what feedback over columns
is (columns/factor.py): with G = R R^T, M = R scaled by its diagonal, the rows of a step b are rounded at w - e*,

    e* = - M[b, b]^-T  M[< b, b]^T  E[< b],

the errors that would cost least beside those of the rows before. Inside a step rows are rounded as if the others were
not there. Rows with large gradients come first: their errors can be made up for by all others.

Where G is as good as a multiple of the identity it says nothing but noise, and is not used. (Values in attention: their
errors are read as they are. With noise in the place of structure, they come out worse.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from quantkit.methods.base import Factor, Indices
from quantkit.methods.columns.factor import factor
from quantkit.methods.columns.pieces import pieces
from quantkit.methods.settings import Run
from quantkit.records import record
from quantkit.tensors import F32

STEP = 32  # rows of a block, at most, that are rounded without regard to each other: half as many gain 2 %
STEPS, FEWEST = 6, 8  # into how many a small block is cut, as long as one has so many rows
TASK = 16  # of these, the unit of work of a thread
DAMPING = 0.03  # of the mean diagonal of G: a third and three times of it change little
EVEN = 0.5  # of the effective rank that the identity has: beyond, G has no structure


@record
class Block:
    """Rows that are fed back among each other: `start` is the first of them in the order, `factor` that of their G, and
    `gram` the factored matrix, float32 (n, n), in the order."""

    start: int
    factor: Factor
    gram: Tensor

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.gram))

    def steps(self) -> list[slice]:
        """Rows of the block, counted from its first, that are rounded at once."""
        rows = min(STEP, max(FEWEST, len(self.gram) // (STEPS * FEWEST) * FEWEST))
        return [slice(*piece) for piece in pieces(0, len(self.gram), rows)]

    def made_up(self, errors: F32, step: slice) -> F32:
        """What is added to the weights of a step, (its rows, cols), for the errors (n, cols) of those before it."""
        mixing = self.factor.mixing[: step.stop, step]
        before = torch.from_numpy(errors[: step.start])
        found: F32 = _solved(mixing[step], mixing[: step.start].T @ before).numpy()
        return found

    def spread(self) -> Tensor:
        """T (n, n), float32: with errors N that steps make by themselves, those that are left are E = T N."""
        found = torch.eye(len(self.gram))
        for step in self.steps():
            mixing = self.factor.mixing[: step.stop, step]
            found[step] -= _solved(mixing[step], mixing[: step.start].T @ found[: step.start])
        return found

    def cost(self, mixed: Tensor) -> float:
        """trace(G E H E^T) of errors, given E times a root of H, (n, cols)."""
        return float(((self.gram @ mixed) * mixed).sum(dtype=torch.float64))


@record
class RowOrder:
    """`order` is int64 (rows,): the k-th row to be rounded is row order[k] of the weight."""

    order: Indices
    blocks: tuple[Block, ...]

    def turns(self) -> Iterator[list[tuple[Block, slice]]]:
        """The steps of all blocks that are taken at once."""
        each = [block.steps() for block in self.blocks]
        for number in range(max(map(len, each))):
            yield [
                (block, steps[number]) for block, steps in zip(self.blocks, each, strict=True) if number < len(steps)
            ]

    def spread(self) -> Tensor:
        """T of all blocks, float32 (rows, rows), in the order of the weight."""
        whole = torch.zeros(len(self.order), len(self.order))
        for block in self.blocks:
            own = torch.from_numpy(self.order[block.rows])
            whole[own[:, None], own] = block.spread()
        return whole


def row_order(outputs: Sequence[Tensor], run: Run, name: str) -> RowOrder | None:
    """How rows with these blocks of G follow each other; None where they say nothing. Raises what `factor` raises."""
    if not structured(outputs):
        return None
    orders, blocks, start = [], [], 0
    for gram in outputs:
        diagonal = gram.diagonal().cpu().numpy()
        if not diagonal.any():  # nothing reads these rows: they are rounded by themselves
            gram = torch.eye(len(gram))
        order = np.argsort(-diagonal, kind="stable")
        found = factor(gram, order, DAMPING, run, f"what {name} gives")
        own = gram[torch.from_numpy(order)[:, None], torch.from_numpy(order)].cpu() / found.scale
        own.diagonal().add_(found.damping)
        blocks.append(Block(start, found, own))
        orders.append(order + start)
        start += len(gram)
    return RowOrder(np.concatenate(orders), tuple(blocks))


def structured(outputs: Sequence[Tensor]) -> bool:
    """Whether G has a direction that counts more than others: its effective rank, (trace G)^2 / trace(G G), is less
    than EVEN of its rows."""
    rows = sum(map(len, outputs))
    trace = sum(float(one.diagonal().sum(dtype=torch.float64)) for one in outputs)
    squares = sum(float(one.square().sum(dtype=torch.float64)) for one in outputs)
    return 0 < trace * trace < EVEN * rows * squares


def _solved(corner: Tensor, right: Tensor) -> Tensor:
    """M^-T right, for M of a step, unit upper triangular."""
    found: Tensor = torch.linalg.solve_triangular(corner.T, right, upper=False, left=True, unitriangular=True)
    return found
