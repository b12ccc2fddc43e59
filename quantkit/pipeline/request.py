"""What the user wants made from what, and which recipes make use of which option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from quantkit.calibration.text.asked import ACTIVATIONS, DEVICES, SAMPLES, CalibrationSpec
from quantkit.errors import UsageError, require_choice
from quantkit.methods import needs_hessian
from quantkit.pipeline.given import (
    Coercion,
    coerce,
    given_data,
    given_names,
    given_number,
    given_optional,
    given_path,
    given_size,
    given_text,
    given_texts,
)
from quantkit.plan.encoder import AUTO, ENCODER_CHOICES, NONE
from quantkit.recipes.read import load_recipe
from quantkit.recipes.recipe import SWITCHES, Recipe
from quantkit.records import record
from quantkit.units import parse_size

STATISTICS, TORCH, TRANSFORMERS = ".safetensors", "torch", "transformers"


@record
class Request:
    """What the user wants made from what. Fields are the options of `quantkit convert`.

    Paths may be given for texts and texts for paths, a text for a list of one; `recipes` and `consumers` also as
    "a,b". Raises UsageError for what cannot be meant.
    """

    source: str
    recipes: tuple[str, ...] = ("q4_k_m",)
    imatrix: Path | None = None
    keep: tuple[str, ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    preserve: bool = False
    on_fallback: str = "report"
    split_max_size: str | None = None
    allow_requantize: bool = False
    pre: str | None = None
    offline: bool = False
    calib: tuple[str, ...] = ()
    samples: int | None = None
    seqlen: int | None = None
    device: str = "cpu"
    activations: str = "auto"
    threads: int | None = None
    method: str | None = None
    feedback_head: bool | None = None
    feedback_embedding: bool | None = None
    even_columns: bool | None = None
    refit_norms: bool | None = None
    consumers: tuple[str, ...] = ()
    tp: int = 1
    max_shard_size: str | None = None
    require_coverage: float | None = None
    target_size: str | None = None
    target_bpw: float | None = None
    max_kld: float | None = None
    sensitivity: Path | None = None
    card: bool = False
    adapters: tuple[str, ...] = ()
    allow_other_base: bool = False
    base: str | None = None
    mmproj: str = AUTO

    def __post_init__(self) -> None:
        coerce(self, COERCED)
        if not self.recipes:
            raise UsageError("no recipe", hint='for example "q4_k_m"; quantkit recipes lists them', key="recipes")

    def __repr__(self) -> str:
        given = [f.name for f in fields(self) if f.name == "source" or getattr(self, f.name) != f.default]
        return f"Request({', '.join(f'{name}={getattr(self, name)!r}' for name in given)})"

    def calibration(self) -> CalibrationSpec | None:
        """The text to run and how, None without any."""
        if not self.calib:
            return None
        return CalibrationSpec(
            data=self.calib,
            samples=self.samples or SAMPLES,
            seqlen=self.seqlen,
            device=self.device,
            threads=self.threads,
            activations=self.activations,
            offline=self.offline,
        )


COERCED: dict[str, Coercion] = {
    "source": given_text, "recipes": given_names, "imatrix": given_path, "keep": given_texts, "calib": given_data,
    "consumers": given_names, "split_max_size": given_size, "max_shard_size": given_size, "target_size": given_size,
    "sensitivity": given_path, "adapters": given_texts, "base": given_optional,
    "target_bpw": given_number, "max_kld": given_number,
}  # fmt: skip


# --- who uses what ----------------------------------------------------------------------------------------------------


@record
class Use:
    """An option, the recipes that make use of it, and what to say to the others.

    `some`: enough if one of the recipes does; text and weights of importance are given to all of them.
    """

    option: str
    users: Callable[[Recipe], bool]
    why: str
    some: bool = False

    @property
    def field(self) -> str:
        return self.option.removeprefix("--").replace("-", "_")


def _gguf(recipe: Recipe) -> bool:
    return recipe.mixture is not None


def _checkpoint(recipe: Recipe) -> bool:
    return recipe.mixture is None


def _model(recipe: Recipe) -> bool:
    return recipe.mixture is None or not recipe.mixture.adapter


def _rounds(recipe: Recipe) -> bool:
    return recipe.rounds


def reads_text(recipe: Recipe) -> bool:
    """Whether text changes what the recipe makes, so that --calib may be given to it."""
    return recipe.reads_importance or recipe.needs_calibration


def _feeds(recipe: Recipe) -> bool:
    """Whether it makes GGUF files with feedback."""
    return recipe.mixture is not None and needs_hessian(recipe.method.name)


def _covered(recipe: Recipe) -> bool:
    return recipe.needs_calibration


FEEDS = "is about GGUF files that are rounded with feedback: give --calib, and a recipe of such types"
OF_MODELS = (
    "--keep", "--imatrix", "--output-type", "--embedding-type", "--preserve", "--pure", "--pre", "--mmproj",
)  # fmt: skip
USES = (
    *(Use(option, _model, "is for models: matrices of an adapter have the recipe's type") for option in OF_MODELS),
    Use("--imatrix", _gguf, "is for GGUF files; give text with --calib to recipes that need any", some=True),
    Use("--output-type", _gguf, "is for GGUF files; write a rule into a recipe of your own"),
    Use("--embedding-type", _gguf, "is for GGUF files; embeddings of checkpoints stay as they are"),
    Use("--preserve", _gguf, "is for GGUF files: layers of checkpoints get the grid of their container"),
    Use("--pure", _gguf, "is for GGUF files; this recipe has no mixture"),
    Use("--split-max-size", _gguf, "is for GGUF files; use --max-shard-size"),
    Use("--pre", _gguf, "is for GGUF files; checkpoints keep the tokenizer of the source"),
    Use("--base", _gguf, "is for GGUF files, which name what a draft or an adapter belongs to"),
    Use("--mmproj", _gguf, "is for GGUF files; checkpoints keep their encoders as they are", some=True),
    *(Use(f"--{option}", _feeds, FEEDS, some=True) for option in SWITCHES.values()),
    Use("--max-shard-size", _checkpoint, "is for checkpoints; use --split-max-size"),
    Use("--method", _rounds, "has nothing to round: all types are floats"),
    Use("--calib", reads_text, "needs no calibration: leave --calib out, or choose another recipe", some=True),
    Use("--require-coverage", _covered, "looks at no text", some=True),
)  # fmt: skip
WITH_TEXT = ("--samples", "--seqlen", "--device", "--activations", "--require-coverage")
# Statistics have been through the model already, and hold neither gradients nor text.
OF_TEXT_ALONE = ("--samples", "--seqlen", "--activations", "--feedback-embedding", "--even-columns", "--refit-norms")
DEFAULTS = {f.name: None if f.default is MISSING else f.default for f in fields(Request)}


def require_used(request: Request, recipes: Sequence[Recipe]) -> None:
    """Raise UsageError for an option that a recipe would ignore, and for values that an option does not have."""
    _require_choices(request)
    for use in USES:
        if not _given(request, use.field):
            continue
        idle = [recipe.name for recipe in recipes if not use.users(recipe)]
        if idle and (not use.some or len(idle) == len(recipes)):
            raise UsageError(
                f"{', '.join(idle)}: {use.option} {use.why}", hint=f"leave {use.option} out", key=use.field
            )
    for option in WITH_TEXT:
        if _given(request, _field(option)) and not request.calib:
            message = f"{option} is about text to calibrate with"
            raise UsageError(message, hint="give --calib default, or FILE", key=_field(option))
    known = [name for name in request.calib if name.endswith(STATISTICS)]
    for option in OF_TEXT_ALONE:
        if known and _given(request, _field(option)) and getattr(request, _field(option)) is not False:
            message = f"{option} is about text, and {known[0]} holds statistics of text that was run before"
            raise UsageError(message, hint=f"leave {option} out", key=_field(option))
    if request.imatrix and request.calib:
        raise UsageError("--imatrix and --calib both give importance weights", hint="use one of them")
    if request.tp != 1 and not request.consumers:
        raise UsageError(f"--tp {request.tp}: for whom?", hint=f"for example --for vllm --tp {request.tp}", key="tp")


def only_used(request: Request, name: str, recipe: Recipe) -> Request:
    """The request for one of its recipes alone, `name` as it was typed and `recipe` as it was planned: without what
    only the others have a use for."""
    idle = {use.field for use in USES if use.some and not use.users(recipe)}
    if "calib" in idle:
        idle |= {_field(option) for option in WITH_TEXT}
    plain: dict[str, Any] = {field: DEFAULTS[field] for field in idle}
    return replace(request, recipes=(name,), **plain)


def language_model_alone(request: Request, command: str) -> Request:
    """The request without an encoder's file, for a command that measures language models. Raises UsageError where one
    was asked for. Checkpoints keep theirs in any case: without a recipe for GGUF files, nothing is left out."""
    require_choice("--mmproj", request.mmproj, ENCODER_CHOICES)
    if request.mmproj not in (AUTO, NONE):
        message = f"--mmproj {request.mmproj}: {command} measures language models"
        hint = "leave it out: convert with the recipe that is chosen writes the encoder beside the model"
        raise UsageError(message, key="mmproj", hint=hint)
    files = any(_gguf(load_recipe(name)) for name in request.recipes)
    return replace(request, mmproj=NONE if files else AUTO)


def require_checkable(engine: str | None, recipes: Sequence[Recipe], verify: bool) -> None:
    """Raise UsageError where convert cannot ask `engine` about what these recipes make."""
    if engine is None:
        return
    if engine in (TORCH, TRANSFORMERS):
        hint = f"afterwards: quantkit verify OUT --engine {engine}"
        raise UsageError(f"--engine {engine} looks at finished checkpoints", hint=hint, key="engine")
    if not verify:
        raise UsageError("--engine with --no-verify", hint="leave one of them out", key="engine")
    idle = [recipe.name for recipe in recipes if recipe.mixture is None]
    if idle:
        message = f"{', '.join(idle)}: {engine} loads GGUF files, this makes a checkpoint"
        raise UsageError(
            message, hint="leave --engine out; afterwards: quantkit verify OUT --engine torch", key="engine"
        )


def _require_choices(request: Request) -> None:
    given = (
        ("--on-fallback", request.on_fallback, ("report", "error")),
        ("--device", request.device.partition(":")[0], DEVICES),
        ("--activations", request.activations, ACTIVATIONS),
        ("--mmproj", request.mmproj, ENCODER_CHOICES),
    )
    for option, value, known in given:
        require_choice(option, value, known)
    for option, size in (("--split-max-size", request.split_max_size), ("--max-shard-size", request.max_shard_size)):
        if size is not None:
            parse_size(size, option)


def _given(request: Request, name: str) -> bool:
    return bool(getattr(request, name) != DEFAULTS[name])


def _field(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")
