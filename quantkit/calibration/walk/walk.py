"""Run tokens through a model with one transformer block in memory at a time.

    embedding -> block 0 -> ... -> block n-1 -> norm and head
                 load, visit, run all samples, drop

Memory: one block in float32, the statistics that a visit asks for, the activations of all samples (float32, samples x
seqlen x hidden; twice with `keep_reference`), and the inner activations of the chunks in flight (passes.INNER_BYTES).
It does not grow with depth. Of a model in cycles (`walk.cycles`) the activations are those of all calls of a block.
The head's matrix is held in its stored type, and only for logits.

Samples run in chunks whose size depends on the sequence length alone, each on one thread, and chunks are added up in
their order: the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from quantkit.calibration.statistics.sums import SPAN, Linear, Site, Statistics
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk.head import Logits, Stream, load_head, load_matrix, logits_at, read_logits
from quantkit.calibration.walk.model import BlockModel, Embedded, embed, read_embedding, resident_block, token_rows
from quantkit.calibration.walk.passes import Pass, Sought, advance, cache_peaks, collect, far_of, sites_of
from quantkit.calibration.walk.reach import Far
from quantkit.calibration.walk.resident import Outputs, Resident, input_of
from quantkit.calibration.walk.skeleton import Arguments, set_parameter
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.calibration.walk.unrolled import Activations, Starts, between_stacks, starts_of
from quantkit.calibration.walk.weights import held_by
from quantkit.errors import InputError, NonFiniteError
from quantkit.events import BlockProgress, Sink, TensorProgress, ignore
from quantkit.records import record
from quantkit.tensors import F32

OUTPUT_BYTES = 640 << 20  # what runs of a block leave to later runs, kept where it is no more than this

Visit = Callable[[int, "BlockView"], Mapping[str, Tensor]]


@record
class Walk:
    """What stays the same from block to block. `fingerprint` is the model's."""

    model: BlockModel
    samples: Samples
    workers: Workers
    fingerprint: str
    keep_reference: bool
    emit: Sink = ignore


class BlockView:
    """A block in memory, as a visit sees it: good until the visit returns.

    `index` counts blocks from 0; the final norm and the head come last, as `is_head`. Names of linears and weights
    are those of transformers' parameters in memory ("model.layers.0.mlp.experts.3.up_proj.weight").
    """

    def __init__(self, walk: Walk, index: int, resident: Resident, activations: Activations) -> None:
        self.index = index
        self.is_head = index == walk.model.count
        self._walk = walk
        self._resident = resident
        self._original = resident  # the head's: both are needed until its logits are out
        self._activations = activations
        self._reference_done = False
        self._done = False
        self._outputs: dict[tuple[int, int], Outputs] = {}
        self._keeps_outputs = False

    @property
    def name(self) -> str:
        """ "model.layers.3", or "head"."""
        return self._resident.name

    @property
    def linears(self) -> Mapping[str, Linear]:
        """The block's matrices by name: projections, experts, routers."""
        return self._resident.linears

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The linears grouped by what they read, in the order in which the block reads them (runs one sample)."""
        return sites_of(self._pass(self._activations.candidate))

    @cached_property
    def _far(self) -> tuple[Far, ...]:
        """The sites whose errors later tokens read (runs one sample forward and backward)."""
        return () if self.is_head else far_of(self._pass(self._activations.candidate), self.sites)

    @property
    def run(self) -> Callable[..., list[Any]]:
        """Does independent tasks on the walk's threads, and gives the results in order: `methods.base.Run`."""
        return self._walk.workers.map

    @property
    def parameters(self) -> frozenset[str]:
        """The names of all parameters of the block."""
        return frozenset(self._resident.prefix + name for name, _ in self._resident.module.named_parameters())

    @property
    def head_size(self) -> int:
        """Channels of an attention head, 0 for a model without."""
        return self._walk.model.head_size

    def stored_dtype(self, name: str) -> str:
        """The type of a parameter in the checkpoint: "BF16"."""
        return self._walk.model.checkpoint.tensors()[self.source_name(name)].dtype

    def weight(self, name: str) -> Tensor:
        """A parameter as it is now, on the model's device: read it, do not change it."""
        if self.is_head:
            load_matrix(self._walk.model, self._resident)
        return self._resident.parameter(name).detach()

    def statistics(
        self,
        linears: Sequence[str] | None = None,
        *,
        hessian: bool = False,
        outputs: bool = False,
        final: bool = False,
    ) -> Statistics:
        """Run all samples and add up what the given linears read (None: all of them), with the weights as they are.

        `hessian` adds the products of columns, `outputs` beside them those of gradients at what linears of far sites
        give. The run stops at the last of these linears and may be repeated with
        other linears or after `replace`, so that sites can be calibrated one after the other. With `final` it goes
        through the block and the samples move on to the next: the last thing a visit may ask for, and one run less.
        Raises NonFiniteError naming block and module, InputError for a name that is no linear of this block.
        """
        assert not self._done, "the samples have left this block"
        unknown = sorted(set(linears or ()) - set(self.linears))
        if unknown:
            raise InputError(f"block {self.name} has no linear {unknown[0]}", tensor=unknown[0])
        sites = tuple(s for s in self.sites if linears is None or set(s.linears) & set(linears))
        self._keeps_outputs = self._outputs_fit()
        final = final and not self.is_head
        if final:
            self._done = True
            self._advance_reference()
        far = tuple(one for one in self._far if one.site in sites) if hessian else ()
        parts, found = collect(self._pass(self._activations.candidate), Sought(sites, hessian, final, far, outputs))
        record = self._walk.samples.record
        return Statistics(
            model=self._walk.fingerprint,
            sites={site.name: site for site in sites},
            linears={name: self.linears[name] for site in sites for name in site.linears},
            parts=parts,
            data={record.digest: record},
            outputs=found,
        )

    def cache_peaks(self) -> tuple[float, float] | None:
        """The largest magnitudes of keys and of values as attention caches them, with the weights as they are.

        Keys are those after norm and rotary embedding. None for a block without attention, and for the head. Costs a
        run up to attention. Raises NonFiniteError naming block and module.
        """
        assert not self._done, "the samples have left this block"
        return None if self.is_head else cache_peaks(self._pass(self._activations.candidate))

    def replace(self, weights: Mapping[str, Tensor]) -> None:
        """Put other values in the place of parameters of this block: later runs and later blocks see them.

        Raises InputError for a name or shape that is not the block's, NonFiniteError for a value that is not finite.
        """
        if not weights:
            return
        assert not self._done, "the samples have left this block"
        self._keep_original()
        for name, value in weights.items():
            shape = self._resident.parameter(name).shape
            if value.shape != shape:
                raise InputError(f"{name} has shape {list(shape)}, not {list(value.shape)}", tensor=name)
            if not bool(value.isfinite().all()):
                raise NonFiniteError(f"the new {name} has values that are not finite", tensor=name)
            own = value.detach().to(self._walk.model.device, torch.float32)
            set_parameter(self._resident.module, name.removeprefix(self._resident.prefix), own)
        self._forget(set(weights))

    def replace_values(self, weights: Mapping[str, F32]) -> None:
        """`replace` for arrays."""
        self.replace({name: torch.from_numpy(values) for name, values in weights.items()})

    def source_name(self, name: str) -> str:
        """The tensor of the checkpoint that holds a parameter."""
        return self._resident.source(name, held_by(self._walk.model.checkpoint)).tensor

    def is_whole(self, name: str) -> bool:
        """Whether a parameter has a tensor of the checkpoint for itself."""
        return self._resident.is_whole(name, held_by(self._walk.model.checkpoint))

    def moved(self, linears: Sequence[str], scale: F32) -> None:
        """Scales were moved into these linears: the next run sees it."""

    def logits(self) -> Iterator[Logits]:
        """The logits of all samples, in order and in pieces: only the head has them."""
        assert self.is_head, "only the head gives logits"
        model, activations = self._walk.model, self._activations
        candidate = Stream(self._resident, activations.candidate)
        load_matrix(model, self._resident)
        reference = None
        if self._walk.keep_reference:
            same = activations.reference is None and self._original is self._resident
            load_matrix(model, self._original)
            hidden = activations.candidate if activations.reference is None else activations.reference
            reference = candidate if same else Stream(self._original, hidden)
        for piece in read_logits(candidate, reference, model.device, self._walk.workers):
            yield piece
            model.settle()

    def logits_at(self, places: Sequence[tuple[int, int]]) -> F32:
        """The logits of tokens, each (sample, token of it), float32 (n, vocabulary): only the head has them."""
        assert self.is_head, "only the head gives logits"
        stream = Stream(self._resident, self._activations.candidate)
        return logits_at(stream, places, self._walk.model.device, self._walk.workers)

    def round_inputs(self, rounding: Callable[[str], Callable[[Tensor], Tensor] | None]) -> None:
        """Have linears multiply what `rounding(name)` makes of their inputs; None leaves them as they are."""
        for name in self.linears:
            rounded = rounding(name)
            if rounded is not None:
                path = name.removeprefix(self._resident.prefix).removesuffix(".weight")
                self._resident.module.get_submodule(path).register_forward_pre_hook(partial(_rounded, rounded))

    def leave(self) -> None:
        """Move the samples on to the next block, unless a final run has."""
        if self.is_head or self._done:
            return
        self._done = True
        self._advance_reference()
        advance(self._pass(self._activations.candidate))

    def _outputs_fit(self) -> bool:
        """Whether there is room for what runs of this block leave, so that they need not repeat each other."""
        n, seqlen, _ = self._activations.candidate.shape
        size = self._walk.model.calls(self.index) * self._walk.model.kept_bytes(self._resident)
        return not self.is_head and n * seqlen * size <= OUTPUT_BYTES

    def _forget(self, changed: Set[str]) -> None:
        """Drop what new parameters change: the outputs of these linears, and all that comes later."""
        if not self._outputs:
            return
        order = [name for site in self.sites for name in site.linears]
        first = min(order.index(name) if name in order else -1 for name in changed)
        for outputs in self._outputs.values():
            for name in order[max(first, 0) :]:
                outputs.pop(name, None)
            for name in order[first + 1 :]:
                outputs.pop(input_of(name), None)

    def _keep_original(self) -> None:
        """Before weights change: what the original ones give has to be known, or remain computable."""
        if not self._walk.keep_reference:
            return
        if self.is_head:
            if self._resident is self._original:
                self._resident = load_head(self._walk.model)
            return
        if self._activations.reference is None:
            model, candidate = self._walk.model, self._activations.candidate
            self._activations.reference = model.new_activations(candidate.shape)
            for start in range(0, len(candidate), SPAN):
                self._activations.reference[start : start + SPAN] = candidate[start : start + SPAN]
                model.settle()
        self._advance_reference()

    def _advance_reference(self) -> None:
        """Run the reference through the original weights, once, while they are there."""
        if self._activations.reference is not None and not self._reference_done:
            self._reference_done = True
            advance(self._pass(self._activations.reference))

    def _pass(self, hidden: Tensor) -> Pass:
        walk = self._walk
        calls = walk.model.calls(self.index)
        token_bytes = calls * walk.model.token_bytes(self._resident, hidden.shape[1])
        outputs = self._outputs if self._keeps_outputs and hidden is self._activations.candidate else None
        return Pass(
            self._resident,
            hidden,
            walk.samples,
            walk.workers,
            walk.model.device,
            token_bytes,
            walk.model.settle,
            outputs,
            self._beat,
            calls,
        )

    def _beat(self, done: int, count: int) -> None:
        """Say how many samples are through a pass."""
        self._walk.emit(BlockProgress("blocks", self.name, self.index + 1, self._walk.model.count + 1, done, count))


def _rounded(rounding: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (rounding(args[0]), *args[1:])


@record
class How:
    """How a walk goes. With `keep_reference` the samples also go through the original weights, in lockstep, and the
    head gives the logits of both. `embedding` is what the samples are embedded with instead of the model's own rows:
    those `token_rows(samples)` names, in order. `last` ends the walk after that block."""

    keep_reference: bool = False
    embedding: Tensor | None = None
    last: int | None = None


PLAINLY = How()


def walk_blocks(
    model: BlockModel,
    samples: Samples,
    visit: Visit,
    emit: Sink = ignore,
    *,
    how: How = PLAINLY,
) -> None:
    """Run the samples through the model, block by block, and let `visit` look at each block and replace its weights.

    `visit(index, block)` returns replacement weights by name ({} for none): the samples go on through those, so that
    later blocks see the error. It may also call `block.replace` in between, site by site.

    To resume, have `visit` return at once what it returned before. Raises InputError for a checkpoint that lacks a
    tensor and for token ids without an embedding row, NonFiniteError naming block and module, ResourceError where
    activations do not fit.
    """
    infos = model.checkpoint.tensors()
    total = sum(info.nbytes for info in infos.values())
    with workers(model.threads, model.device) as pool:
        walk = Walk(model, samples, pool, model.fingerprint(), how.keep_reference, emit)
        activations, arguments = _embedded(walk, how.embedding)
        done: set[str] = set()
        for index in range(model.count + 1 if how.last is None else how.last + 1):
            name, sources = _visit_block(walk, index, activations, arguments, visit)
            done |= sources
            emit(
                TensorProgress("blocks", name, "f32", index, model.count + 1, sum(infos[n].nbytes for n in done), total)
            )


def _visit_block(
    walk: Walk, index: int, activations: Activations, arguments: Sequence[Arguments], visit: Visit
) -> tuple[str, set[str]]:
    """Load a block, let it be visited, move the samples on; its name and source tensors. The block is gone after."""
    is_head = index == walk.model.count
    between_stacks(walk.model, index, activations)
    resident = load_head(walk.model) if is_head else resident_block(walk.model, index, arguments[index])
    if is_head:
        activations = activations.behind(walk.model.skeleton.predicts_from(activations.candidate.shape[1]))
    view = BlockView(walk, index, resident, activations)
    view.replace(visit(index, view))
    view.leave()
    return view.name, {linear.source.tensor for linear in resident.linears.values()}


def _embedded(walk: Walk, table: Tensor | None) -> tuple[Activations, tuple[Arguments, ...]]:
    """What the first block reads, and what each block is called with."""
    model, samples = walk.model, walk.samples
    tables = [] if table is None else [table]
    if table is None or walk.keep_reference:
        tables.append(read_embedding(model, token_rows(samples)))
    found = [embed(model, samples, one, walk.workers) for one in tables]
    arguments = found[0].arguments
    if model.cycles is None:
        return Activations(found[0].hidden, found[1].hidden if found[1:] else None), arguments
    arguments = tuple(replace(arguments[model.steps.index(block)], carried=None) for block in range(model.count))
    starts = [_starts(walk, each) for each in found]
    high = tuple(each.high for each in starts)
    return Activations(starts[0].low, starts[1].low if starts[1:] else None, high), arguments


def _starts(walk: Walk, embedded: Embedded) -> Starts:
    """What the passes of a model in cycles begin with."""

    def beat(name: str, done: int, count: int) -> None:
        walk.emit(BlockProgress("blocks", name, 0, walk.model.count + 1, done, count))

    return starts_of(walk.model, walk.samples, embedded, walk.workers, beat)
