"""Recipes whose types are chosen for a target: what was asked for, what types cost, and the plan that comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.calibration.inputs import Inputs, open_calibration_model, scratch_for
from quantkit.calibration.text.asked import STATISTICS
from quantkit.calibration.text.samples import DataRecord, Samples
from quantkit.errors import InputError, RecipeError, UnsupportedError, UsageError
from quantkit.events import Sink, StageFinished, StageStarted
from quantkit.families.describe import find_family
from quantkit.families.encoders import require_no_encoder
from quantkit.families.layers import PASSES
from quantkit.families.model import Model
from quantkit.pipeline.request import Request
from quantkit.plan.base import Plan
from quantkit.recipes.recipe import Allotment, Recipe
from quantkit.records import record
from quantkit.report.predicted import predicted_words
from quantkit.source import Checkpoint
from quantkit.source.evened import evened
from quantkit.source.identity import Origin
from quantkit.tuning.candidates import candidates, nbytes_of
from quantkit.tuning.choose import spend
from quantkit.tuning.record import CostRecord, OptionRecord, Sensitivity, TextRecord, read_sensitivity
from quantkit.tuning.target import Target, parse_target
from quantkit.units import counted
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from quantkit.tuning.judging import Judged

STAGE = "sensitivity"
MEASURE = "quantkit sensitivity SRC --calib default --out S.json, then --sensitivity S.json"


@record
class Tuning:
    """A target, and what types cost where a file has told; None where it is to be measured. `stop` asks whether to go
    on measuring, None where nothing may be run."""

    target: Target
    known: Sensitivity | None
    stop: Callable[[], bool] | None


def tuning_of(request: Request, recipes: Sequence[Recipe], stop: Callable[[], bool] | None) -> Tuning | None:
    """What a request wants of the kind, None for nothing. Reads the file of --sensitivity. Raises UsageError for
    options that exclude each other or that the recipes have no use for, InputError for a damaged file."""
    target = parse_target(request.target_size, request.target_bpw, request.max_kld)
    if target is None:
        if request.sensitivity is not None:
            hint = "for example --target-bpw 4.5"
            raise UsageError("--sensitivity is for types that are chosen for a target", hint=hint, key="sensitivity")
        return None
    for recipe in recipes:
        why = _refusal(recipe)
        if why:
            hint = "choose a recipe such as q4_k_m, whose types may change"
            raise UsageError(f"{recipe.name}: {target.option} {why}", hint=hint, key=target.option)
    if request.imatrix:
        hint = "give the text itself with --calib"
        raise UsageError(
            f"--imatrix does not say what types cost, which {target.option} asks", hint=hint, key="imatrix"
        )
    known = read_sensitivity(request.sensitivity) if request.sensitivity else None
    if known is None:
        _require_no_statistics(request.calib, target.option)
        if stop is None:
            what = (
                f"{target.option}: which types that gives is known once the text has been run, and a plan runs nothing"
            )
            raise UsageError(what, hint=MEASURE, key=target.option)
        _require_text(request, target.option)
    return Tuning(target, known, stop)


def require_measurable(request: Request, recipe: Recipe) -> None:
    """Raise UsageError for a request that cannot be measured: without text, or without types to choose."""
    why = _refusal(recipe)
    if why:
        hint = "choose a recipe such as q4_k_m, whose types may change"
        raise UsageError(f"{recipe.name}: sensitivity {why}", hint=hint, key="recipes")
    _require_text(request, "sensitivity")


def require_predictions(checkpoint: Checkpoint, option: str) -> None:
    """Raise UnsupportedError for an encoder, in which no error costs anything in nats per token."""
    if checkpoint.kind != "gguf":
        what = f"{option} goes by what a model predicts"
        require_no_encoder(find_family(checkpoint.config).family, what, "leave it out; --fit chooses a recipe by size")


def require_priced(checkpoint: Checkpoint, option: str) -> None:
    """The same, and for a model in cycles: what its types cost is not measured."""
    require_predictions(checkpoint, option)
    if checkpoint.kind != "gguf" and find_family(checkpoint.config).family.hparams(checkpoint.config).number(PASSES):
        what = f"{option}: what types cost is measured of layers that text goes through once, not again and again"
        raise UnsupportedError(what, hint="use convert with a type, such as --to q4_k_m", key=option)


def _require_text(request: Request, option: str) -> None:
    if not request.calib:
        what = f"{option} needs text to know what types cost"
        raise UsageError(what, hint="give --calib default, or FILE with text like what the model will see", key="calib")
    _require_no_statistics(request.calib, option)


def _require_no_statistics(calib: Sequence[str], why: str) -> None:
    known = [name for name in calib if name.endswith(STATISTICS)]
    if known:
        what = f"{why} needs gradients, and {known[0]} holds statistics alone"
        raise UsageError(what, hint=f"give the text itself; or {MEASURE}", key="calib")


def _refusal(recipe: Recipe) -> str | None:
    """Why the types of a recipe are not to be chosen."""
    if recipe.mixture is None:
        return "chooses types of GGUF files; write rules into a recipe of your own"
    if not recipe.rounds:
        return "has nothing to choose: all types are floats"
    return "has nothing to choose: --pure gives every tensor the same type" if recipe.mixture.pure else None


def with_target(recipe: Recipe, target: Target) -> Recipe:
    """The recipe under a name that says the target, on the command line and in file names."""
    overrides = {**recipe.overrides, target.option.removeprefix("--"): target.text}
    return replace(recipe, title=f"{recipe.title}-{target.title}", overrides=overrides)


def tuned(recipe: Recipe, tuning: Tuning, known: Sensitivity, plan: Callable[[Recipe], Plan]) -> tuple[Recipe, Plan]:
    """The recipe with types within the target, and its plan; `plan` plans recipes. Raises RecipeError for a target that
    cannot be reached."""
    found = recipe

    def again(allotment: Allotment) -> Plan:
        nonlocal found
        assert recipe.mixture is not None
        found = replace(recipe, mixture=replace(recipe.mixture, allotment=allotment))
        return plan(found)

    made = spend(plan(recipe), known, tuning.target, again)
    return found, made


def known_of(tuning: Tuning, recipe: Recipe, checkpoint: Checkpoint) -> Sensitivity | None:
    """What the file of --sensitivity says, None without one. Raises InputError for one of another model,
    RecipeError for one of another method."""
    known = tuning.known
    if known is None:
        return None
    from quantkit.calibration.walk.settings import fingerprint

    if known.model != fingerprint(checkpoint):
        name = shown(str(known.source.get("name")))
        what = f"the file of --sensitivity is of another model ({name}) than {shown(checkpoint.name)}"
        raise InputError(what, hint="measure this one with quantkit sensitivity", key="sensitivity")
    if known.method != recipe.method.name:
        what = f"the file of --sensitivity was measured with --method {known.method}, this is {recipe.method.name}"
        hint = f"--method {known.method}, or measure again: quantkit sensitivity SRC --method {recipe.method.name} ..."
        raise RecipeError(what, hint=hint, key="sensitivity")
    return known


@record
class Subject:
    """What is measured: a checkpoint, what it becomes in a GGUF file, a plan of its recipe's own types, and text."""

    checkpoint: Checkpoint
    model: Model
    recipe: Recipe
    plan: Plan
    inputs: Inputs

    @cached_property
    def elsewhere(self) -> Samples | None:
        """Text of other kinds than that of the inputs."""
        return self.inputs.elsewhere(self.checkpoint)


def measured(subject: Subject, emit: Sink, stop: Callable[[], bool]) -> Sensitivity:
    """Run the text, forward and back. Raises UsageError for statistics in the place of text, and what walks raise."""
    from quantkit.tuning.measure import Task, measure

    learned, judged = _halves(subject.inputs)
    start = time.monotonic()
    back = judged.tokens.size + (0 if subject.elsewhere is None else subject.elsewhere.tokens.size)
    emit(StageStarted(STAGE, 0, f"{counted(learned.tokens.size, 'token')} forward, {back:,} there and back"))
    scratch = scratch_for(subject.inputs.spec, Path())
    read = (
        evened(subject.checkpoint, subject.model, subject.inputs.spec.threads)
        if subject.plan.evens
        else subject.checkpoint
    )
    model = open_calibration_model(read, subject.inputs.spec, scratch)
    types, shipped = candidates(subject.plan), subject.inputs.shipped
    own, *others = measure(Task(model, subject.plan, types, learned, judged, shipped, subject.elsewhere), emit, stop)
    elsewhere = others[0] if others else None
    found = Sensitivity(
        **facts_of(subject),
        tensors=_records(subject.plan, own, elsewhere),
        standard_error=own.error,
        elsewhere_standard_error=None if elsewhere is None else elsewhere.error,
        perplexity=own.perplexity,
        elsewhere_perplexity=None if elsewhere is None else elsewhere.perplexity,
    )
    said = f"{found.recipe} is predicted to lose {predicted_words(found.of_recipe)}"
    emit(StageFinished(STAGE, time.monotonic() - start, f"{counted(len(found.tensors), 'tensor')} · {said}"))
    return found


def facts_of(subject: Subject) -> dict[str, Any]:
    """What a file of what is measured says besides the costs."""
    from quantkit.calibration.walk.settings import fingerprint

    learned, judged = _halves(subject.inputs)
    [record] = subject.inputs.records
    return {
        "model": fingerprint(subject.checkpoint),
        "source": Origin(subject.checkpoint).facts(),
        "recipe": subject.recipe.name,
        "method": subject.recipe.method.name,
        "calibration": _facts(record),
        "elsewhere": None if subject.elsewhere is None else TextRecord(**_facts(subject.elsewhere.record)),
        "learned_tokens": learned.tokens.size,
        "judged_tokens": judged.tokens.size,
    }


def _halves(inputs: Inputs) -> tuple[Samples, Samples]:
    halves = inputs.halves()
    _require_no_statistics(inputs.spec.data if halves is None else (), "to measure what types cost")
    assert halves is not None
    return halves


def _facts(record: DataRecord) -> dict[str, Any]:
    """Which text it was, without the numbers of its windows."""
    facts = asdict(record)
    return {key: facts[key] for key in ("name", "sha256", "seqlen", "tokens", "token_sha256")}


def _records(plan: Plan, own: Judged, elsewhere: Judged | None) -> tuple[CostRecord, ...]:
    """The costs on the text of the calibration, and on other text where there is some."""
    others = {} if elsewhere is None else elsewhere.costs
    return tuple(
        CostRecord(
            unit.name,
            str(unit.tensor.role),
            unit.tensor.layer,
            unit.tensor.shape,
            unit.word,
            tuple(
                OptionRecord(name, nbytes_of(unit, name), kld, others.get(unit.name, {}).get(name))
                for name, kld in own.costs[unit.name].items()
            ),
        )
        for unit in plan.units
        if unit.name in own.costs
    )
