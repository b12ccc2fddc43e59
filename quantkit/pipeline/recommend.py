"""The recommend stage: which recipe for a workload in a memory, and why; what to try when a gate fails; or none at all.

Sizes are those of plans, to the byte. Rules are the tables of `pipeline.advice`; measurements of this very model that
lie beside it (`pipeline.measured`) come before them. Reads headers; hashes the source only where a measurement claims
to be of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeVar

from quantkit.consumers import parse_consumers
from quantkit.errors import QuantkitError, UsageError, require_choice
from quantkit.events import Sink, ignore
from quantkit.families.model import Model, Shape
from quantkit.machine import memory_limit_bytes
from quantkit.pipeline.advice import (
    CONDITIONS,
    DRIVERS,
    GGUF_LADDER,
    KV_SHARE,
    KV_SOURCE,
    KV_WHY,
    RUNGS,
    SPECIAL,
    WORKLOADS,
    Condition,
    Facts,
    ladder_for,
)
from quantkit.pipeline.consumers import require_loadable
from quantkit.pipeline.measured import Measurement, measurements
from quantkit.pipeline.recommendation import (
    KEEP,
    NO_ROOM,
    QUANTIZE,
    Choice,
    Needs,
    Reason,
    Recommendation,
    RecommendRequest,
)
from quantkit.pipeline.request import reads_text
from quantkit.plan.base import Plan
from quantkit.plan.describe import describe_source
from quantkit.plan.make import make_plan
from quantkit.plan.rounded_twice import FLOAT_TYPES
from quantkit.plan.sizes import BATCH_TOKENS, cache_of, kv_bytes, require_cache_type, size_report
from quantkit.recipes.read import gguf_recipe_names, load_recipe, recipe_names
from quantkit.recipes.recipe import Overrides, override
from quantkit.report.devices import memory_for
from quantkit.report.text import size
from quantkit.source import Checkpoint, open_source
from quantkit.source.identity import Origin
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tokenizer.pre import require_pre
from quantkit.units import counted

T = TypeVar("T")
TEXT = "text"  # stands for that of a calibration, whatever it is: sizes do not depend on it

CONTEXT = 8192  # without --context, or the model's where that is less
TOKENS = re.compile(r"([0-9]{1,12})([km]?)", re.IGNORECASE | re.ASCII)
PROGRAM_BYTES = 500_000_000  # of an engine and its driver, measured on none in particular: stated beside every sum
WIDTHS = 2  # rows of the model's width that are in flight beside the logits


def recommend(request: RecommendRequest, emit: Sink = ignore) -> Recommendation:
    """Which recipe, and why. Raises UsageError for options that make no sense and for a context that the model does
    not take, and what opening and describing the source raises."""
    budget = _require_sense(request)
    spec = os.path.expanduser(request.source)  # noqa: PTH111
    with closing(open_source(spec, offline=request.offline, emit=emit, headers=True)) as source:
        return _Answer(request, source, budget).recommendation()


def tokens_of(text: str, option: str = "--context") -> int:
    """Tokens of "32k" (of 1,024), "1m" or "8192". Raises UsageError for anything else, and for none."""
    match = TOKENS.fullmatch(str(text).strip())
    count = int(match[1]) << {"": 0, "k": 10, "m": 20}[match[2].lower()] if match else 0
    if not 0 < count < 1 << 40:
        raise UsageError(
            f'{option} "{str(text)[:40]}" is no number of tokens', hint="for example 32k or 8192", key="context"
        )
    return count


def _require_sense(request: RecommendRequest) -> int:
    """The memory in bytes. Raises UsageError before anything is opened."""
    require_choice("--workload", request.workload, WORKLOADS)
    require_choice("--driver", request.driver, DRIVERS)
    if request.slots < 1:
        raise UsageError(f"--slots {request.slots}", hint="1 or more", key="slots")
    require_cache_type(request.kv_type)
    require_pre(request.pre)
    parse_consumers(request.consumers)
    if request.context is not None:
        tokens_of(request.context)
    return memory_limit_bytes() if request.memory is None else memory_for(request.memory, "--memory")


class _Answer:
    """One recommendation in the making: what is known of the source, and what fits."""

    def __init__(self, request: RecommendRequest, source: Checkpoint, budget: int) -> None:
        self.request, self.source, self.budget = request, source, budget
        self.workload, self.driver = WORKLOADS[request.workload], DRIVERS[request.driver]
        self.consumers = parse_consumers(request.consumers)
        self.rungs = ladder_for(self.consumers, self.driver.serves)
        self.model = (
            _tried(partial(describe_source, source, request.pre))
            if not isinstance(source, QuantizedCheckpoint)
            else None
        )
        self.plans: dict[str, Plan] = {}
        self.shape = self._shape()
        self.context = self._context()
        self.cache = kv_bytes(self.shape, self.context, request.kv_type, request.slots)
        rows = self.shape.vocab + WIDTHS * self.shape.hidden
        self.overhead = PROGRAM_BYTES + 4 * BATCH_TOKENS * rows
        self.source_bytes = sum(info.nbytes for info in source.tensors().values())
        self.weights = sum(prod(info.shape) for info in source.tensors().values())
        self.original = Needs(self.source_bytes, self.cache, self.overhead)

    def recommendation(self) -> Recommendation:
        known = {found.recipe: found for found in self._measured()}
        ladder = tuple(replace(c, measured=known.get(c.recipe)) for c in self._ladder())
        start, rules = self._start()
        passed = any(c.fits and c.measured and c.measured.passes(self.workload.gate) for c in ladder)
        keep = next((c for c in self._conditions() if c.effect == "keep" and not (c.open and passed)), None)
        wanted = next((c for c in ladder if c.bits >= start), ladder[-1] if ladder else None)
        chosen, reasons = (None, rules) if keep else self._chosen(ladder, start, rules)
        verdict = KEEP if keep else QUANTIZE if chosen else NO_ROOM
        every = self._every(ladder) if verdict == NO_ROOM else []
        if keep:
            reasons = [Reason(keep.why, keep.source)]
        return Recommendation(
            source=self.source.name,
            verdict=verdict,
            request=self.request,
            memory_bytes=self.budget,
            of_machine=self.request.memory is None,
            context=self.context,
            cache_words=cache_of(self.shape).words,
            original=self.original,
            original_bits=8 * self.source_bytes / max(self.weights, 1),
            gate=self.workload.gate,
            ladder=ladder,
            wanted=wanted,
            chosen=chosen,
            largest=max((c for c in every if c.fits), key=_bytes, default=None),
            smallest=min(every, key=_bytes, default=None),
            reasons=(*reasons, *self._of_cache(chosen)),
            calib=chosen is not None
            and (chosen.text or (self.driver.calib and reads_text(load_recipe(chosen.recipe)))),
        )

    def _chosen(self, ladder: Sequence[Choice], start: int, rules: list[Reason]) -> tuple[Choice | None, list[Reason]]:
        """What to take, and why: the smallest that was measured to pass, else the rung to start at, or the best below
        it that fits and is worth a try; nothing that was measured to fail.

        Reasons are what decided: `rules` where the rung to start at did, measurements where they did.
        """
        gate = self.workload.gate
        told = {c.recipe: c.measured.passes(gate) for c in ladder if c.measured}
        for choice in ladder:
            if choice.fits and choice.measured and told[choice.recipe]:
                return choice, [Reason(_measured_words(choice, gate, "passes"), f"{choice.measured.where}, measured")]
        failed = [c for c in ladder if told.get(c.recipe) is False]
        above = max((c.bits for c in failed), default=0)
        why = [Reason(_measured_words(c, gate, "fails"), f"{c.measured.where}, measured") for c in failed if c.measured]
        open_ = [c for c in ladder if c.fits and c.bits > above and c.bits >= self.workload.least]
        up = [c for c in open_ if c.bits >= start]
        down = [c for c in open_ if c.bits < start]
        if up:
            return up[0], why if above >= start else rules
        if down:
            what = f"{start} bits do not fit: the largest that does, which the gate has to judge"
            return down[-1], [Reason(what, "sizes of the plans"), *why, *rules]
        return None, [*why, *rules]

    def _start(self) -> tuple[int, list[Reason]]:
        """The rung to start at, and why."""
        reasons = [Reason(self.workload.why, self.workload.source), Reason(self.driver.why, self.driver.source)]
        rungs = [bits for bits in (3, *RUNGS) if bits >= self.workload.least]
        at = max(rungs.index(self.workload.start) - self.driver.lower, 0)
        for condition in self._conditions():
            if condition.effect == "higher":
                at = min(at + 1, len(rungs) - 1)
                reasons.append(Reason(condition.why, condition.source))
            elif condition.effect == "eight":
                at = len(rungs) - 1
                reasons.append(Reason(condition.why, condition.source))
        return max(rungs[at], self.driver.least), reasons

    def _conditions(self) -> list[Condition]:
        fits = self.original.nbytes <= self.budget
        facts = Facts(self.request.workload, self.weights, self.context, fits, _is_quantized(self.source))
        return [condition for condition in CONDITIONS if condition.holds(facts)]

    def _ladder(self) -> Iterator[Choice]:
        """The recipes of the rungs, smallest first, that can be planned and are smaller than the source."""
        for bits, names in self.rungs.items():
            if bits < min(self.workload.least, RUNGS[0]):
                continue
            found = next(((name, plan) for name in names if (plan := self._planned(name)) is not None), None)
            if found is not None:
                yield self._choice(*found, bits)

    def _every(self, ladder: Sequence[Choice]) -> list[Choice]:
        """All recipes for these consumers that can be made of the source, with text if need be."""
        names = gguf_recipe_names() if self.rungs is GGUF_LADDER else recipe_names()
        known = {c.recipe: c for c in ladder}
        plans = {name: plan for name in names if name not in SPECIAL and (plan := self._planned(name)) is not None}
        return [known.get(name) or self._choice(name, plan, 0) for name, plan in plans.items()]

    def _choice(self, name: str, plan: Plan, bits: int) -> Choice:
        report = size_report(plan)
        needs = Needs(sum(t.nbytes for t in report.types), self.cache, self.overhead)
        fits = needs.nbytes <= self.budget
        return Choice(name, bits, plan.nbytes, report.bits_per_weight, needs, fits, plan.needs_inputs)

    def _planned(self, name: str) -> Plan | None:
        """The plan of a recipe, None where it cannot be made, or has nothing to save."""
        if name not in self.plans:
            made = _tried(partial(self._plan, name))
            if made is None:
                return None
            self.plans[name] = made
        plan = self.plans[name]
        return plan if plan.nbytes < self.source_bytes else None

    def _plan(self, name: str) -> Plan:
        recipe = load_recipe(name)
        if recipe.mixture is not None and recipe.mixture.needs_imatrix:  # the importance that it needs comes of text
            recipe = override(recipe, Overrides(text=True))
        made = make_plan(self.source, recipe, model=self._model, inputs=TEXT)
        require_loadable([made], self.consumers, self.request.tp)
        return made

    def _model(self) -> Model:
        return self.model if self.model is not None else describe_source(self.source, self.request.pre)

    def _shape(self) -> Shape:
        """The numbers of the model: of its description, else of a plan for servers. Raises what keeps both away."""
        if self.model is not None:
            return self.model.shape
        for name in ("w8a16", "hf-bf16"):
            made = _tried(partial(make_plan, self.source, load_recipe(name), model=self._model))
            if made is not None:
                return made.shape
        return self._model().shape

    def _context(self) -> int:
        longest, asked = self.shape.context, self.request.context
        if asked is None:
            return min(CONTEXT, longest or CONTEXT)
        count = tokens_of(asked)
        if longest and count > longest:
            what = f"--context {asked}: the model takes {counted(longest, 'token')}"
            raise UsageError(what, hint=f"--context {longest} or less", key="context")
        return count

    def _measured(self) -> tuple[Measurement, ...]:
        places = list(self.request.records)
        first = next((Path(file.path) for file in self.source.files()), None)
        if self.request.beside and first is not None and self.source.repo is None:
            places += [first.parent, first.absolute().parent.parent]
        return measurements(places, lambda: Origin(self.source).files)

    def _of_cache(self, chosen: Choice | None) -> list[Reason]:
        """A word on the type of the cache where it takes much."""
        total = chosen.needs.nbytes if chosen else self.original.nbytes
        if self.request.kv_type not in ("f32", "f16", "bf16") or self.cache < KV_SHARE * total:
            return []
        return [Reason(f"the cache takes {size(self.cache)}: {KV_WHY} (--kv q8_0)", KV_SOURCE)]


def _is_quantized(source: Checkpoint) -> bool:
    """Whether a source stores rounded weights: a checkpoint that says so, a GGUF file with other types than floats."""
    if source.kind != "gguf":
        return isinstance(source, QuantizedCheckpoint)
    return any(info.dtype.lower() not in FLOAT_TYPES for info in source.tensors().values())


def _bytes(choice: Choice) -> int:
    return choice.needs.nbytes


def _tried(make: Callable[[], T]) -> T | None:
    """What `make` returns, None where it cannot be made of this source."""
    try:
        return make()
    except QuantkitError:
        return None


def _measured_words(choice: Choice, gate: str, verb: str) -> str:
    found = choice.measured
    assert found is not None
    bound = f", at most {found.kl_high:.3g}" if found.kl_high is not None else ""
    return f"{choice.recipe} {verb} {gate}: KL {found.kl:.3g}{bound} on {found.tokens:,} tokens of this model"
