"""Scales moved inside a block before it is rounded: where its family allows it, and by how much.

All scales of a block are found from one run through it, and moved before anything is rounded: what they change on one
side of a site may be what the next site rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import cast

import numpy as np
import torch

from quantkit.calibration.statistics.sums import Statistics
from quantkit.calibration.walk.block import Block
from quantkit.families.folds import Fold
from quantkit.families.names import expert_of
from quantkit.methods.settings import Run
from quantkit.methods.transforms.base import Folded, Transform
from quantkit.methods.transforms.folding import SiteWeights, as_stored, fold
from quantkit.qtypes.schemes.base import ScaleDtype, Scheme
from quantkit.records import record
from quantkit.tensors import F32

WEIGHT, BIAS = ".weight", ".bias"


@record
class Moves:
    """Which scales a transform moves, in which folds of the family, and how much of them: the recipe's `alpha`."""

    transform: Transform
    folds: Sequence[Fold] = ()
    alpha: float = 0.5


@record
class _Place:
    """A site of this block, by the names of parameters. `kept` are those that are stored without being rounded."""

    site: Fold
    producer: str
    consumers: tuple[str, ...]
    bias: str | None
    kept: frozenset[str] = field(default_factory=frozenset)


def transform_block(block: Block, schemes: Mapping[str, Scheme], run: Run, moves: Moves) -> dict[str, F32]:
    """Move scales at all sites of a block whose consumers are to be rounded, and leave the new weights in the block.

    `schemes` are by the name of the linear. Returns the changed parameters that are not rounded, in values that their
    stored type holds. Where a matrix is stored without being rounded (a router), and where a norm has a bias beside its
    weights, scales are powers of two, so that storing both costs nothing; a producer of that kind with a norm before it
    needs none of this. Raises
    VerificationError if a fold changes what the block computes.
    """
    transform = moves.transform
    places = [p for p in _places(block, schemes, moves.folds) if p.site.norm or not transform.norms]
    if not places:
        return {}
    consumers = [name for place in places for name in place.consumers if name in block.linears]
    statistics = block.statistics(consumers, hessian=transform.needs_hessian)
    changed: dict[str, F32] = {}
    for place in places:
        before = _weights(block, place)
        after = _folded(block, place, before, _scales(before, schemes, run, moves, statistics))
        new = {place.producer: after.producer, **after.consumers}
        if place.bias and after.bias is not None:
            new[place.bias] = after.bias
        for name in place.kept & set(new):
            new[name] = as_stored(new[name], _dtype(block, name))
            changed[name] = new[name]
        block.replace({name: torch.from_numpy(value) for name, value in new.items()})
        block.moved(place.consumers, _ratio(before, after))
    return changed


def _ratio(before: SiteWeights, after: SiteWeights) -> F32:
    """By what the columns of a site's consumers were multiplied, float32 (cols,)."""
    name, old = next(iter(before.consumers.items()))
    row, column = np.abs(old).argmax(axis=0), np.arange(before.cols)
    where = old[row, column]
    ratio: F32 = np.divide(after.consumers[name][row, column], where, out=np.ones_like(where), where=where != 0)
    return ratio


def _places(block: Block, schemes: Mapping[str, Scheme], sites: Sequence[Fold]) -> Iterator[_Place]:
    """The sites that this block has, one for each expert where a site is an expert's."""
    experts = 1 + max((number for name in block.linears if (number := expert_of(name)) is not None), default=-1)
    for site in sites:
        for one in [site.of_expert(number) for number in range(experts)] if site.expert else [site]:
            place = _place(block, one, experts)
            rounded = [name for name in place.consumers if name in schemes]
            if rounded and {place.producer, *place.consumers} <= block.parameters:
                vectors = {name for name in (place.bias, place.producer if one.norm else None) if name}
                kept = {n for n in (place.producer, *place.consumers) if n not in schemes} | vectors
                if not all(map(block.is_whole, kept)):
                    continue  # rows of a tensor that is copied with all others in it
                yield _Place(one, place.producer, place.consumers, place.bias, frozenset(kept))


def _place(block: Block, site: Fold, experts: int) -> _Place:
    placed = site.placed(f"{block.name}.", experts)
    bias = f"{placed.producer}{BIAS}"
    return _Place(
        site,
        f"{placed.producer}{WEIGHT}",
        tuple(f"{consumer}{WEIGHT}" for consumer in placed.consumers),
        bias if bias in block.parameters else None,
    )


def _weights(block: Block, place: _Place) -> SiteWeights:
    def values(name: str) -> F32:
        array: F32 = block.weight(name).cpu().numpy()
        return array

    return SiteWeights(
        place.site,
        values(place.producer),
        {name: values(name) for name in place.consumers},
        values(place.bias) if place.bias else None,
        block.head_size,
    )


def _scales(weights: SiteWeights, schemes: Mapping[str, Scheme], run: Run, moves: Moves, statistics: Statistics) -> F32:
    """The scales of a site; ones where no token reached it."""
    sums = statistics.total(next(name for name in weights.consumers if name in statistics.linears))
    if not sums.tokens:
        return np.ones(weights.channels, np.float32)
    targets = {name: schemes[name].target(weights.cols) for name in weights.consumers if name in schemes}
    hessian = sums.gram.full() if moves.transform.needs_hessian and sums.gram is not None else None
    read = Folded(weights, sums.mean_magnitude().numpy(), sums.peaks.numpy(), hessian, targets, moves.alpha)
    return moves.transform.scales(read, run)


def _folded(block: Block, place: _Place, weights: SiteWeights, scale: F32) -> SiteWeights:
    matrices = {place.producer, *place.consumers} & place.kept - ({place.producer} if place.site.norm else set())
    if matrices or (place.site.norm and place.bias):
        scale = np.exp2(np.rint(np.log2(scale))).astype(np.float32)
    vector = place.producer if place.site.norm else place.bias
    return fold(weights, scale, _dtype(block, vector) if vector else "F32")


def _dtype(block: Block, name: str) -> ScaleDtype:
    stored = block.stored_dtype(name)
    return cast("ScaleDtype", stored) if stored in ("F16", "BF16") else "F32"
