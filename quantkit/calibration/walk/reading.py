"""What the matrices of a model read of its first samples, from runs that are made for something else.

The sums have the bits that a walk through the model's blocks would give (`walk.passes.collect`): the same chunks, added
up in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quantkit.calibration.statistics.sums import SPAN, Accumulator, Chunk, Linear, Part, Site, Statistics, accumulate
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk.model import BlockModel
from quantkit.calibration.walk.passes import chunk_samples
from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.threads import Workers


def is_readable(model: BlockModel, first: Samples, samples: Samples) -> bool:
    """Whether runs of `samples` show what a walk with the `first` of them would: these are whole chunks of one span,
    and go through each block once."""
    count, seqlen = first.tokens.shape
    whole = count % chunk_samples(seqlen, model.device) == 0 or count == len(samples.tokens)
    return model.cycles is None and whole and count <= min(SPAN, len(samples.tokens))


class Reading:
    """Sums of squares and magnitudes of what matrices read of the first samples."""

    def __init__(self, model: BlockModel, first: Samples, pool: Workers) -> None:
        self._model, self._first, self._pool = model, first, pool
        self._linears: dict[str, Linear] = {}
        self._sites: dict[str, Site] = {}
        self._parts: dict[str, tuple[Part, ...]] = {}

    @property
    def count(self) -> int:
        """How many samples are read."""
        return len(self._first.tokens)

    def sites(self, resident: Resident, read: Tensor) -> tuple[Site, ...]:
        """The sites of a block that reads `read`, (n, seqlen, hidden): seen on the first sample."""
        return self._pool.map(resident.sites, [read[:1].to(self._model.device)])[0]

    def add(self, resident: Resident, sites: Sequence[Site], chunks: Sequence[Mapping[str, Tensor]]) -> None:
        """What sites of a block, or the head, read of all of these samples, (tokens, cols) each, chunk by chunk."""
        into = {site.name: Accumulator(site.cols, gram=False, device=self._model.device) for site in sites}
        accumulate(into, [Chunk({name: inputs[name].detach() for name in into}) for inputs in chunks], self._pool)
        plan = self._first.record.digest
        for site in sites:
            self._sites[site.name] = site
            self._linears |= {name: resident.linears[name] for name in site.linears}
            self._parts[site.name] = (Part(plan, 0, self.count, into[site.name].sums),)

    def add_head(self, head: Resident, pieces: Sequence[Tensor], tokens: int) -> None:
        """The same of the head, piece by piece, of so many tokens of each sample."""
        (linear,) = head.linears.values()
        chunks = torch.split(torch.cat(list(pieces)), chunk_samples(tokens, self._model.device) * tokens)
        self.add(head, [Site(linear.name, (linear.name,), linear.cols)], [{linear.name: one} for one in chunks])

    def statistics(self) -> Statistics:
        """All of it, without Hessians."""
        record = self._first.record
        return Statistics(self._model.fingerprint(), self._sites, self._linears, self._parts, {record.digest: record})
