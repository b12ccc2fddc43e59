"""Rows of a weight that stand for all of it: which ones, how each type rounds them, what their errors cost.

An error E of a weight costs, to second order and on average over tokens,

    KL = 1/2 mean over tokens of (sum over tokens that it reaches of g^T E x)^2 / tokens

with x what the linear reads and g the gradient of the log-likelihood at what it gives, labels drawn from the model.
Rounding errors of different rows are as good as independent, so the square of the sum over rows becomes a sum of
squares, and some rows tell of all others: each counts by what its errors are expected to cost, the mean square of its
gradient times the squared norm of its weights.

Where rows are fed back as well (methods/columns/steps.py), it is the errors N that each makes by itself that are
independent, and E = T N: then g^T E x = (T^T g)^T N x, and gradients T^T g take the place of g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantkit.calibration.statistics.sums import OutputGram
from quantkit.filling.layers import settings_of
from quantkit.filling.shares import Share
from quantkit.formats.gguf.layout import TypeLayout
from quantkit.methods import base
from quantkit.methods.base import Layer
from quantkit.methods.columns.steps import row_order
from quantkit.methods.settings import Run, in_turn, single_threaded
from quantkit.recipes.recipe import MethodChoice
from quantkit.records import record
from quantkit.tensors import F32

Rows = NDArray[np.int64]
F64 = NDArray[np.float64]

ROWS = 64  # of a weight of a block
EXPERTS, EXPERT_ROWS = 8, 16  # of a stack of experts: so many of them, and so many rows of each
TABLE_ROWS = 256  # of a matrix over the vocabulary
TAIL = 0.25  # of the chances of rows of the vocabulary goes to all alike: those that a text has not, too
SEED = 0x5EED


@record
class Known:
    """What is known of what a weight reads: a Hessian, float32 (cols, cols), and mean squares, float32 (cols,); and of
    what it gives."""

    hessian: Tensor | None
    importance: F32 | None
    outputs: OutputGram | None = None


@record
class Rounder:
    """How a recipe chooses values: its method where that has inputs, else the encoders of the types."""

    method: MethodChoice | None

    def feeds(self, layer: Layer, name: str) -> bool:
        """Whether the method chooses this type's codes for the layer."""
        target = TypeLayout(name).scheme.target(layer.weight.shape[1])
        return self.method is not None and layer.hessian is not None and target.feeds

    def spread(self, outputs: Sequence[Tensor], run: Run, name: str) -> tuple[Tensor, ...]:
        """What becomes of errors that rows make by themselves where they are fed back: blocks on the diagonal of T."""
        if self.method is None or not outputs or not base.get(self.method.name).feeds_rows:
            return ()
        with single_threaded():
            order = row_order(outputs, run, name)
            return () if order is None else order.spread()

    def errors(self, layer: Layer, types: Sequence[str], run: Run, damping: float | None = None) -> F32:
        """What rounding the layer's weight (rows, cols) to each type adds to it, (types, rows, cols)."""
        cols = layer.weight.shape[1]
        found = np.empty((len(types), *layer.weight.shape), np.float32)
        fed: list[tuple[tuple[int, int], int, str]] = []
        plain: list[tuple[tuple[int, int], int, str]] = []
        for number, name in enumerate(types):
            target = TypeLayout(name).scheme.target(cols)
            (fed if self.feeds(layer, name) else plain).append((target.runs, number, name))

        def encoded(one: tuple[tuple[int, int], int, str]) -> None:
            scheme = TypeLayout(one[2]).scheme
            weighed = layer.importance if scheme.traits.weighed else None
            found[one[1]] = scheme.encode(layer.weight, weighed).values() - layer.weight

        run(encoded, plain)
        for runs in sorted({runs for runs, _, _ in fed}):
            self._fed(layer, [one[1:] for one in fed if one[0] == runs], run, (found, damping))
        return found

    def _fed(self, layer: Layer, types: Sequence[tuple[int, str]], run: Run, into: tuple[F32, float | None]) -> None:
        """Round with feedback to types whose runs are the same: they share a factor."""
        assert self.method is not None
        found, damping = into
        method, settings = base.get(self.method.name), settings_of(self.method)
        settings = settings if damping is None else replace(settings, damping=damping)
        cols = layer.weight.shape[1]
        if method.prepare:
            target = TypeLayout(types[0][1]).scheme.target(cols)
            layer = replace(layer, prepared=method.prepare(layer, target, settings, run))

        def rounded(one: tuple[int, str]) -> None:
            scheme = TypeLayout(one[1]).scheme
            own = layer if scheme.traits.weighed else replace(layer, importance=None)
            found[one[0]] = method.quantize(own, scheme.target(cols), settings, in_turn).values() - layer.weight

        run(rounded, types)


def sampled(rows: int, count: int) -> Rows:
    """Some rows of all, ascending, the same every time, in no step that a layout of heads could share."""
    return np.sort(np.random.default_rng(SEED).permutation(rows)[:count])


@record
class Probe:
    """Rows `rows` of a share of a linear and their errors by type, (types, rows, cols) in scratch space.

    `norms` are the squared norms of all rows of the share. The unit's cost is `weight` times that of this share.
    `spread` are blocks on the diagonal of T, float32 in scratch space, where rows are fed back for the types that are
    `fed`, a mask (types,); none where they are for none.
    """

    unit: str
    share: Share
    rows: Rows
    errors: Tensor
    norms: F64
    weight: float
    spread: tuple[Tensor, ...] = ()
    fed: NDArray[np.bool_] | None = None

    @property
    def width(self) -> int:
        """Of what `squares` gives."""
        return 3 * len(self.errors)

    def squares(self, inputs: Tensor, gradients: Tensor, parts: int) -> F64:
        """Of each part of the tokens, (parts, width): the sum over rows of (sum over tokens of g e x)^2 by type; behind
        these, by type, what errors are expected to cost, those of the rows at hand and those of all rows of the share.

        Inputs are (tokens, cols), gradients (tokens, rows of the linear); parts are sequences of the same length.
        """
        own = gradients[:, self.share.start : self.share.stop]
        found = self._squares(inputs, own, parts)
        if self.spread and self.fed is not None:
            pieces = torch.split(own, [len(one) for one in self.spread], 1)
            turns = [piece @ one.to(own.device) for piece, one in zip(pieces, self.spread, strict=True)]
            turned = self._squares(inputs, torch.cat(turns, 1), parts)
            found = np.where(np.tile(self.fed, 3), turned, found)
        return found

    def _squares(self, inputs: Tensor, own: Tensor, parts: int) -> F64:
        mine = own[:, torch.from_numpy(self.rows).to(own.device)]
        products = torch.bmm(mine.reshape(parts, -1, len(self.rows)).mT, inputs.reshape(parts, -1, inputs.shape[1]))
        sums = torch.einsum("prc,trc->ptr", products, self.errors.to(products.device))
        squares = sums.to(torch.float64).square().sum(2).cpu().numpy()
        by_row = own.to(torch.float64).square().reshape(parts, -1, own.shape[1]).sum(1).cpu().numpy()
        expected, types = by_row * self.norms, len(self.errors)
        both = np.stack([expected[:, self.rows].sum(1), expected.sum(1)], axis=1)
        found: F64 = np.concatenate([squares, np.repeat(both, types, axis=1)], axis=1)
        return found

    def cost(self, found: F64, tokens: int) -> F64:
        """What each type costs, in nats for each of so many tokens, from `squares` of their parts."""
        squares, mine, everything = found.sum(0).reshape(3, -1)
        by_count = np.full(len(mine), len(self.norms) / len(self.rows))
        all_rows = np.divide(everything, mine, out=by_count, where=mine > 0)
        cost: F64 = self.weight * all_rows * squares / (2 * tokens)
        return cost


@record
class TableRows:
    """Rows of a matrix over the vocabulary, ascending, and the probability with which each was chosen."""

    rows: Rows
    chances: F64


def mixed(shares: F64) -> F64:
    """Shares of rows, which need not sum to one, with a little for all alike."""
    total = float(shares.sum())
    found: F64 = (1 - TAIL) * shares / (total or 1.0) + TAIL / len(shares)
    return found


def likely_rows(counts: F64, count: int) -> TableRows:
    """Rows chosen with chances in proportion to their counts, those for certain whose share is large."""
    chances = np.zeros(len(counts))
    certain = np.zeros(len(counts), bool)
    while True:
        left = count - int(certain.sum())
        rest = float(counts[~certain].sum())
        chances[~certain] = left * counts[~certain] / rest if rest > 0 else 0.0
        more = ~certain & (chances >= 1)
        if not more.any():
            break
        certain |= more
        chances[certain] = 1.0
    ends = np.cumsum(np.where(certain, 0.0, chances))
    drawn = np.floor(ends + 0.5) > np.floor(np.concatenate([[0.0], ends[:-1]]) + 0.5)
    rows = np.flatnonzero(certain | (drawn & ~certain))
    return TableRows(rows, chances[rows])


def looked_at(tokens: NDArray[np.int32], gradients: Tensor) -> tuple[Rows, F64]:
    """The rows of an embedding that tokens (samples, seqlen) look up, ascending, and for each the sum over samples of
    the squared norm of the gradients (samples, seqlen, hidden) of its tokens together: what its errors are weighed by.
    """
    rows, places = np.unique(tokens, return_inverse=True)
    found = np.zeros(len(rows))
    for own, gradient in zip(places.reshape(tokens.shape), gradients, strict=True):
        there, numbers = np.unique(own, return_inverse=True)
        sums = gradient.new_zeros((len(there), gradient.shape[1])).index_add_(0, torch.from_numpy(numbers), gradient)
        found[there] += sums.to(torch.float64).square().sum(1).numpy()
    return rows.astype(np.int64), found


def looked_up(errors: F32, table: TableRows, tokens: NDArray[np.int32], gradients: Tensor) -> F64:
    """The sum over rows of (sum over a row's tokens of g e)^2 by sample and type, (samples, types), for an embedding.

    `tokens` are (samples, seqlen), gradients (samples * seqlen, hidden) at what they were looked up for.
    """
    found = np.zeros((len(tokens), len(errors)))
    flat = gradients.numpy().reshape(*tokens.shape, -1)
    place = {int(row): k for k, row in enumerate(table.rows)}
    for sample, ids, own in zip(found, tokens, flat, strict=True):
        sums: dict[int, F64] = {}
        for token, gradient in zip(ids, own, strict=True):
            k = place.get(int(token))
            if k is not None:
                sums[k] = sums.get(k, np.zeros(own.shape[1])) + gradient
        for k, total in sums.items():
            sample += np.square(errors[:, k] @ total) / table.chances[k]
    return found


def predicted(errors: Tensor, inputs: Tensor, variances: Tensor) -> F64:
    """The sum over tokens and rows of p (1 - p) (e x)^2 by type, (types, rows), for a head.

    `inputs` are (tokens, cols), `variances` p (1 - p) of the rows, (tokens, rows).
    """
    each = [((inputs @ one.T).square_() * variances).sum(0, dtype=torch.float64) for one in errors]
    found: F64 = torch.stack(each).cpu().numpy()
    return found
