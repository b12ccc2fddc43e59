"""From a matrix to tasks: which recipes share a command line, what each is called, and where it writes.

A model's recipes for GGUF files share one read of it where they are made without text, with the same options, into the
same folder: they are one task. Every other recipe is a task of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from quantkit.batch.faults import Faults
from quantkit.batch.matrix import Matrix, Model, RecipeEntry
from quantkit.batch.options import OF_OUTPUT, OPTIONS, Options, Value, arguments
from quantkit.batch.task import Task
from quantkit.errors import UsageError
from quantkit.recipes.read import load_recipe
from quantkit.recipes.recipe import Recipe
from quantkit.records import record
from quantkit.untrusted import shown

MAX_TASKS = 200_000
ALONE = ("calib", "target_size", "target_bpw", "max_kld")  # text goes through the model for each recipe by itself

# Why a recipe has no use for an option, None where it has one.
Idle = Callable[[str, Recipe], str | None]


@record
class Wish:
    """A task with what it is made of: the recipes as `--to` has them, read, and the options that they use."""

    task: Task
    source: str
    to: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    options: Options


@record
class _Cell:
    """A model with a recipe. `own` are options that are not those of the model as a whole."""

    entry: RecipeEntry
    recipe: Recipe
    options: dict[str, Value]
    own: tuple[str, ...]

    @property
    def is_checkpoint(self) -> bool:
        return self.recipe.mixture is None

    @property
    def alone(self) -> bool:
        mixture = self.recipe.mixture
        return mixture is None or mixture.adapter or any(key in self.options for key in ALONE)


def wishes_of(matrix: Matrix, idle: Idle, faults: Faults) -> list[Wish]:
    """All tasks of a matrix, models in the order of the file. What is wrong is added to `faults`."""
    there = [entry for entry in matrix.recipes if not entry.to.endswith(".toml") or Path(entry.to).exists()]
    loaded = {to: faults.tried(partial(load_recipe, to)) for to in dict.fromkeys(entry.to for entry in there)}
    recipes = {entry.name: loaded[entry.to] for entry in there}
    asked = _remembered(idle)
    found: list[Wish] = []
    used: set[tuple[str, str]] = set()
    for model in matrix.models:
        cells = [
            _cell(matrix, model, (entry, known), (asked, used, faults))
            for entry in matrix.recipes_of(model)
            if (known := recipes.get(entry.name)) is not None
        ]
        found += _tasks(matrix, model, cells)
        if len(found) > MAX_TASKS:
            faults.add(UsageError(f"more than {MAX_TASKS:,} tasks", hint="split the matrix", path=str(matrix.path)))
            break
    if not found and not faults.found:
        faults.add(UsageError(f"{shown(matrix.path)}: everything is excluded", path=str(matrix.path), key="exclude"))
    _require_use(matrix, used, faults)
    return found


Asked = Callable[[str, str, Recipe], str | None]
Shared = tuple[Asked, set[tuple[str, str]], Faults]


def _remembered(idle: Idle) -> Asked:
    """The same, asked once for each option and recipe by its name."""
    known: dict[tuple[str, str], str | None] = {}

    def ask(key: str, to: str, recipe: Recipe) -> str | None:
        if (key, to) not in known:
            known[key, to] = idle(key, recipe)
        return known[key, to]

    return ask


def _cell(matrix: Matrix, model: Model, made: tuple[RecipeEntry, Recipe], shared: Shared) -> _Cell:
    """The options of one pair. Defaults that a recipe has no use for are for others; those of its own must be used."""
    entry, recipe = made
    idle, used, faults = shared
    special: dict[str, Value] = {}
    for choice in matrix.overrides:
        if choice.fits(model.name, entry.name):
            special |= choice.options
    options = {**matrix.defaults, **entry.options, **model.options, **special}
    kept = {}
    for key, value in options.items():
        why = idle(key, entry.to, recipe) if key not in OF_OUTPUT and key != "offline" else None
        if why is None and key == "engine" and recipe.mixture is None:
            why = "loads GGUF files; afterwards: quantkit verify OUT --engine torch"
        if why is None:
            kept[key] = value
            used |= {("batch", key), (model.name, key)}
        elif key in entry.options or key in special:
            what = f"{shown(matrix.path)}: {entry.name}: {OPTIONS[key].name} {why}"
            faults.add(UsageError(what, path=str(matrix.path), key=key, hint=f"leave {key} out of it"))
    if "calib" not in kept:
        for key in ("samples", "seqlen", "activations", "device"):
            kept.pop(key, None)
    if "gate" not in kept:
        kept.pop("eval_data", None)
    own = tuple(sorted(key for key in kept if key in entry.options or key in special))
    return _Cell(entry, recipe, kept, own)


def _require_use(matrix: Matrix, used: set[tuple[str, str]], faults: Faults) -> None:
    """An option that no recipe has a use for is a mistake."""
    levels = [("batch", "batch", matrix.defaults), *((m.name, m.name, m.options) for m in matrix.models)]
    for level, where, options in levels:
        for key in options:
            if (level, key) not in used and not faults.found:
                what = f"{shown(matrix.path)}: {where}.{key}: none of its recipes has a use for {OPTIONS[key].name}"
                faults.add(UsageError(what, path=str(matrix.path), key=key, hint="leave it out"))


def _tasks(matrix: Matrix, model: Model, cells: list[_Cell]) -> Iterator[Wish]:
    shared: dict[tuple[object, ...], list[_Cell]] = {}
    for number, cell in enumerate(cells):
        key = (number,) if cell.alone else (cell.entry.folder, tuple(sorted(cell.options.items())))
        shared.setdefault(key, []).append(cell)
    for group in shared.values():
        first = group[0]
        word = first.entry.name if first.alone else _shared_word(first)
        yield _wish(matrix, model, f"{slug(model.name)}.{slug(word)}", group)


def _shared_word(cell: _Cell) -> str:
    """What recipes that share a read are called together: the same whatever recipes come to the matrix later."""
    if not cell.own and cell.entry.folder is None:
        return "gguf"
    said = repr((cell.entry.folder, [(key, cell.options[key]) for key in cell.own]))
    return f"gguf-{hashlib.sha256(said.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"


def _wish(matrix: Matrix, model: Model, name: str, group: list[_Cell]) -> Wish:
    first = group[0]
    out = matrix.out / model.name
    folder = first.entry.folder or (first.entry.name if first.is_checkpoint else None)
    out = out / folder if folder else out
    to = tuple(dict.fromkeys(cell.entry.to for cell in group))
    argv = ("convert", model.source, *(f"--to={each}" for each in to), f"--out={out}", *arguments(first.options))
    recipes = tuple({cell.entry.to: cell.recipe for cell in group}.values())
    task = Task(name, model.name, tuple(cell.entry.name for cell in group), argv, Path(out))
    return Wish(task, model.source, to, recipes, first.options)


def slug(name: str) -> str:
    """A name as a part of an id: small letters, digits, and . _ + - between them."""
    return re.sub(r"[^a-z0-9._+-]+", "-", name.lower()).strip("-") or "x"
