"""A checkpoint whose columns are of one length where they were far apart: the same function in numbers that round well.

Blocks of quantization types share a scale among 32 columns or more. Where these differ in length by more than a grid
has steps, the short ones become zeros, however large the inputs are that they read. So columns are divided by their
lengths, which the norm or the rows before them are multiplied by. Lengths are those of some rows of all matrices of a
site, each row counted alike; the lengths of rows and columns depend on each other, so that they are found in turns
(Sinkhorn and Knopp). They are then the same for all checkpoints of one function whose channels were scaled.

Factors are eighths of an octave: the same whatever the last bits of sums are, and of a factor 1 nothing is left.
Everything above sees the evened weights alone, in float32, a slab of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from quantkit.families.model import Model, Rows
from quantkit.families.sites import Site, sites_of
from quantkit.machine import core_count, worker_pool
from quantkit.records import record
from quantkit.source.base import Checkpoint, Over, as_float32
from quantkit.tensors import F32, U8, TensorInfo, TensorRef

FAR = 0.6  # standard deviation of the logarithms of lengths: trained matrices have 0.04 to 0.3, single ones 0.56
ROWS = 512  # read of the matrices of a site together where columns may be far apart
GLANCE = 64  # before that: with these, lengths are a tenth off
WEIGHTS = 1 << 22  # of these rows, at most
TURNS = 8  # after four the lengths change by less than a step
STEPS = 8  # of factors in an octave
MOST = 20.0  # octaves

F64 = NDArray[np.float64]


@record
class Factors:
    """What rows [start, stop) of a tensor are multiplied by: each row by its own factor, each column by its own;
    float64, None for 1. Values of a `centered` norm are distances from 1."""

    start: int
    stop: int
    rows: F64 | None = None
    columns: F64 | None = None
    centered: bool = False

    def apply(self, values: F64, first: int) -> None:
        """Change what lies in these rows of `values` (n, cols), which begin at row `first` of the tensor."""
        start, stop = max(self.start, first), min(self.stop, first + len(values))
        if start >= stop:
            return
        found = values[start - first : stop - first]
        found += float(self.centered)
        if self.rows is not None:
            found *= self.rows[start - self.start : stop - self.start, None]
        if self.columns is not None:
            found *= self.columns
        found -= float(self.centered)


Far = tuple[Site, F64, float]  # a site whose columns are far apart, their lengths, and how far


class Looked:
    """A site, and what was seen of its columns, once somebody has looked. Safe to share between threads."""

    def __init__(self, base: Checkpoint, site: Site) -> None:
        self.site = site
        self._base = base
        self._lock = Lock()
        self._seen = False
        self._far: Far | None = None

    def far(self) -> Far | None:
        """The site with the lengths of its columns and how far they are apart; None where they are not."""
        with self._lock:
            if not self._seen:
                self._far, self._seen = _far(self._base, self.site), True
            return self._far


@record
class EvenedTensor:
    """A tensor of `sites`. What its rows are multiplied by is found when some are first read, by the thread that does
    so. Reading is safe from several threads."""

    base: TensorRef
    sites: tuple[Looked, ...]

    @property
    def info(self) -> TensorInfo:
        return as_float32(self.base.info)

    @cached_property
    def factors(self) -> tuple[Factors, ...]:
        """In the order of the sites that are far apart."""
        far = [found for looked in self.sites if (found := looked.far()) is not None]
        moves = (move for site, lengths, _ in far for move in _moves(site, _steps(lengths)))
        return tuple(each for rows, each in moves if rows.tensor == self.base.info.name)

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop), float32 (stop - start, cols), rounded once."""
        found = self.base.read(start, stop)
        if not self.factors:
            return found
        values = found.astype(np.float64)
        for each in self.factors:
            each.apply(values, start)
        return values.astype(np.float32)

    def read_packed(self, start: int, stop: int) -> U8:
        """The same as bytes of float32."""
        return self.read(start, stop).view(np.uint8).reshape(stop - start, -1)


@record
class EvenedCheckpoint(Over):
    """A checkpoint some of whose columns are evened. See `quantkit.source.Checkpoint`.

    Tensors are described as they are stored; those of `sites` are read as float32. `threads` look at columns, None for
    as many as there are cores; what they find does not depend on it.
    """

    sites: tuple[Looked, ...]
    threads: int | None = None

    @cached_property
    def _by_tensor(self) -> Mapping[str, tuple[Looked, ...]]:
        found: dict[str, tuple[Looked, ...]] = {}
        for looked in self.sites:
            for name in dict.fromkeys(rows.tensor for rows in looked.site.rows):
                found[name] = (*found.get(name, ()), looked)
        return found

    def ref(self, name: str) -> TensorRef:
        found = self.base.ref(name)
        return EvenedTensor(found, self._by_tensor[name]) if name in self._by_tensor else found

    def far(self) -> tuple[Far, ...]:
        """The sites whose columns are far apart. Looks at those of which nobody has read."""
        with worker_pool(self.threads or core_count()) as pool:
            return tuple(found for found in pool.map(Looked.far, self.sites) if found is not None)

    def facts(self) -> dict[str, int]:
        """A manifest's word on it: at how many places columns are evened, and in how many tensors; {} for none."""
        far = self.far()
        names = {rows.tensor for site, _, _ in far for rows in site.rows}
        return {"sites": len(far), "tensors": len(names)} if far else {}


def evened(base: Checkpoint, model: Model, threads: int | None = None) -> Checkpoint:
    """The checkpoint with even columns where they are far apart. Reads nothing now, later some rows of every matrix.

    `model` is what it becomes in a GGUF file; `threads` are those of `EvenedCheckpoint`. Weights with their own codes,
    which may be carried over, are left alone. A checkpoint without a place for factors is returned as it is.
    """
    infos = base.tensors()
    found = sites_of(infos, base.config, model)
    sites = [site for site in found if all(infos[rows.tensor].coded is None for rows in site.rows)]
    return EvenedCheckpoint(base, tuple(Looked(base, site) for site in sites), threads) if sites else base


def _far(base: Checkpoint, site: Site) -> Far | None:
    for rows, least in ((GLANCE, FAR / 2), (ROWS, FAR)):
        lengths = _lengths(_sample(base, site, rows), site.channel_of)
        spread = 0.0 if lengths is None else float(np.log(lengths[lengths > 0]).std())
        if spread <= least:
            return None
    assert lengths is not None
    return site, lengths, spread


def _steps(lengths: F64) -> F64:
    """Lengths (channels,) as factors, 1 where there is none: whole steps, and no more than MOST octaves."""
    octaves = np.log2(lengths, out=np.zeros_like(lengths), where=lengths > 0)
    factors: F64 = np.exp2(np.rint(np.clip(octaves, -MOST, MOST) * STEPS) / STEPS)
    return factors


def _picked(rows: Rows, count: int) -> list[int]:
    """At most `count` of some rows, evenly spread."""
    count = min(count, rows.rows)
    return [rows.start + i * rows.rows // count for i in range(count)]


def _moves(site: Site, factors: F64) -> Iterator[tuple[Rows, Factors]]:
    """What factors (channels,) of a site do to its tensors."""
    for rows in site.consumers:
        yield rows, Factors(rows.start, rows.stop, columns=(1 / factors)[site.channel_of])
    first = site.producer.stop - site.channels
    yield site.producer, Factors(first, site.producer.stop, rows=factors, centered=site.centered)
    if site.bias is not None:
        yield site.bias, Factors(site.bias.stop - site.channels, site.bias.stop, rows=factors)


def _sample(base: Checkpoint, site: Site, rows: int) -> F32:
    """At most `rows` rows of all consumers of a site, evenly spread, float32 (n, cols)."""
    ends = np.cumsum([consumer.rows for consumer in site.consumers])
    count = min(rows, max(WEIGHTS // len(site.channel_of), 1), int(ends[-1]))
    found = []
    for place in np.arange(count) * ends[-1] // count:
        number = int(np.searchsorted(ends, place, side="right"))
        consumer = site.consumers[number]
        row = consumer.stop - int(ends[number] - place)
        found.append(base.ref(consumer.tensor).read(row, row + 1))
    return np.concatenate(found)


def _lengths(sample: F32, channel_of: NDArray[np.int64]) -> F64 | None:
    """Lengths of the columns that read each channel, float64 (channels,), of the geometric mean 1; 0 for a channel that
    nothing reads. None for a sample (n, cols) that says nothing of them; it is squared in place."""
    squares = np.square(sample, out=sample)
    if not np.isfinite(squares).all():
        return None
    share = np.bincount(channel_of)
    lengths = np.ones(len(share))
    for _ in range(TURNS):
        inside = squares / lengths[channel_of].astype(np.float32)
        rows = inside.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        np.divide(inside, rows, out=inside, where=rows > 0)
        mean = np.bincount(channel_of, inside.sum(axis=0, dtype=np.float64)) / share
        read = mean > 0
        if not read.any():
            return None
        lengths *= np.where(read, mean, 1.0) / np.exp(np.log(mean[read]).mean())
    return np.where(read, np.sqrt(lengths), 0.0)


def nearer(source: Checkpoint, made: Checkpoint, model: Model, threads: int | None = None) -> Checkpoint:
    """The source, or the source with even columns, whichever is nearer to a decoded artifact.

    `made` gives the artifact's weights under the names of the source. Looks at columns that are furthest apart.
    """
    found = evened(source, model, threads)
    far = found.far() if isinstance(found, EvenedCheckpoint) else ()
    rows = max(far, key=lambda one: one[2])[0].consumers[0] if far else None
    if rows is None or rows.tensor not in made.tensors():
        return source
    refs = [checkpoint.ref(rows.tensor) for checkpoint in (made, found, source)]
    apart = np.zeros(2)
    for row in _picked(rows, ROWS):
        values, *expected = (ref.read(row, row + 1).astype(np.float64) for ref in refs)
        apart += [np.square(values - one).sum() for one in expected]
    return found if apart[0] < apart[1] else source
