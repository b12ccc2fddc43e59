"""Rows rounded a few at a time, each at weights that make up for the errors of the rows before it.

What a linear gives is seldom read row by row: queries are read through keys, and an error of all rows of a head that no
key has a part in does nothing. With G = sum of g g^T, g the gradients at what the linear gives, errors E cost

    trace(G E H E^T)

as far as gradients and inputs have nothing to do with each other, and feedback over rows is what feedback over columns
is (columns/factor.py): with G = R R^T, M = R scaled by its diagonal, the rows of a step b are rounded at w - e*,

    e* = - M[b, b]^-T  M[< b, b]^T  E[< b],

the errors that would cost least beside those of the rows before. Inside a step rows are rounded as if the others were
not there. Rows with large gradients come first: their errors can be made up for by all others.

Rows whose G is as good as a multiple of the identity are rounded by themselves: what is left of it is noise. (Values in
attention: their errors are read as they are, and with noise in the place of structure they come out worse.)
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
RUN = 32  # rows that are looked at together: of a head's queries or keys G has few directions, of values all alike
EVEN = 0.6  # of the effective rank that the identity has: at most 0.4 of queries and keys, at least 0.94 of values


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

    def spread(self) -> tuple[Tensor, ...]:
        """T of each block, float32 (n, n), rows in the order of the weight."""
        found = []
        for block in self.blocks:
            back = torch.from_numpy(np.argsort(self.order[block.rows]))
            found.append(block.spread()[back[:, None], back])
        return tuple(found)


def row_order(outputs: Sequence[Tensor], run: Run, name: str) -> RowOrder | None:
    """How rows with these blocks of G follow each other; None where they say nothing. Raises what `factor` raises."""
    even = [_even(gram) for gram in outputs]
    if all(bool(one.all()) for one in even):
        return None
    orders, blocks, start = [], [], 0
    for gram, alone in zip(outputs, even, strict=True):
        known = _without(gram, alone)
        order = np.argsort(-known.diagonal().cpu().numpy(), kind="stable")
        found = factor(known, order, DAMPING, run, name)
        own = known[torch.from_numpy(order)[:, None], torch.from_numpy(order)].cpu() / found.scale
        own.diagonal().add_(found.damping)
        blocks.append(Block(start, found, own))
        orders.append(order + start)
        start += len(gram)
    return RowOrder(np.concatenate(orders), tuple(blocks))


def _even(gram: Tensor) -> Tensor:
    """The rows of G that lie in runs without structure, a mask (n,): the effective rank of a corner, (trace G)^2 /
    trace(G G), is at least EVEN of its rows, or it is no number, as of zeros."""
    found = torch.ones(len(gram), dtype=torch.bool)
    for start, stop in pieces(0, len(gram), RUN):
        corner = gram[start:stop, start:stop].to("cpu", torch.float64)
        corner = corner / corner.diagonal().mean()
        rank = (stop - start) ** 2 / float(corner.square().sum())
        found[start:stop] = not rank < EVEN * (stop - start)
    return found


def _without(gram: Tensor, alone: Tensor) -> Tensor:
    """G with nothing between the rows that are `alone` and others; those that nothing reads count like one that is."""
    if not bool(alone.any()):
        return gram
    own = alone.to(gram.device)
    diagonal = torch.where(
        gram.diagonal() > 0, gram.diagonal(), gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    )
    kept = torch.where(own[:, None] | own, torch.zeros_like(gram), gram)
    kept.diagonal().copy_(torch.where(own, diagonal, gram.diagonal()))
    return kept


def _solved(corner: Tensor, right: Tensor) -> Tensor:
    """M^-T right, for M of a step, unit upper triangular."""
    found: Tensor = torch.linalg.solve_triangular(corner.T, right, upper=False, left=True, unitriangular=True)
    return found
