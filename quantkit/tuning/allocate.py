"""One type for each tensor, so that the sum of their losses is least and the sum of their bytes is within a budget.

A multiple-choice knapsack. The Lagrangian (a price for a byte, each tensor for itself) solves it but for the last
bytes, gives the first solution and bounds what any other can reach; from there on partial solutions are extended
tensor by tensor, and those that are dominated or cannot beat the best one any more are dropped. That is exact as long
as not too many are left, which the bound sees to; where there are, the most promising are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quantkit.records import record

MOST_STATES = 1 << 15
ROUNDED = 1 + 1e-12  # sums of losses depend on their order in the last bits
F64 = NDArray[np.float64]


@record
class Option:
    """A type for a tensor: the bytes that it takes and what it costs."""

    type: str
    nbytes: int
    loss: float


Fronts = Mapping[str, Sequence[Option]]
Chosen = dict[str, Option]


def least_bytes(fronts: Fronts) -> int:
    """The bytes of the smallest choice."""
    return sum(min(option.nbytes for option in options) for options in fronts.values())


def total_bytes(chosen: Mapping[str, Option]) -> int:
    return sum(option.nbytes for option in chosen.values())


def total_loss(chosen: Mapping[str, Option]) -> float:
    return float(sum(option.loss for option in chosen.values()))


def allocate(fronts: Fronts, budget: int) -> Chosen | None:
    """The options with the least loss that take at most `budget` bytes together; None where none are so small."""
    return _solved(fronts, [(o.nbytes, o.loss) for options in fronts.values() for o in options], float(budget))


def cheapest(fronts: Fronts, most_loss: float) -> Chosen | None:
    """The options with the least bytes that lose at most so much together; None where all lose more."""
    return _solved(fronts, [(o.loss, o.nbytes) for options in fronts.values() for o in options], most_loss * ROUNDED)


def _solved(fronts: Fronts, pairs: Sequence[tuple[float, float]], limit: float) -> Chosen | None:
    """Minimise the second numbers of the pairs, one for each option, with the first ones within the limit."""
    items, start = [], 0
    for options in fronts.values():
        items.append(_Item.of(np.array(pairs[start : start + len(options)], np.float64)))
        start += len(options)
    numbers = _Search(items, limit).run()
    if numbers is None:
        return None
    return {name: fronts[name][k] for name, k in zip(fronts, numbers, strict=True)}


@record
class _Item:
    """A tensor's undominated options by rising weight: weights, values, and the numbers that the caller knows."""

    weights: F64
    values: F64
    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, pairs: F64) -> _Item:
        kept: list[int] = []
        for k in np.lexsort((pairs[:, 1], pairs[:, 0])):
            if not kept or pairs[k, 1] < pairs[kept[-1], 1]:
                kept.append(int(k))
        numbers = np.array(kept, np.int64)
        return cls(pairs[numbers, 0], pairs[numbers, 1], numbers)

    def hull(self) -> list[int]:
        """The options that are best at some price: the lower convex hull."""
        hull: list[int] = []
        for k in range(len(self.weights)):
            while len(hull) > 1 and self._slope(hull[-2], hull[-1]) <= self._slope(hull[-2], k):
                hull.pop()
            hull.append(k)
        return hull

    def _slope(self, a: int, b: int) -> float:
        """The value that each unit of weight saves from a to b."""
        return float((self.values[a] - self.values[b]) / (self.weights[b] - self.weights[a]))

    def at(self, price: float) -> float:
        return float((self.values + price * self.weights).min())


class _Search:
    """The search over all items with one limit."""

    def __init__(self, items: Sequence[_Item], limit: float) -> None:
        self._items, self._limit = items, limit
        self._price = 0.0

    def run(self) -> list[int] | None:
        first = self._greedy()
        if first is None:
            return None
        picks = self._refined(self._value(first)) or first
        return [int(item.numbers[k]) for item, k in zip(self._items, picks, strict=True)]

    def _value(self, picks: Sequence[int]) -> float:
        return float(sum(item.values[k] for item, k in zip(self._items, picks, strict=True)))

    def _greedy(self) -> list[int] | None:
        """Steps along the hulls that fit, those first that save most; sets the price of the first that does not."""
        picks = [0] * len(self._items)
        weight = float(sum(item.weights[0] for item in self._items))
        if weight > self._limit:
            return None
        steps = []
        for number, item in enumerate(self._items):
            hull = item.hull()
            steps += [(-item._slope(a, b), number, b) for a, b in pairwise(hull)]
        closed: set[int] = set()
        for slope, number, k in sorted(steps):
            item = self._items[number]
            more = float(item.weights[k] - item.weights[picks[number]])
            if number in closed:
                continue
            if weight + more > self._limit:
                closed.add(number)
                self._price = self._price or -slope
                continue
            picks[number], weight = k, weight + more
        return picks

    def _refined(self, best: float) -> list[int] | None:
        """A better choice than one of this value; None where there is none."""
        order = sorted(range(len(self._items)), key=lambda n: -float(np.ptp(self._items[n].weights)))
        items = [self._items[n] for n in order]
        lightest = np.array([item.weights[0] for item in items])
        bounds = np.array([item.at(self._price) for item in items])
        weights, values = np.zeros(1), np.zeros(1)
        trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for depth, item in enumerate(items):
            rest, bound = float(lightest[depth + 1 :].sum()), float(bounds[depth + 1 :].sum())
            w = (weights[:, None] + item.weights).ravel()
            v = (values[:, None] + item.values).ravel()
            lower = v + bound - self._price * (self._limit - w)
            kept = np.flatnonzero((w + rest <= self._limit) & (np.maximum(lower, v) < best))
            if not kept.size:
                return None
            if kept.size > MOST_STATES:
                kept = kept[np.argsort(lower[kept], kind="stable")[:MOST_STATES]]
            kept = kept[np.lexsort((v[kept], w[kept]))]
            falling = np.minimum.accumulate(v[kept])
            kept = kept[np.concatenate([[True], falling[1:] < falling[:-1]])]
            weights, values = w[kept], v[kept]
            trail.append((kept // len(item.weights), kept % len(item.weights)))
        state, picks = int(values.argmin()), [0] * len(items)
        for depth in reversed(range(len(items))):
            parents, chosen = trail[depth]
            picks[order[depth]], state = int(chosen[state]), int(parents[state])
        return picks
