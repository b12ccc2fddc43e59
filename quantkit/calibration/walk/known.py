"""Blocks whose statistics are known already, from a file that `quantkit calibrate` wrote: nothing is run.

Each layer is rounded for the inputs that the original model gives it; errors of layers before it are not in there, as
they are when the samples run through rounded blocks (`walk_blocks`). One file serves any number of recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.statistics.file import StatisticsFile
from quantkit.calibration.statistics.sums import BAND, Gram, Linear, Part, Statistics, Sums
from quantkit.calibration.walk.block import Block
from quantkit.calibration.walk.head import load_head
from quantkit.calibration.walk.model import BlockModel, resident_block
from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.skeleton import Arguments, set_parameter
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.calibration.walk.weights import held_by
from quantkit.errors import InputError, UnsupportedError
from quantkit.tensors import F32
from quantkit.untrusted import shown

NO_ARGUMENTS = Arguments((), {})  # nothing is run


class KnownBlock:
    """A block with its weights in memory, and what its linears read in a file; or the head. See `Block`."""

    def __init__(self, model: BlockModel, index: int, file: StatisticsFile, pool: Workers) -> None:
        self.index = index
        self._model = model
        self._file = file
        self._pool = pool
        self.is_head = index == model.count
        self._resident: Resident = load_head(model) if self.is_head else resident_block(model, index, NO_ARGUMENTS)
        self._scales: dict[str, F32] = {}
        known = file.facts.sites.values()
        self.sites = tuple(site for site in known if not self.linears.keys().isdisjoint(site.linears))
        cols = {name: site.cols for site in self.sites for name in site.linears}
        for name, linear in self.linears.items():
            if cols.get(name) != linear.cols:
                site = file.facts.site_of(name)  # raises where there is none
                message = f"{shown(file.source.path)} has {site.cols:,} columns for {name}, which has {linear.cols:,}"
                raise InputError(message, tensor=name, hint="calibrate this checkpoint")

    @property
    def name(self) -> str:
        return self._resident.name

    @property
    def linears(self) -> Mapping[str, Linear]:
        return self._resident.linears

    @property
    def run(self) -> Callable[..., list[Any]]:
        return self._pool.map

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(self._resident.prefix + name for name, _ in self._resident.module.named_parameters())

    @property
    def head_size(self) -> int:
        return self._model.head_size

    def stored_dtype(self, name: str) -> str:
        return self._model.checkpoint.tensors()[self.source_name(name)].dtype

    def source_name(self, name: str) -> str:
        return self._resident.source(name, held_by(self._model.checkpoint)).tensor

    def is_whole(self, name: str) -> bool:
        return self._resident.is_whole(name, held_by(self._model.checkpoint))

    def weight(self, name: str) -> Tensor:
        return self._resident.parameter(name).detach()

    def statistics(
        self, linears: Sequence[str] | None = None, *, hessian: bool = False, outputs: bool = False
    ) -> Statistics:
        """What the file has of the sites of these linears, with the scales that were moved since taken off: of what
        linears give it has nothing.

        Raises InputError for a linear that the file does not know, or of which it has no Hessian.
        """
        wanted = [self._file.facts.site_of(name) for name in linears or self.linears]
        sites = sorted({site.name for site in wanted})
        found = self._file.read(sites, gram=hessian)
        if hessian and not all(found.has_gram(name) for name in sites):
            hint = "calibrate again without --no-hessian, or convert with --method rtn"
            raise InputError(f"{self._file.source.path.name} holds no Hessians", tensor=sites[0], hint=hint)
        parts = {site: self._divided(site, found.parts[site]) for site in sites}
        return replace(found, parts=parts)

    def _divided(self, site: str, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        scale = self._scales.get(site)
        if scale is None:
            return parts
        return tuple(replace(part, sums=divided(part.sums, torch.from_numpy(scale))) for part in parts)

    def cache_peaks(self) -> tuple[float, float] | None:
        what = "a file of statistics does not hold the largest keys and values"
        raise UnsupportedError(what, hint="give the text itself with --calib", key="kv_cache")

    def replace(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            own = value.detach().to(self._model.device, torch.float32)
            set_parameter(self._resident.module, name.removeprefix(self._resident.prefix), own)

    def replace_values(self, weights: Mapping[str, F32]) -> None:
        self.replace({name: torch.from_numpy(values) for name, values in weights.items()})

    def moved(self, linears: Sequence[str], scale: F32) -> None:
        """The inputs of these linears are divided by `scale` (cols,) from now on: their columns were multiplied."""
        for site in {self._file.facts.site_of(name).name for name in linears if name in self.linears}:
            self._scales[site] = self._scales.get(site, np.float32(1)) * scale


def divided(sums: Sums, scale: Tensor) -> Sums:
    """The sums of x / scale, (cols,)."""
    exact = scale.to(torch.float64)
    gram = None
    if sums.gram is not None:
        inverse = (1 / exact).to(torch.float32)
        rows = enumerate(sums.gram.bands)
        bands = [b * inverse[n * BAND : n * BAND + len(b), None] * inverse[n * BAND :] for n, b in rows]
        gram = Gram(tuple(bands))
    return Sums(
        sums.tokens, sums.squares / exact**2, sums.magnitudes / exact, (sums.peaks / scale).to(torch.float32), gram
    )


def walk_known(
    model: BlockModel, file: StatisticsFile, visit: Callable[[int, Block], object], last: int | None = None
) -> None:
    """Let `visit` see every block up to the `last`, one in memory at a time; without a last one, the head, too.

    Raises InputError for statistics of another model.
    """
    fingerprint = model.fingerprint()
    if file.facts.model != fingerprint:
        what = f"{file.source.path.name} holds statistics of another model"
        raise InputError(what, path=str(file.source.path), hint="calibrate this checkpoint", key="model")
    with workers(model.threads, model.device) as pool:
        for index in range(model.count if last is None else last + 1):
            visit(index, KnownBlock(model, index, file, pool))
        if last is None:
            visit(model.count, KnownBlock(model, model.count, file, pool))
