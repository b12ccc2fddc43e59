"""One block over all samples: chunk by chunk, with the same bits for any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import isfinite
from typing import NoReturn

import torch
from torch import Tensor

from quantkit.calibration.statistics.sums import (
    SPAN,
    Accumulator,
    Chunk,
    OutputGram,
    OutputSums,
    Part,
    Site,
    Sums,
    accumulate,
    adding,
    joined,
)
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk.reach import Far, Reached, far_sites, reached
from quantkit.calibration.walk.resident import NOTHING, Outputs, Resident, Wanted, first_non_finite
from quantkit.calibration.walk.threads import Workers
from quantkit.errors import NonFiniteError
from quantkit.records import record

# Tokens that run at once: enough for full speed, few enough that inner activations stay small. A constant of the
# device, because results may depend on it in their last bits.
CHUNK_TOKENS = {"cpu": 1024, "cuda": 8192}
DAMAGED = "the weights are damaged, or too large for float32: look at the tensor with quantkit inspect"
NOWHERE = Reached({}, {})
INNER_BYTES = 1 << 29  # inner activations of all chunks in flight


@record
class Pass:
    """A resident block and the activations it reads: `hidden` is float32 (n, seqlen, calls * hidden) in host memory,
    side by side what each of several `calls` of the block reads, which it is given as sequences of their own.

    `token_bytes` estimates the inner activations of one token; `settle` is called when no chunk is in flight,
    `beat` with the number of samples that are through, and of all.
    `outputs` holds, by the first and last sample of a chunk, what linears gave in earlier runs; None to keep nothing.
    """

    resident: Resident
    hidden: Tensor
    samples: Samples
    workers: Workers
    device: torch.device
    token_bytes: int
    settle: Callable[[], None]
    outputs: dict[tuple[int, int], Outputs] | None = None
    beat: Callable[[int, int], None] = lambda done, count: None
    calls: int = 1

    def run(self, chunk: slice, wanted: Wanted = NOTHING) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What the block gives, None if it stopped early, as `hidden` has it, and what linears read."""
        known = None if self.outputs is None else self.outputs.setdefault((chunk.start, chunk.stop), {})
        output, inputs = self.resident.run(self.sequences(chunk), wanted, known)
        if output is None or self.calls == 1:
            return output, inputs
        return output.reshape(-1, self.calls, *output.shape[1:]).transpose(1, 2).flatten(2), inputs

    def sequences(self, chunk: slice) -> Tensor:
        """What the block reads (sequences, seqlen, hidden), on the device: of each sample the calls in their order."""
        hidden = self.hidden[chunk].to(self.device)
        if self.calls == 1:
            return hidden
        return hidden.reshape(*hidden.shape[:2], self.calls, -1).transpose(1, 2).flatten(0, 1)


def advance(work: Pass) -> None:
    """Put the block's outputs in the place of its inputs. Raises NonFiniteError naming block, module and sample."""
    for wave in _waves(work, slice(0, len(work.hidden))):
        work.workers.map(lambda chunk: _replace(work, chunk, NOTHING), wave)


@record
class Sought:
    """The sites whose sums are wanted, with Gram matrices or without; `far` are those whose tokens are weighed there.
    With `final` the block's outputs also replace its inputs. `outputs` asks for products of the gradients at what the
    linears of the far sites give."""

    sites: Sequence[Site]
    gram: bool
    final: bool
    far: Sequence[Far] = ()
    outputs: bool = False

    @property
    def wanted(self) -> Wanted:
        return Wanted(frozenset(site.name for site in self.sites), only=not self.final)


def collect(work: Pass, sought: Sought) -> tuple[dict[str, tuple[Part, ...]], dict[str, OutputGram]]:
    """The sums of every site over all samples; products of gradients by linear, where they are sought."""
    sites, gram = sought.sites, sought.gram
    device = work.device
    by_name = {site.name: site for site in sites}
    plan, first = work.samples.record.digest, work.samples.start
    parts: dict[str, tuple[Part, ...]] = {site.name: () for site in sites}
    outputs: dict[str, OutputSums] = {}
    for span in _spans(len(work.hidden), first):
        into = {site.name: Accumulator(site.cols, gram=gram, device=device) for site in sites}
        taken: list[Chunk] = []
        for wave in _waves(work, span):
            # what was taken before is added up beside, so that no thread waits for the end of either
            taken = work.workers.map_beside(partial(_taken, work, sought=sought), wave, adding(into, taken, outputs))
            if not outputs:  # what the first chunk has, all have
                outputs = {n: OutputSums(g.shape[1], device=device) for n, g in taken[0].outputs.items()}
            if work.workers.pool is None:  # nothing is beside, and what was taken lies on the device
                accumulate(into, taken, work.workers, outputs)
                taken = []
        accumulate(into, taken, work.workers, outputs)
        for name, accumulator in into.items():
            part = Part(plan, first + span.start, first + span.stop, accumulator.sums)
            _check_sums(by_name[name], part.sums, work)
            parts[name] = joined([*parts[name], part])
    return parts, {linear: one.sums for linear, one in outputs.items()}


def cache_peaks(work: Pass) -> tuple[float, float] | None:
    """The largest magnitudes of keys and values over all samples, as attention caches them; None without attention.

    Runs each chunk up to its attention. Raises NonFiniteError naming block, module and sample.
    """
    keys = values = 0.0
    for wave in _waves(work, slice(0, len(work.hidden))):
        for found in work.workers.map(lambda chunk: work.resident.cached(work.sequences(chunk)), wave):
            if found is None:
                return None
            keys, values = max(keys, float(found.keys)), max(values, float(found.values))
            if not isfinite(float(found.keys) + float(found.values)):
                _raise_non_finite(work, f"keys or values of {work.resident.name} are too large")
    return keys, values


def sites_of(work: Pass) -> tuple[Site, ...]:
    """The block's linears grouped by what they read, in the order of use: seen on the first sample."""
    return work.workers.map(work.resident.sites, [work.sequences(slice(1))])[0]


def far_of(work: Pass, sites: Sequence[Site]) -> tuple[Far, ...]:
    """The block's sites that reach far: seen on the first sample."""
    hidden = work.sequences(slice(1))
    return work.workers.map(lambda sample: far_sites(work.resident, sample, sites), [hidden])[0]


def chunk_samples(seqlen: int, device: torch.device) -> int:
    """Samples in a chunk: a power of two that divides SPAN, so that a span is cut the same way wherever it starts."""
    fitting = max(1, CHUNK_TOKENS[device.type] // seqlen)
    return min(SPAN, 1 << (fitting.bit_length() - 1))


def _taken(work: Pass, chunk: slice, *, sought: Sought) -> Chunk:
    found = _reached(work, chunk, sought.far) if sought.far else NOWHERE
    inputs = _replace(work, chunk, sought.wanted) if sought.final else work.run(chunk, sought.wanted)[1]
    weighed = {site: inputs[site] * count.sqrt().unsqueeze(1) for site, count in found.counts.items()}
    return Chunk(inputs, weighed, found.outputs if sought.outputs else {})


def _reached(work: Pass, chunk: slice, far: Sequence[Far]) -> Reached:
    samples = range(work.samples.start + chunk.start, work.samples.start + chunk.stop)
    seeds = [sample for sample in samples for _ in range(work.calls)]
    return reached(work.resident, work.sequences(chunk), far, seeds)


def _replace(work: Pass, chunk: slice, wanted: Wanted) -> dict[str, Tensor]:
    output, inputs = work.run(chunk, wanted)
    assert output is not None
    for offset, sample in enumerate(output):
        if not isfinite(float(sample.sum())):  # a tenth of the time of asking each number; it may be the sum alone
            _raise_if_non_finite(work, chunk.start + offset)
    place = work.hidden.untyped_storage().data_ptr()  # a block without a norm before its linears reads from there
    kept = {n: one.clone() if one.untyped_storage().data_ptr() == place else one for n, one in inputs.items()}
    work.hidden[chunk] = output.to(work.hidden.device)
    return kept


def _spans(count: int, first: int) -> Iterator[slice]:
    """Samples 0..count cut where the position, counted from `first`, is a multiple of SPAN."""
    start = 0
    while start < count:
        stop = min(count, start + SPAN - (first + start) % SPAN)
        yield slice(start, stop)
        start = stop


def _chunks(work: Pass, span: slice) -> Iterator[slice]:
    step = chunk_samples(work.hidden.shape[1], work.device)
    for start in range(span.start, span.stop, step):
        yield slice(start, min(start + step, span.stop))


def _waves(work: Pass, span: slice) -> Iterator[list[slice]]:
    """The chunks of a span in groups: until one is done none of the next begins."""
    chunks = list(_chunks(work, span))
    chunk_bytes = chunk_samples(work.hidden.shape[1], work.device) * work.hidden.shape[1] * work.token_bytes
    together = max(1, min(work.workers.wave, INNER_BYTES // max(chunk_bytes, 1)))
    for start in range(0, len(chunks), together):
        wave = chunks[start : start + together]
        yield wave
        work.settle()
        work.beat(wave[-1].stop, len(work.hidden))


def _check_sums(site: Site, sums: Sums, work: Pass) -> None:
    """Sums are not finite only when an input was not, or its square was not."""
    if bool((sums.squares.isfinite() & sums.magnitudes.isfinite()).all()):
        return
    message = f"inputs of {site.name} are too large: the sum of their squares is not finite"
    _raise_non_finite(work, message, site.name)


def _raise_non_finite(work: Pass, otherwise: str, tensor: str | None = None) -> NoReturn:
    """Name the first sample and module whose output is not finite; say `otherwise` where every output is."""
    for position in range(len(work.hidden)):
        _raise_if_non_finite(work, position)
    raise NonFiniteError(otherwise, tensor=tensor, hint=DAMAGED)


def _raise_if_non_finite(work: Pass, position: int) -> None:
    """Run one sample again and name the module whose output is the first that is not finite."""
    path = first_non_finite(work.resident, work.sequences(slice(position, position + 1)))
    if path is None:
        return
    block = work.resident.name
    where = f"in block {block}, first in module {path}" if path else f"before block {block}"
    raise NonFiniteError(
        f"activations of sample {work.samples.id_at(position)} become infinite or NaN {where}",
        tensor=f"{work.resident.prefix}{path}.weight" if path else None,
        hint=DAMAGED,
    )
