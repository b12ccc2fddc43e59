"""From a request to plans: open the source, describe it, read the recipes, plan. No weight is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.calibration.inputs import Calibration, open_calibration
from quantkit.consumers import parse_consumers
from quantkit.errors import QuantkitError, UsageError
from quantkit.events import Event, Sink, Warned, ignore
from quantkit.families.model import Model
from quantkit.formats.gguf.imatrix import read_imatrix
from quantkit.pipeline.consumers import require_loadable
from quantkit.pipeline.places import require_places
from quantkit.pipeline.request import Request, require_used
from quantkit.plan.base import PlanOptions
from quantkit.plan.checkpoint import DEFAULT_SHARD_BYTES, AnyPlan, ServerOptions, ServerPlan, plan_server
from quantkit.plan.describe import describe_source
from quantkit.plan.filenames import file_stem
from quantkit.plan.gguf import plan
from quantkit.quality.checks.predictions import Reference
from quantkit.recipes.read import Recipe, ServerRecipe, load_recipe
from quantkit.recipes.rules import OnFallback, override
from quantkit.recipes.servers import override_server
from quantkit.report.manifest import FileRecord
from quantkit.source import Checkpoint, open_source
from quantkit.source.identity import source_stat
from quantkit.storage import hash_file
from quantkit.units import parse_size


@dataclass(frozen=True)
class Prepared:
    """An open source and one plan per recipe, in the order asked for.

    `model` is None where no GGUF file was asked for, `calibration` where no text was given. `inputs` are all files that
    are read: no output may be one of them.
    """

    checkpoint: Checkpoint
    model: Model | None
    recipes: tuple[Recipe | ServerRecipe, ...]
    plans: tuple[AnyPlan, ...]
    calibration: Calibration | None = None
    require_coverage: float | None = None
    inputs: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        return f"Prepared({self.checkpoint.name!r}, {', '.join(map(repr, self.plans))})"

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *exc: object) -> None:
        self.checkpoint.close()

    @cached_property
    def reference(self) -> Reference:
        """What an engine's predictions are compared with: the source runs once for all artifacts."""
        assert self.model is not None
        return Reference(self.checkpoint, self.model)

    @cached_property
    def source_stat(self) -> str:
        """What the source files look like from outside."""
        return source_stat(self.checkpoint)

    def job_digest(self, chosen: AnyPlan) -> str:
        """Identity of the work at hand: the plan, and the source as it is now."""
        return hashlib.sha256(f"{chosen.digest}\n{self.source_stat}".encode()).hexdigest()

    def source_facts(self) -> dict[str, Any]:
        """The manifest's word on the source."""
        return {
            "kind": self.checkpoint.kind,
            "name": self.checkpoint.name,
            "repo": self.checkpoint.repo,
            "commit": self.checkpoint.commit,
        }

    @property
    def calibration_tokens(self) -> int:
        return sum(record.tokens for record in self.calibration.records) if self.calibration else 0

    def calibration_facts(self) -> dict[str, Any]:
        """The manifest's word on the text or the statistics."""
        return {"calibration": self.calibration.facts()} if self.calibration else {}

    @cached_property
    def source_files(self) -> tuple[FileRecord, ...]:
        """All source files with hashes. Reads every byte of them."""
        return self.records({f.name: hash_file(Path(f.path)) for f in self.checkpoint.files()})

    def records(self, hashes: Mapping[str, str]) -> tuple[FileRecord, ...]:
        """Known hashes of the source files as records, by name."""
        return tuple(
            FileRecord(f.name, f.nbytes, hashes[f.name])
            for f in sorted(self.checkpoint.files(), key=lambda file: file.name)
        )


def prepare(request: Request, stem: str | None = None, emit: Sink = ignore) -> Prepared:
    """Plan a request. `stem` names the output files (without ".gguf"), by default after source and recipe.

    Raises what is wrong with the recipes first, then with the source: nothing is opened for a typo.
    """
    recipes = tuple(_overridden(load_recipe(name), request) for name in request.recipes)
    require_used(request, recipes)
    consumers = parse_consumers(request.consumers)
    if stem and len(recipes) > 1:
        raise UsageError(f"{len(recipes)} recipes cannot share one file name", hint="give a folder with -o")
    said: set[str] = set()  # what the source warns of when it is opened, its description says again for the manifest

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            said.add(event.code)
        emit(event)

    checkpoint = open_source(request.source, offline=request.offline, emit=hear)
    try:
        prepared = _plan_all(request, checkpoint, recipes, stem, emit)
        require_loadable(prepared.plans, consumers, request.tp)
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
    recipes: tuple[Recipe | ServerRecipe, ...],
    stem: str | None,
    emit: Sink,
) -> Prepared:
    """Plan every recipe. Text is turned into samples, and run where a GGUF file wants importance weights of it."""
    split = parse_size(request.split_max_size, "--split-max-size") if request.split_max_size else None
    calibration = _calibration(request, checkpoint, recipes, emit)
    gguf = [recipe for recipe in recipes if isinstance(recipe, Recipe)]
    model = describe_source(checkpoint, request.pre) if gguf else None
    imatrix = read_imatrix(request.imatrix) if request.imatrix else None
    if model is not None and calibration is not None and imatrix is None:
        imatrix = calibration.importance(checkpoint, model, emit)
    digest = calibration.digest if calibration else ""
    plans: list[AnyPlan] = []
    for recipe in recipes:
        if isinstance(recipe, Recipe):
            assert model is not None
            options = PlanOptions(stem, split, request.allow_requantize)
            plans.append(plan(model, checkpoint, recipe, options, imatrix=imatrix))
        else:
            used = digest if recipe.needs_calibration else ""
            plans.append(plan_server(checkpoint, recipe, _server_options(request), calibration=used))
    inputs = _inputs(request, checkpoint)
    return Prepared(checkpoint, model, recipes, tuple(plans), calibration, request.require_coverage, inputs)


def _inputs(request: Request, checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The files of the source, and those that the options name. Names of recipes lead to no file: no harm in that."""
    named = [*request.calib, *request.recipes, *([str(request.imatrix)] if request.imatrix else [])]
    return (*(Path(file.path) for file in checkpoint.files()), *map(Path, named))


def _server_options(request: Request) -> ServerOptions:
    size = request.max_shard_size
    shard_bytes = parse_size(size, "--max-shard-size") if size else DEFAULT_SHARD_BYTES
    return ServerOptions(shard_bytes, "tensorrt-llm" in parse_consumers(request.consumers), request.allow_requantize)


def _calibration(
    request: Request, checkpoint: Checkpoint, recipes: Sequence[Recipe | ServerRecipe], emit: Sink
) -> Calibration | None:
    """The text or statistics that the request means. Raises UsageError where no recipe looks at them."""
    spec = request.calibration()
    if spec is None:
        return None
    return open_calibration(checkpoint, spec, emit)


def _overridden(recipe: Recipe | ServerRecipe, request: Request) -> Recipe | ServerRecipe:
    """The recipe with the options of this run."""
    on_fallback: OnFallback | None = "error" if request.on_fallback == "error" else None
    if isinstance(recipe, ServerRecipe):
        return override_server(recipe, keep=request.keep, method=request.method, on_fallback=on_fallback)
    return override(
        recipe,
        keep=request.keep,
        output_type=request.output_type,
        embedding_type=request.embedding_type,
        pure=request.pure,
        on_fallback=on_fallback,
    )


def output_paths(prepared: Prepared, out: Path) -> list[tuple[Path, ...]]:
    """Final paths of each plan's files under -o: a folder, or a file name ending in .gguf.

    A single checkpoint is written into the folder itself; of several artifacts each checkpoint gets a folder of its
    own in there.
    """
    folder = out.parent if out.suffix == ".gguf" else out
    paths = []
    for recipe, chosen in zip(prepared.recipes, prepared.plans, strict=True):
        within = folder
        if isinstance(chosen, ServerPlan):
            if out.suffix == ".gguf":
                raise UsageError(f"{recipe.name} makes a folder, not {out.name}", hint="give a folder with -o")
            if len(prepared.plans) > 1:
                within = folder / f"{file_stem(prepared.checkpoint.name)}-{recipe.title}"
        paths.append(tuple(within / file.name for file in chosen.files))
    names = [path for group in paths for path in group]
    if len(set(names)) < len(names):
        raise UsageError("two recipes would write the same file", hint="give each recipe file its own title")
    require_places(paths)
    return paths


def output_stem(out: Path) -> str | None:
    """The file name without ".gguf" when -o names a file, else None."""
    return out.stem if out.suffix == ".gguf" else None
