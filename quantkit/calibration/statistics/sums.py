"""What the linears of a model see: sums over tokens of squares, magnitudes and products of their inputs.

Linears that read the same tensor (queries, keys and values; gate and up) share one site and its sums. Floating-point
sums depend on their order, so the order is fixed: the samples of a plan form spans of SPAN positions; inside a span
chunks are added in order; the sums of a site are kept as parts, one for each run of samples, and `total` adds the
parts in the order of (plan, first position). Merging is a union of parts without arithmetic: any order and any
grouping of merges gives the same bits. Parts that continue each other from position 0 are added at once, which is
what `total` would do first, so one run over all samples equals merged runs over pieces cut at multiples of SPAN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial, reduce
from itertools import groupby
from operator import add, itemgetter

import torch
from torch import Tensor

from quantkit.calibration.text.samples import DataRecord
from quantkit.calibration.walk.threads import Workers
from quantkit.errors import InputError, did_you_mean
from quantkit.families.model import Rows
from quantkit.records import record

SPAN = 64  # samples; a power of two, so that chunks divide it
CACHED = 64  # tokens summed at once by a core, so that they stay in its cache: less than half the time
BAND = 256  # rows of a Gram matrix computed at once
GROUP = 1024  # rows whose gradients are multiplied with each other
CORNER = 64  # of these, where they meet the diagonal: larger ones compute more of what is noise, smaller ones are slow


@record
class Gram:
    """X^T X of inputs X (tokens, cols), each token times the root of how often it counts.

    Its upper triangle as float32 bands (BAND, cols - first row of the band).

    Half the memory and half the work of the whole matrix. Below the diagonal inside a band is noise, or zero.
    """

    bands: tuple[Tensor, ...]

    def full(self) -> Tensor:
        """The symmetric matrix, float32 (cols, cols), a new tensor."""
        cols = self.bands[0].shape[1]
        out = self.bands[0].new_empty((cols, cols))
        for number, band in enumerate(self.bands):
            start, rows = number * BAND, band.shape[0]
            corner = band[:, :rows].triu()
            out[start : start + rows, start:] = band
            out[start : start + rows, start : start + rows] = corner + corner.triu(1).T
            out[start + rows :, start : start + rows] = band[:, rows:].T
        return out

    def diagonal(self) -> Tensor:
        return torch.cat([band[:, : band.shape[0]].diagonal() for band in self.bands])


@record
class Sums:
    """Sums over the tokens that a site saw: float64 (cols,) of squares and magnitudes, float32 (cols,) largest
    magnitude, and the Gram matrix where it was asked for, in which tokens of some sites count more than once
    (`walk.reach`). Not divided by anything."""

    tokens: int
    squares: Tensor
    magnitudes: Tensor
    peaks: Tensor
    gram: Gram | None = None

    @property
    def cols(self) -> int:
        return self.squares.shape[0]

    def mean_square(self) -> Tensor:
        """Mean of x^2, float64 (cols,); zeros where no token was seen."""
        return self.squares / max(self.tokens, 1)

    def mean_magnitude(self) -> Tensor:
        """Mean of |x|, float64 (cols,); zeros where no token was seen."""
        return self.magnitudes / max(self.tokens, 1)

    def __add__(self, other: Sums) -> Sums:
        gram = None
        if self.gram is not None and other.gram is not None:
            gram = Gram(tuple(a + b for a, b in zip(self.gram.bands, other.gram.bands, strict=True)))
        return Sums(
            self.tokens + other.tokens,
            self.squares + other.squares,
            self.magnitudes + other.magnitudes,
            torch.maximum(self.peaks, other.peaks),
            gram,
        )


@record
class OutputGram:
    """G = sum over tokens of g g^T / |g|, g the gradients at what a linear gives (`walk.reach`): which errors of its
    rows add up downstream, and which cancel. Blocks of GROUP rows on its diagonal: several heads of attention, and rows
    of different heads have little to do with each other."""

    groups: tuple[Gram, ...]

    def blocks(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The blocks of rows [start, stop), float32 symmetric matrices, in their order."""
        found = []
        for number, gram in enumerate(self.groups):
            first = number * GROUP
            low, high = max(start - first, 0), min(stop - first, gram.bands[0].shape[1])
            if low < high:
                found.append(gram.full()[low:high, low:high])
        return tuple(found)


class Accumulator:
    """Adds up what one site sees in a span. The only mutable thing here; `sums` is what it has so far."""

    def __init__(self, cols: int, *, gram: bool, device: torch.device) -> None:
        zeros = torch.zeros(cols, dtype=torch.float64)
        starts = range(0, cols, BAND) if gram else ()
        bands = tuple(torch.zeros((min(BAND, cols - start), cols - start), device=device) for start in starts)
        self.sums = Sums(0, zeros, zeros, zeros.float(), Gram(bands) if gram else None)

    def add(self, inputs: Tensor) -> None:
        """Add the sums of squares, magnitudes and peaks of float32 (tokens, cols)."""
        if inputs.shape[0] == 0:
            return
        together = CACHED if inputs.device.type == "cpu" else inputs.shape[0]
        first, *others = map(self._moments, torch.split(inputs, together))
        squares, magnitudes, peaks = first
        for found in others:
            squares += found[0]
            magnitudes += found[1]
            peaks = torch.maximum(peaks, found[2])
        moments = Sums(inputs.shape[0], squares.cpu(), magnitudes.cpu(), peaks.cpu())
        self.sums = replace(self.sums + moments, gram=self.sums.gram)

    @staticmethod
    def _moments(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of squares and of magnitudes, float64 (cols,), and the largest magnitudes, float32 (cols,)."""
        magnitudes = inputs.abs()
        sums, peaks = magnitudes.sum(0, dtype=torch.float64), magnitudes.amax(0)
        return magnitudes.square_().sum(0, dtype=torch.float64), sums, peaks

    def add_band(self, number: int, inputs: Sequence[Tensor]) -> None:
        """Add the products of a band of columns with all columns from it on, for each of `inputs` in order."""
        assert self.sums.gram is not None
        band = self.sums.gram.bands[number]
        height, width = band.shape
        for x in inputs:
            own = x[:, number * BAND :]
            for first in range(0, height if len(x) else 0, CORNER):
                last = min(first + CORNER, height)
                band[first:last, first:height].addmm_(own[:, first:last].T, own[:, first:height])
            if len(x) and height < width:
                band[:, height:].addmm_(own[:, :height].T, own[:, height:])


class OutputSums:
    """Adds up the products of gradients at what a linear gives."""

    def __init__(self, rows: int, *, device: torch.device) -> None:
        self._groups = [
            Accumulator(min(GROUP, rows - first), gram=True, device=device) for first in range(0, rows, GROUP)
        ]

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Add the products of float32 (tokens, rows), one after the other."""
        for number, group in enumerate(self._groups):
            own = [one[:, number * GROUP : number * GROUP + group.sums.cols] for one in gradients]
            for band in range(-(-group.sums.cols // BAND)):
                group.add_band(band, own)

    @property
    def sums(self) -> OutputGram:
        """What it has so far."""
        return OutputGram(tuple(group.sums.gram for group in self._groups if group.sums.gram is not None))


NO_OUTPUTS: Mapping[str, OutputSums] = {}


@record
class Chunk:
    """What sites read in one run, (tokens, cols) each; `weighed` has other rows for the Gram matrices of some.
    `outputs` are the gradients at what linears give, (tokens, rows), where they are asked for."""

    inputs: Mapping[str, Tensor]
    weighed: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)


def accumulate(
    into: Mapping[str, Accumulator],
    chunks: Sequence[Chunk],
    workers: Workers,
    outputs: Mapping[str, OutputSums] = NO_OUTPUTS,
) -> None:
    """Add chunks, in their order, to the accumulators of their sites. A task is never split over threads."""
    workers.map(lambda task: task(), adding(into, chunks, outputs))


def adding(
    into: Mapping[str, Accumulator], chunks: Sequence[Chunk], outputs: Mapping[str, OutputSums] = NO_OUTPUTS
) -> list[Callable[[], None]]:
    """What adds chunks, in their order, to the accumulators of their sites, and to those of `outputs` by linear: tasks
    that may run side by side."""
    if not chunks:
        return []

    def moments(site: str) -> None:
        for chunk in chunks:
            into[site].add(chunk.inputs[site])

    def products(site: str, number: int) -> None:
        into[site].add_band(number, [chunk.weighed.get(site, chunk.inputs[site]) for chunk in chunks])

    grams = {site: a.sums.gram for site, a in into.items()}
    bands = [(site, n) for site, gram in grams.items() if gram is not None for n in range(len(gram.bands))]
    # the first bands of a matrix are the longest, and what is left at the end should be short
    bands.sort(key=lambda task: into[task[0]].sums.cols - BAND * task[1], reverse=True)
    return [
        *(partial(products, *task) for task in bands),
        *(partial(one.add, [chunk.outputs[linear] for chunk in chunks]) for linear, one in outputs.items()),
        *(partial(moments, site) for site in into),
    ]


@record
class Part:
    """The sums of samples [start, stop) of a plan; `plan` is the digest of its DataRecord."""

    plan: str
    start: int
    stop: int
    sums: Sums


@record
class Site:
    """Linears that read the same tensor; `name` is the first of them."""

    name: str
    linears: tuple[str, ...]
    cols: int


@record
class Linear:
    """A matrix of the model: its name in memory ("model.layers.0.mlp.up_proj.weight") and its source rows."""

    name: str
    source: Rows
    rows: int
    cols: int


@record
class Statistics:
    """Sums for the sites of a model, and where they come from; never the text.

    `model` is the fingerprint of the model that ran, `data` maps plan digests to what was run. `outputs` are the
    products of gradients at what linears give, by name, where they were asked for: they are neither saved nor merged.
    """

    model: str
    sites: Mapping[str, Site]
    linears: Mapping[str, Linear]
    parts: Mapping[str, tuple[Part, ...]]
    data: Mapping[str, DataRecord] = field(default_factory=dict)
    outputs: Mapping[str, OutputGram] = field(default_factory=dict)

    def site_of(self, linear: str) -> Site:
        """The site that a linear reads. Raises InputError with the nearest name."""
        site = next((site for site in self.sites.values() if linear in site.linears), None)
        if site is None:
            known = [name for s in self.sites.values() for name in s.linears]
            message = f'no statistics for "{linear}"{did_you_mean(linear, known)}'
            raise InputError(message, tensor=linear, hint="calibrate this checkpoint")
        return site

    def total(self, linear: str) -> Sums:
        """The sums over all samples of what a linear reads."""
        return _total((part.plan, part.sums) for part in self.parts[self.site_of(linear).name])

    def moments(self, linear: str) -> Sums:
        """`total` without the Gram matrix, which takes time and memory to add."""
        parts = self.parts[self.site_of(linear).name]
        return _total((part.plan, replace(part.sums, gram=None)) for part in parts)

    def has_gram(self, linear: str) -> bool:
        return all(part.sums.gram is not None for part in self.parts[self.site_of(linear).name])


def _total(sums: Iterable[tuple[str, Sums]]) -> Sums:
    """First the sums of each plan, then their sum, in the given order."""
    plans = [reduce(add, (one for _, one in run)) for _, run in groupby(sums, key=itemgetter(0))]
    return reduce(add, plans)


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Parts in their order, with those that continue each other from position 0 added up.

    Raises InputError when two parts of a plan overlap.
    """
    out: list[Part] = []
    for part in sorted(parts, key=lambda p: (p.plan, p.start)):
        last = out[-1] if out and out[-1].plan == part.plan else None
        if last is not None and part.start < last.stop:
            message = f"samples {part.start} to {min(part.stop, last.stop) - 1} of the same data are counted twice"
            raise InputError(message, hint="merge statistics of different samples", key="samples")
        if last is not None and last.start == 0 and last.stop == part.start:
            out[-1] = Part(part.plan, 0, part.stop, last.sums + part.sums)
        else:
            out.append(part)
    return tuple(out)


def merge(statistics: Sequence[Statistics]) -> Statistics:
    """All of them as one: other sites, other samples of the same data, or other data.

    The result has the same bits for any order and grouping. Raises InputError when they are of different models, or
    count a sample twice.
    """
    first = statistics[0]
    for other in statistics[1:]:
        if other.model != first.model:
            message = f"statistics of different models: {first.model[:12]} and {other.model[:12]}"
            raise InputError(message, hint="merge statistics of the same checkpoint", key="model")
    sites: dict[str, Site] = {}
    linears: dict[str, Linear] = {}
    parts: dict[str, list[Part]] = {}
    data: dict[str, DataRecord] = {}
    for one in statistics:
        for name, site in one.sites.items():
            if sites.setdefault(name, site) != site:
                message = f"site {name} has linears {sites[name].linears} and {site.linears}"
                raise InputError(message, tensor=name, hint="merge statistics made by the same version")
            parts.setdefault(name, []).extend(one.parts[name])
        linears.update(one.linears)
        data.update(one.data)
    names = sorted(sites)
    return Statistics(
        model=first.model,
        sites={name: sites[name] for name in names},
        linears={name: linears[name] for name in sorted(linears)},
        parts={name: joined(parts[name]) for name in names},
        data={plan: data[plan] for plan in sorted(data)},
    )
