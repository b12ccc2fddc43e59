"""From a request to plans: open the source, describe it, read the recipes, plan. No weight is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from quantkit.calibration.inputs import Inputs, open_inputs
from quantkit.calibration.text.shipped import data_path
from quantkit.consumers import parse_consumers
from quantkit.errors import InputError, QuantkitError, RecipeError, UnsupportedError, UsageError
from quantkit.evaluation.source_run import SourceRun
from quantkit.events import Event, Sink, Warned, ignore
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.families.describe_tower import LEFT_OUT
from quantkit.families.model import Model
from quantkit.formats.gguf.imatrix import Imatrix, read_imatrix
from quantkit.pipeline.consumers import require_loadable
from quantkit.pipeline.opening import open_wanted
from quantkit.pipeline.request import Request, require_used
from quantkit.pipeline.tune import (
    Subject,
    Tuning,
    known_of,
    measured,
    require_predictions,
    require_priced,
    tuned,
    tuning_of,
    with_target,
)
from quantkit.plan.base import STANDARD, Plan, PlanOptions
from quantkit.plan.describe import describe_source
from quantkit.plan.encoder import AUTO, describe_encoder, encoder_type, left_out, plan_encoder
from quantkit.plan.grids import looked_at
from quantkit.plan.make import make_plan
from quantkit.quality.reference import Reference
from quantkit.recipes.read import load_recipe
from quantkit.recipes.recipe import FEEDBACK, Overrides, Recipe, override
from quantkit.source import Checkpoint
from quantkit.source.adapter_model import AdapterCheckpoint
from quantkit.source.evened import EvenedCheckpoint, evened
from quantkit.source.identity import Origin
from quantkit.tuning.choose import require_reachable
from quantkit.units import counted, parse_size

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """An open source and one plan per recipe that can be made of it, in the order asked for.

    `model` is None where no GGUF file is planned, `calibration` where no text was given. `inputs` are all files that
    are read: no output may be one of them. `refused` are recipes of several that cannot be planned, and why. `encoder`
    is what is written beside the model, with the last of the recipes and plans; None where nothing is.
    """

    checkpoint: Checkpoint
    model: Model | None
    recipes: tuple[Recipe, ...]
    plans: tuple[Plan, ...]
    calibration: Inputs | None = None
    require_coverage: float | None = None
    inputs: tuple[Path, ...] = ()
    refused: tuple[tuple[str, QuantkitError], ...] = ()
    encoder: Model | None = None

    def __repr__(self) -> str:
        return f"Prepared({self.checkpoint.name!r}, {', '.join(map(repr, self.plans))})"

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source, and an engine that runs it."""
        if "source_run" in self.__dict__:
            self.source_run.close()
        self.checkpoint.close()

    @property
    def several(self) -> bool:
        """Whether more than one recipe was asked for: each then has its own fate."""
        return sum(not plan.is_encoder for plan in self.plans) + len(self.refused) > 1

    @cached_property
    def reference(self) -> Reference:
        """The source with what was found out about it: for all artifacts."""
        assert self.model is not None
        return Reference(self.checkpoint, self.model)

    def reference_of(self, plan: Plan) -> Reference:
        """The same for what a plan of a GGUF file makes: the model, or its encoder."""
        return Reference(self.checkpoint, self.encoder) if plan.is_encoder and self.encoder else self.reference

    def reading(self, plan: Plan) -> Prepared:
        """The same with the source as a plan reads it: with even columns where it wants that and they are far apart."""
        return self._evened if plan.evens else self

    @cached_property
    def _evened(self) -> Prepared:
        """Statistics are of the columns as they were: with these nothing is moved."""
        if self.calibration is None or self.calibration.spec.reads_statistics or self.model is None:
            return self
        return replace(self, checkpoint=evened(self.checkpoint, self.model, self.calibration.spec.threads))

    def evened_facts(self, plan: Plan) -> dict[str, int]:
        """The manifest's word on columns that were evened for a plan, {} where none were. Looks at all of them."""
        read = self.reading(plan).checkpoint
        return read.facts() if isinstance(read, EvenedCheckpoint) else {}

    @cached_property
    def source_run(self) -> SourceRun:
        """The source as engines are compared with it: it runs once for all artifacts."""
        return SourceRun(self.checkpoint, self.model)

    @cached_property
    def origin(self) -> Origin:
        """What records say of the source."""
        return Origin(self.checkpoint)

    def job_digest(self, chosen: Plan) -> str:
        """Identity of the work at hand: the plan, and the source as it is now."""
        return self.origin.job_digest(chosen.digest)

    @property
    def calibration_tokens(self) -> int:
        return sum(record.tokens for record in self.calibration.records) if self.calibration else 0

    def calibration_facts(self, chosen: Plan) -> dict[str, Any]:
        """The manifest's word on the text or the statistics that a plan makes use of."""
        used = chosen.calibrated or any(unit.importance is not None for unit in chosen.units)
        return {"calibration": self.calibration.facts(chosen.widened)} if self.calibration and used else {}


def prepare(
    request: Request,
    stem: str | None = None,
    emit: Sink = ignore,
    stop: Callable[[], bool] | None = None,
    *,
    headers: bool = False,
) -> Prepared:
    """Plan a request. `stem` names the output files (without ".gguf"), by default after source and recipe. Types for a
    target are measured where that is needed, until `stop` says so; without it such a request is refused. With `headers`
    weights of a repository of the Hub stay there: for plans that nothing is made of.

    Raises what is wrong with the recipes first, then with the source: nothing is opened for a typo. What is wrong with
    one of several recipes for this source is in `Prepared.refused`; it is raised where none can be planned.
    """
    asked = [load_recipe(name) for name in request.recipes]
    tuning = tuning_of(request, asked, stop)
    recipes = tuple(override(recipe, overrides_of(request, tuning)) for recipe in asked)
    require_used(request, recipes)
    if tuning is not None:
        tuning_of(request, recipes, stop)  # once more: options may have left nothing to choose
        recipes = tuple(with_target(recipe, tuning.target) for recipe in recipes)
    parse_consumers(request.consumers)
    _require_tools(request, recipes, runs=stop is not None)
    if stem and len(recipes) > 1:
        raise UsageError(f"{counted(len(recipes), 'recipe')} cannot share one file name", hint="give a folder with -o")
    said: set[str] = set()  # what the source warns of when it is opened, its description says again for the manifest

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            said.add(event.code)
        emit(event)

    checkpoint = open_wanted(request, recipes, hear, headers=headers)
    try:
        prepared = _plan_all(request, checkpoint, (recipes, tuning), stem, emit)
    except QuantkitError:
        checkpoint.close()
        raise
    for code, message in dict.fromkeys(warning for p in prepared.plans for warning in p.warnings):
        if code not in said:
            emit(Warned(code, message))
    return prepared


def _plan_all(
    request: Request,
    checkpoint: Checkpoint,
    wanted: tuple[tuple[Recipe, ...], Tuning | None],
    stem: str | None,
    emit: Sink,
) -> Prepared:
    """Plan every recipe. Text is turned into samples, and run where a GGUF file wants importance weights of it, or
    types are chosen for a target."""
    recipes, tuning = wanted
    calibration = _calibration(request, checkpoint, wanted, emit)
    model = _tried(lambda: _described(request, checkpoint)) if any(r.mixture for r in recipes) else None
    given = read_imatrix(request.imatrix) if request.imatrix else None
    made = None
    if calibration is not None and isinstance(model, Model) and any(r.reads_importance for r in recipes):
        made = _tried(partial(calibration.importance, checkpoint, model, emit))
    digest = calibration.digest if calibration else ""
    consumers = parse_consumers(request.consumers)

    options = plan_options(request, stem)

    def planned(recipe: Recipe) -> Plan:
        def importance() -> Imatrix | None:
            return _or_raise(made) if made is not None and recipe.reads_importance else given

        described = partial(_or_raise, model)
        chosen = make_plan(checkpoint, recipe, options, model=described, imatrix=importance, inputs=digest)
        require_loadable([chosen], consumers, request.tp)
        return looked_at(chosen, checkpoint) if recipe.mixture and recipe.mixture.preserve else chosen

    def made_of(recipe: Recipe) -> tuple[Recipe, Plan]:
        if tuning is None:
            return recipe, planned(recipe)
        known = known_of(tuning, recipe, checkpoint)
        if known is None:
            first = planned(recipe)
            require_reachable(first, tuning.target)
            assert calibration is not None and tuning.stop is not None
            known = measured(Subject(checkpoint, _or_raise(model), recipe, first, calibration), emit, tuning.stop)
        return tuned(recipe, tuning, known, planned)

    tried = [(recipe, _tried(partial(made_of, recipe))) for recipe in recipes]
    good = [found for _, found in tried if not isinstance(found, QuantkitError)]
    refused = tuple((recipe.name, found) for recipe, found in tried if isinstance(found, QuantkitError))
    if not good:
        raise refused[0][1]
    models = any(recipe.mixture and not recipe.mixture.adapter for recipe, _ in good)
    encoder, beside = encoder_beside(request, checkpoint, options) if models else (None, [])
    good += beside
    return Prepared(
        checkpoint=checkpoint,
        model=model if isinstance(model, Model) else None,
        recipes=tuple(recipe for recipe, _ in good),
        plans=tuple(found for _, found in good),
        calibration=calibration,
        require_coverage=request.require_coverage,
        inputs=_inputs(request, checkpoint),
        refused=refused,
        encoder=encoder,
    )


def _described(request: Request, checkpoint: Checkpoint) -> Model:
    """The model of GGUF files, with a note on an encoder that is left out although nobody said so."""
    model = describe_source(checkpoint, request.pre)
    adapter = isinstance(checkpoint, AdapterCheckpoint)
    why = left_out(checkpoint) if request.mmproj == AUTO and not adapter else None
    if why is None:
        return model
    return replace(model, warnings=(*model.warnings, ("no-mmproj", f"{why}: the text model alone is written")))


def encoder_beside(
    request: Request, checkpoint: Checkpoint, options: PlanOptions
) -> tuple[Model | None, list[tuple[Recipe, Plan]]]:
    """The encoder that is written beside the model, its recipe and plan; None and [] where there is none, or none is
    wanted."""
    qtype = encoder_type(checkpoint, request.mmproj)
    if qtype is None:
        return None, []
    try:
        described = describe_encoder(checkpoint, qtype)
    except QuantkitError as error:  # of the encoder alone: the language model can be had without it
        if LEFT_OUT not in (error.hint or ""):
            error.hint = "; or ".join(filter(None, (error.hint, LEFT_OUT)))
        raise
    assert described is not None
    return described, [plan_encoder(described, checkpoint, qtype, options)]


# What one recipe cannot be planned for, while others can: its rules, its types, its consumers, the tokenizer.
OF_ONE = (RecipeError, UnsupportedError, InputError)


def _tried(make: Callable[[], T]) -> T | QuantkitError:
    """What `make` returns, or the error that keeps a recipe from being planned."""
    try:
        return make()
    except OF_ONE as error:
        return error


def _or_raise(found: T | QuantkitError | None) -> T:
    if isinstance(found, QuantkitError):
        raise found
    assert found is not None
    return found


def with_text(prepared: Prepared, emit: Sink) -> Prepared:
    """Refuse recipes that are made with text where none was given. Raises RecipeError where no other is left.

    What is refused is told at once: the others may take hours.
    """
    lacking = {
        number: without_text(recipe)
        for number, (recipe, plan) in enumerate(zip(prepared.recipes, prepared.plans, strict=True))
        if plan.needs_inputs and not plan.calibrated
    }
    left = [number for number in range(len(prepared.plans)) if number not in lacking]
    refused = (*prepared.refused, *((prepared.recipes[number].name, lacking[number]) for number in lacking))
    if all(prepared.plans[number].is_encoder for number in left):
        prepared.checkpoint.close()
        raise refused[0][1]
    for name, error in refused:
        emit(Warned("refused", error.message if name in error.message else f"{name}: {error.message}"))
    return replace(
        prepared,
        recipes=tuple(prepared.recipes[number] for number in left),
        plans=tuple(prepared.plans[number] for number in left),
        refused=refused,
    )


def without_text(recipe: Recipe) -> RecipeError:
    """The error for a recipe that is made with text, where none was given."""
    text = "give --calib default, or FILE with text like what the model will see"
    other = "a recipe without, such as w8a16" if recipe.mixture is None else "--method rtn, which needs none"
    spent = recipe.mixture is not None and recipe.mixture.allotment is not None  # on what types cost with this method
    hint = text if spent else f"{text}; or {other}"
    return RecipeError(f"{recipe.name} needs calibration text", key="calib", hint=hint)


def _inputs(request: Request, checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The files of the source, and those that the options name. Names of recipes lead to no file: no harm in that."""
    files = [request.imatrix, request.sensitivity]
    named = [*request.recipes, *(str(path) for path in files if path)]
    return (*(Path(file.path) for file in checkpoint.files()), *map(data_path, request.calib), *map(Path, named))


def _require_tools(request: Request, recipes: Sequence[Recipe], *, runs: bool) -> None:
    """Raise UnsupportedError, before anything is opened, where text is to be run, or statistics are to be read, and
    what does that is not installed. `runs`: more than a plan is made, and a plan runs text where types read it."""
    spec = request.calibration()
    if spec is None:
        return
    spec.check()
    if runs or spec.reads_statistics or any(recipe.reads_importance for recipe in recipes):
        instead = "choose a recipe that needs no text, such as q4_k_m or w8a16"
        require_installed("--calib", RUN_MODELS, key="calib", instead=instead)


def plan_options(request: Request, stem: str | None) -> PlanOptions:
    """What the planners are told of a request besides its recipes."""
    split, shard = request.split_max_size, request.max_shard_size
    return PlanOptions(
        stem=stem,
        split_bytes=parse_size(split, "--split-max-size") if split else None,
        shard_bytes=parse_size(shard, "--max-shard-size") if shard else STANDARD.shard_bytes,
        tensorrt="tensorrt-llm" in parse_consumers(request.consumers),
        allow_requantize=request.allow_requantize,
        card=request.card,
    )


def _calibration(
    request: Request, checkpoint: Checkpoint, wanted: tuple[tuple[Recipe, ...], Tuning | None], emit: Sink
) -> Inputs | None:
    """The text or statistics that the request means, None where it names none. Raises UnsupportedError where what is
    wanted goes by predictions of a model that makes none."""
    recipes, tuning = wanted
    if tuning is not None:
        require_priced(checkpoint, tuning.target.option)
    if any(recipe.mixture and recipe.mixture.norms for recipe in recipes):
        require_predictions(checkpoint, "--refit-norms")
    if request.feedback_embedding:
        require_predictions(checkpoint, "--feedback-embedding")
    spec = request.calibration()
    return None if spec is None else open_inputs(checkpoint, spec, emit)


def overrides_of(request: Request, tuning: Tuning | None) -> Overrides:
    """What the options of this run change in every recipe."""
    fed = tuning is not None and tuning.known is not None and tuning.known.method == FEEDBACK.name
    return Overrides(
        keep=request.keep,
        output_type=request.output_type,
        embedding_type=request.embedding_type,
        pure=request.pure,
        preserve=request.preserve,
        method=request.method,
        head=request.feedback_head,
        embedding=request.feedback_embedding,
        columns=request.even_columns,
        norms=request.refit_norms,
        text=bool(request.calib) or fed,
        on_fallback="error" if request.on_fallback == "error" else None,
    )
