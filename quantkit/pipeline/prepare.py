"""From a request to plans: open the source, describe it, read the recipes, plan. No weight is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, NotWritableError, QuantkitError, UsageError
from quantkit.events import Event, Sink, Warned, ignore
from quantkit.families.describe import describe
from quantkit.families.describe_gguf import describe_gguf
from quantkit.families.model import Model
from quantkit.families.rows import Family
from quantkit.families.tokenizer import ReadFile, Tokenizer, read_tokenizer
from quantkit.formats.imatrix import read_imatrix
from quantkit.plan import Plan, PlanOptions, parse_split_size, plan
from quantkit.recipe import Recipe, load_recipe
from quantkit.report.manifest import FileRecord
from quantkit.rules import override
from quantkit.source import Checkpoint, open_source
from quantkit.storage import hash_file
from quantkit.untrusted import require_path


@dataclass(frozen=True)
class Request:
    """What the user wants made from what. Fields are the options of `quantkit convert`."""

    source: str
    recipes: tuple[str, ...] = ("q4_k_m",)
    imatrix: Path | None = None
    keep: tuple[str, ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    on_fallback: str = "report"
    split_max_size: str | None = None
    allow_requantize: bool = False
    pre: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class Prepared:
    """An open source and one plan per recipe, in the order asked for."""

    checkpoint: Checkpoint
    model: Model
    recipes: tuple[Recipe, ...]
    plans: tuple[Plan, ...]

    @cached_property
    def source_stat(self) -> str:
        """What the source files look like from outside: names, sizes and modification times."""
        stats = [(f.name, Path(f.path).stat()) for f in self.checkpoint.files()]
        return "\n".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats)

    def job_digest(self, chosen: Plan) -> str:
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
    if request.on_fallback not in {"report", "error"}:
        raise UsageError(f'--on-fallback "{request.on_fallback}"', hint='use "report" or "error"')
    recipes = tuple(_recipe(name, request) for name in request.recipes)
    if stem and len(recipes) > 1:
        raise UsageError(f"{len(recipes)} recipes cannot share one file name", hint="give a folder with -o")
    split = parse_split_size(request.split_max_size) if request.split_max_size else None
    imatrix = read_imatrix(request.imatrix) if request.imatrix else None
    said: set[str] = set()  # what the source warns of when it is opened, its description says again for the manifest

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            said.add(event.code)
        emit(event)

    checkpoint = open_source(request.source, offline=request.offline, emit=hear)
    try:
        model = describe_source(checkpoint, request.pre)
        options = PlanOptions(stem, split, request.allow_requantize)
        plans = tuple(plan(model, checkpoint, recipe, options, imatrix=imatrix) for recipe in recipes)
    except QuantkitError:
        checkpoint.close()
        raise
    for code, message in dict.fromkeys(warning for p in plans for warning in p.warnings):
        if code not in said:
            emit(Warned(code, message))
    return Prepared(checkpoint, model, recipes, plans)


def describe_source(checkpoint: Checkpoint, pre: str | None = None) -> Model:
    """The model in a checkpoint: through its family, or as a GGUF describes itself."""
    if checkpoint.kind == "gguf":
        return describe_gguf(checkpoint.tensors(), checkpoint.metadata)

    def tokenizer(read_file: ReadFile, config: Mapping[str, Any], family: Family, chosen: str | None) -> Tokenizer:
        return read_tokenizer(read_file, config, family=family.name, pre=chosen, names=checkpoint.file_names())

    return describe(
        checkpoint.tensors(),
        checkpoint.config,
        checkpoint.read_file,
        name=checkpoint.name,
        tokenizer=tokenizer,
        pre=pre,
    )


def _recipe(name: str, request: Request) -> Recipe:
    return override(
        load_recipe(name),
        keep=request.keep,
        output_type=request.output_type,
        embedding_type=request.embedding_type,
        pure=request.pure,
        on_fallback="error" if request.on_fallback == "error" else None,
    )


def output_paths(plans: Sequence[Plan], out: Path) -> list[tuple[Path, ...]]:
    """Final paths of each plan's files under -o, a folder or a file name ending in .gguf."""
    folder = out.parent if out.suffix == ".gguf" else out
    paths = [tuple(folder / file.name for file in p.files) for p in plans]
    names = [path for group in paths for path in group]
    if len(set(names)) < len(names):
        raise UsageError("two recipes would write the same file", hint="give each recipe file its own title")
    require_writable_names(names)
    return paths


def require_writable_names(paths: Sequence[Path]) -> None:
    """Raise NotWritableError for a path that the system does not even look up, such as one with too long a name."""
    for path in paths:
        try:
            require_path(path)
        except InputError as error:
            hint = "choose another output with -o"
            raise NotWritableError(f"cannot write: {error.message}", path=error.path, hint=hint) from error


def output_stem(out: Path) -> str | None:
    """The file name without ".gguf" when -o names a file, else None."""
    return out.stem if out.suffix == ".gguf" else None
