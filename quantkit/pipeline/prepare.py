"""From a request to plans: open the source, describe it, read the recipes, plan. No weight is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from quantkit.consumers import parse_consumers
from quantkit.errors import InputError, QuantkitError, RecipeError, UnsupportedError, UsageError
from quantkit.events import Event, Sink, Warned, ignore
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.families.describe_tower import LEFT_OUT
from quantkit.families.model import Model
from quantkit.filling.hashing import SourceHasher
from quantkit.pipeline.consumers import require_loadable
from quantkit.pipeline.opening import open_wanted
from quantkit.pipeline.prepared import Prepared
from quantkit.pipeline.request import Request, require_used
from quantkit.plan.base import STANDARD, Plan, PlanOptions
from quantkit.plan.describe import describe_source
from quantkit.plan.encoder import AUTO, describe_encoder, encoder_type, left_out, plan_encoder
from quantkit.plan.grids import looked_at
from quantkit.plan.make import make_plan
from quantkit.recipes.read import load_recipes
from quantkit.recipes.recipe import FEEDBACK, Overrides, Recipe, override
from quantkit.source import Checkpoint
from quantkit.units import counted, parse_size

if TYPE_CHECKING:
    from quantkit.calibration.inputs import Inputs
    from quantkit.formats.gguf.imatrix import Imatrix
    from quantkit.pipeline.tune import Tuning

T = TypeVar("T")


def prepare(
    request: Request,
    stem: str | None = None,
    emit: Sink = ignore,
    stop: Callable[[], bool] | None = None,
    *,
    headers: bool = False,
    hasher: SourceHasher | None = None,
) -> Prepared:
    """Plan a request. `stem` names the output files (without ".gguf"), by default after source and recipe. Types for a
    target are measured where that is needed, until `stop` says so; without it such a request is refused. With `headers`
    weights of a repository of the Hub stay there: for plans that nothing is made of. A `hasher`
    goes on with the source from the moment it is open: for plans that something is made of at once.

    Raises what is wrong with the recipes first, then with the source: nothing is opened for a typo. What is wrong with
    one of several recipes for this source is in `Prepared.refused`; it is raised where none can be planned.
    """
    asked = load_recipes(request.recipes)
    tuning = _tuning_of(request, asked, stop)
    recipes = tuple(override(recipe, overrides_of(request, tuning)) for recipe in asked)
    require_used(request, recipes)
    if tuning is not None:
        from quantkit.pipeline.tune import with_target

        _tuning_of(request, recipes, stop)  # once more: options may have left nothing to choose
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

    with ExitStack() as held:
        checkpoint = open_wanted(request, recipes, hear, headers=headers)
        held.callback(checkpoint.close)
        if hasher is not None:
            held.enter_context(hasher).go_on(checkpoint.files())
        prepared = replace(_plan_all(request, checkpoint, (recipes, tuning), stem, emit), hasher=hasher)
        for code, message in dict.fromkeys(warning for p in prepared.plans for warning in p.warnings):
            if code not in said:
                emit(Warned(code, message))
        held.pop_all()
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
    calibration = _calibration(request, checkpoint, tuning, emit)
    model = _tried(lambda: _described(request, checkpoint)) if any(r.mixture for r in recipes) else None
    given = None
    if request.imatrix:
        from quantkit.formats.gguf.imatrix import read_imatrix

        given = read_imatrix(request.imatrix)
    made = None
    if calibration is not None and isinstance(model, Model) and any(r.reads_importance for r in recipes):
        made = _tried(partial(calibration.importance, checkpoint, model, emit))
    digest = calibration.digest if calibration else ""
    options = plan_options(request, stem)

    def planned(recipe: Recipe) -> Plan:
        def importance() -> Imatrix | None:
            return _or_raise(made) if made is not None and recipe.reads_importance else given

        described = partial(_or_raise, model)
        chosen = make_plan(checkpoint, recipe, options, model=described, imatrix=importance, inputs=digest)
        _require_useful(chosen, checkpoint, request)
        return looked_at(chosen, checkpoint) if recipe.mixture and recipe.mixture.preserve else chosen

    def made_of(recipe: Recipe) -> tuple[Recipe, Plan]:
        if tuning is None:
            return recipe, planned(recipe)
        return _chosen(recipe, tuning, planned, checkpoint, lambda: (_or_raise(model), calibration), emit)

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


def _chosen(
    recipe: Recipe,
    tuning: Tuning,
    planned: Callable[[Recipe], Plan],
    checkpoint: Checkpoint,
    what_runs: Callable[[], tuple[Model, Inputs | None]],
    emit: Sink,
) -> tuple[Recipe, Plan]:
    """A recipe whose types are chosen for a target, and its plan; what they cost is measured where no file tells."""
    from quantkit.pipeline.tune import Subject, known_of, measured, tuned
    from quantkit.tuning.choose import require_reachable

    known = known_of(tuning, recipe, checkpoint)
    if known is None:
        first = planned(recipe)
        require_reachable(first, tuning.target)
        model, calibration = what_runs()
        assert calibration is not None and tuning.stop is not None
        known = measured(Subject(checkpoint, model, recipe, first, calibration), emit, tuning.stop)
    return tuned(recipe, tuning, known, planned)


def _tuning_of(request: Request, recipes: Sequence[Recipe], stop: Callable[[], bool] | None) -> Tuning | None:
    """What a request wants of types for a target; most want nothing, and import nothing that chooses types."""
    if {request.target_size, request.target_bpw, request.max_kld, request.sensitivity} == {None}:
        return None
    from quantkit.pipeline.tune import tuning_of

    return tuning_of(request, recipes, stop)


def _require_useful(plan: Plan, checkpoint: Checkpoint, request: Request) -> None:
    """Raise what keeps a plan from being carried out with text, and UnsupportedError where a consumer that is named
    does not load what is made."""
    if plan.calibrated:
        from quantkit.calibration.walk.settings import model_settings  # for what is made with text alone

        model_settings(checkpoint.config, checkpoint.tensors())
    require_loadable([plan], parse_consumers(request.consumers), request.tp)


def _described(request: Request, checkpoint: Checkpoint) -> Model:
    """The model of GGUF files, with a note on an encoder that is left out although nobody said so."""
    model = describe_source(checkpoint, request.pre)
    why = left_out(checkpoint) if request.mmproj == AUTO and checkpoint.kind != "adapter" else None
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


def _inputs(request: Request, checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The files of the source, and those that the options name. Names of recipes lead to no file: no harm in that."""
    files = [request.imatrix, request.sensitivity]
    named = [*request.recipes, *(str(path) for path in files if path)]
    text: tuple[Path, ...] = ()
    if request.calib:
        from quantkit.calibration.text.shipped import data_path

        text = tuple(map(data_path, request.calib))
    return (*(Path(file.path) for file in checkpoint.files()), *text, *map(Path, named))


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


def _calibration(request: Request, checkpoint: Checkpoint, tuning: Tuning | None, emit: Sink) -> Inputs | None:
    """The text or statistics that the request means, None where it names none. Raises UnsupportedError where what is
    asked for goes by predictions of a model that makes none."""
    options = ["--refit-norms"] if request.refit_norms else []
    options += ["--feedback-embedding"] if request.feedback_embedding else []
    if tuning is not None or options:
        from quantkit.pipeline.tune import require_predictions, require_priced

        if tuning is not None:
            require_priced(checkpoint, tuning.target.option)
        for option in options:
            require_predictions(checkpoint, option)
    spec = request.calibration()
    if spec is None:
        return None
    from quantkit.calibration.inputs import open_inputs

    return open_inputs(checkpoint, spec, emit)


def overrides_of(request: Request, tuning: Tuning | None) -> Overrides:
    """What the options of this run change in every recipe. Statistics are no text that norms could be fitted to."""
    spec = request.calibration()
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
        norms=False if spec is not None and spec.reads_statistics else request.refit_norms,
        text=bool(request.calib) or fed,
        on_fallback="error" if request.on_fallback == "error" else None,
    )
