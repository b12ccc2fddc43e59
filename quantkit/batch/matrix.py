"""A matrix of models and recipes: a TOML file, read with all its faults at once.

Precedence of options, the later wins: [batch], the recipe, the model, [[overrides]]. Paths are relative to the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from quantkit.batch.faults import Faults
from quantkit.batch.options import OPTIONS, SHIPPED_TEXT, WANTED, Options, Value, value_of
from quantkit.batch.slurm_script import require_options
from quantkit.errors import InputError, UsageError, did_you_mean
from quantkit.recipes.scan import TooComplexError, require_simple
from quantkit.records import record
from quantkit.source.spec import names_hub
from quantkit.untrusted import read_bounded, shown

SCHEMA = 1
MAX_BYTES = 16 << 20
MAX_ENTRIES, MAX_VALUES = 100_000, 1_000_000
NUL = re.compile(r"\\(x00|u0000|U00000000)")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,95}")
HINT = "docs/batch.md lists the keys of a matrix; quantkit schemes --json-schema batch-matrix has them for editors"
TOP = ("schema", "batch", "models", "recipes", "exclude", "overrides", "slurm")
OF_MODEL = ("name", "source", "extends", "template", "recipes")
OF_RECIPE = ("name", "to", "extends", "template", "folder")


@record
class Model:
    """A source to convert. `recipes` are those of the matrix that it is made with, None for all."""

    name: str
    source: str
    options: Options
    recipes: tuple[str, ...] | None = None


@record
class RecipeEntry:
    """A recipe with options, under a name. `folder` is where its files go in the folder of the model."""

    name: str
    to: str
    options: Options
    folder: str | None = None


@record
class Choice:
    """Models and recipes by the globs that their names fit, and options for what both fit."""

    model: str
    recipe: str
    options: Options = field(default_factory=dict)

    def fits(self, model: str, recipe: str) -> bool:
        return fnmatchcase(model, self.model) and fnmatchcase(recipe, self.recipe)


@record
class Matrix:
    """A matrix as it was read: every name is resolved, every path absolute."""

    path: Path
    out: Path
    defaults: Options
    models: tuple[Model, ...]
    recipes: tuple[RecipeEntry, ...]
    exclude: tuple[Choice, ...] = ()
    overrides: tuple[Choice, ...] = ()
    slurm: tuple[tuple[str, str], ...] = ()

    def recipes_of(self, model: Model) -> Iterator[RecipeEntry]:
        """What a model is made with, in the order of the file."""
        for recipe in self.recipes:
            if model.recipes is not None and recipe.name not in model.recipes:
                continue
            if not any(choice.fits(model.name, recipe.name) for choice in self.exclude):
                yield recipe


def read_matrix(path: Path, faults: Faults | None = None) -> Matrix:
    """Read a matrix. What is wrong is added to `faults` where they are given, else raised, all of it at once.

    Raises UsageError for a file that is no TOML of this kind, InputError for one that cannot be read.
    """
    found = faults if faults is not None else Faults()
    matrix = _Reader(path, found).matrix(_parsed(path))
    if faults is None:
        found.require_none()
    return matrix


def _parsed(path: Path) -> dict[str, Any]:
    raw = read_bounded(path, MAX_BYTES)
    where = shown(path)
    try:
        text = raw.decode()
        require_simple(text, MAX_VALUES)
        body = tomllib.loads(text)
    except (TooComplexError, ValueError, RecursionError) as error:
        what = f"{where}: not valid TOML: {shown(str(error))}"
        raise UsageError(what, path=str(path), hint=HINT) from error
    if NUL.search(text) and any("\0" in each for each in _texts(body)):  # no argument and no path can have one
        raise UsageError(f"{where}: a string holds the character NUL", path=str(path), hint="take it out")
    return body


def _texts(value: object) -> Iterator[str]:
    """All strings below a value."""
    if isinstance(value, str):
        yield value
    for each in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(each)


@dataclass
class _Reader:
    path: Path
    faults: Faults

    @property
    def base(self) -> Path:
        return Path(os.path.abspath(self.path)).parent  # noqa: PTH100 - links stay: other machines see them, too

    def wrong(self, where: str, problem: str, hint: str = HINT) -> None:
        what = f"{shown(self.path)}: {shown(where)}: {problem}"
        self.faults.add(UsageError(what, path=str(self.path), key=where, hint=hint))

    def matrix(self, body: dict[str, Any]) -> Matrix:
        self.only("", body, TOP)
        if body.get("schema", SCHEMA) != SCHEMA or type(body.get("schema", SCHEMA)) is not int:
            self.wrong("schema", f"is {shown(repr(body['schema']), 20)}, this version reads {SCHEMA}")
        batch = self.table("batch", body.get("batch", {}))
        self.only("batch", batch, ("out", *OPTIONS))
        out = batch.get("out", "out")
        if not isinstance(out, str) or not out:
            self.wrong("batch.out", "expected a string: the folder of the results")
            out = "out"
        recipes = [
            {"to": each} if isinstance(each, str) else self.table(f"recipes[{n}]", each)
            for n, each in enumerate(self.entries("recipes", body.get("recipes", [])))
        ]
        models = [
            {"source": each} if isinstance(each, str) else self.table(f"models[{n}]", each)
            for n, each in enumerate(self.entries("models", body.get("models", [])))
        ]
        entries = self.resolved("recipes", recipes, self.recipe, OF_RECIPE)
        names = [entry.name for entry in entries]
        sources = self.resolved("models", models, partial(self.model, known=names), OF_MODEL)
        for kind, some in (("models", sources), ("recipes", entries)):
            if not some:
                self.wrong(kind, "there are none")
        return Matrix(
            path=Path(os.path.abspath(self.path)),  # noqa: PTH100
            out=self.place(out),
            defaults=self.options("batch", batch),
            models=tuple(sources),
            recipes=tuple(entries),
            exclude=self.choices("exclude", body, (sources, entries)),
            overrides=self.choices("overrides", body, (sources, entries)),
            slurm=self.slurm(body.get("slurm", {})),
        )

    def slurm(self, given: object) -> tuple[tuple[str, str], ...]:
        """Options of sbatch: text, or whole numbers."""
        found = []
        for key, value in self.table("slurm", given).items():
            if type(value) is not int and not isinstance(value, str):
                self.wrong(f"slurm.{key}", "expected a string or an integer")
                continue
            self.faults.tried(lambda option=(key, str(value)): require_options(dict([option])))  # type: ignore[misc]
            found.append((key, str(value)))
        return tuple(found)

    # --- tables -------------------------------------------------------------------------------------------------------

    def table(self, where: str, given: object) -> dict[str, Any]:
        if isinstance(given, dict):
            return given
        self.wrong(where, f"expected a table, found {shown(repr(given), 40)}")
        return {}

    def entries(self, where: str, given: object) -> list[Any]:
        if isinstance(given, list) and len(given) <= MAX_ENTRIES:
            return given
        self.wrong(where, f"expected an array of at most {MAX_ENTRIES:,} entries")
        return []

    def only(self, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                near = did_you_mean(key, known) or did_you_mean(key.replace("-", "_"), known)
                self.wrong(f"{where}.{key}".lstrip("."), f"unknown key{near}", f"known keys: {', '.join(known)}")

    def text(self, where: str, table: Mapping[str, Any], key: str) -> str | None:
        value = table.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        self.wrong(f"{where}.{key}", f"expected a string, found {shown(repr(value), 40)}")
        return None

    def options(self, where: str, table: Mapping[str, Any]) -> dict[str, Value]:
        """The options of convert that a table gives, paths absolute. A file that is not there is a fault."""
        found: dict[str, Value] = {}
        for key, option in OPTIONS.items():
            if key not in table:
                continue
            value = value_of(option, table[key])
            if value is None:
                what = f"expected {WANTED[option.kind]}, found {shown(repr(table[key]), 40)}"
                self.wrong(f"{where}.{key}", what)
            elif option.files:
                found[key] = self.files(f"{where}.{key}", key, value)
            else:
                found[key] = value
        return found

    def files(self, where: str, key: str, value: Value) -> Value:
        if isinstance(value, tuple):
            return tuple(self.file(where, key, one) for one in value)
        return self.file(where, key, str(value))

    def file(self, where: str, key: str, name: str) -> str:
        """A path of the matrix's folder. Names of the Hub and of the shipped text are no paths."""
        if names_hub(name) or (key == "calib" and name == SHIPPED_TEXT):
            return name
        path = self.place(name)
        if not _exists(path):
            if key in ("adapter", "base") and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
                return name  # org/name
            what = f"{shown(self.path)}: {where}: {shown(name)} does not exist"
            hint = f"it would be {shown(path)}: paths are relative to the matrix"
            self.faults.add(InputError(what, path=str(path), key=where, hint=hint))
        return str(path)

    def place(self, name: str) -> Path:
        return Path(os.path.abspath(self.base / os.path.expanduser(name)))  # noqa: PTH100, PTH111 - unknown users

    # --- entries ------------------------------------------------------------------------------------------------------

    def resolved(
        self,
        kind: str,
        tables: list[dict[str, Any]],
        make: Callable[[str, dict[str, Any]], Any],
        own: tuple[str, ...],
    ) -> list[Any]:
        """Entries with what they extend merged into them. Those that are templates are left out."""
        named: dict[str, tuple[str, dict[str, Any]]] = {}
        taken: set[str] = set()
        for number, table in enumerate(tables):
            where = f"{kind}[{number}]"
            self.only(where, table, (*own, *OPTIONS))
            name = self.name_of(where, table)
            if name.lower() in taken:
                self.wrong(where, f'"{shown(name)}" is there already', "give each a name of its own: name = ...")
            taken.add(name.lower())
            named.setdefault(name, (where, table))
        made = []
        for name, (where, table) in named.items():
            whole = self.extended(where, name, named)
            if whole is None or table.get("template") is True:
                continue
            entry = make(where, {**whole, "name": name})
            if entry is not None:
                made.append(entry)
        return made

    def name_of(self, where: str, table: Mapping[str, Any]) -> str:
        given = self.text(where, table, "name")
        said = given or self.text(where, table, "to") or self.text(where, table, "source") or ""
        if given is None:
            said = re.sub(r"\.(toml|gguf)$", "", re.split(r"[/:]", said.rstrip("/").partition("@")[0])[-1])
        if not NAME.fullmatch(said):
            what = f'"{shown(said)}" is no name: letters, digits, . _ + and -' if said else "has no name"
            self.wrong(f"{where}.name", what, 'for example name = "my-model"')
            return where
        return said

    def extended(self, where: str, name: str, named: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Any] | None:
        """The table of an entry over those that it extends; None for a circle, or one that is not there."""
        chain = [name]
        while True:
            table = named[chain[-1]][1]
            parent = self.text(where, table, "extends")
            if parent is None:
                break
            if parent in chain:
                self.wrong(f"{where}.extends", f"a circle: {' -> '.join([*chain, parent])}", "break it somewhere")
                return None
            if parent not in named:
                self.wrong(f"{where}.extends", f'unknown "{shown(parent)}"{did_you_mean(parent, named)}')
                return None
            chain.append(parent)
        whole: dict[str, Any] = {}
        for each in reversed(chain):
            whole |= named[each][1]
        return {key: value for key, value in whole.items() if key not in ("extends", "template", "name")}

    def recipe(self, where: str, table: dict[str, Any]) -> RecipeEntry | None:
        to = self.text(where, table, "to") or table["name"]
        folder = self.text(where, table, "folder")
        if folder is not None and not NAME.fullmatch(folder):
            self.wrong(f"{where}.folder", f'"{shown(folder)}" is no name of a folder')
        if to.endswith(".toml"):
            to = self.file(f"{where}.to", "to", to)
        return RecipeEntry(table["name"], to, self.options(where, table), folder)

    def model(self, where: str, table: dict[str, Any], known: Sequence[str]) -> Model | None:
        source = self.text(where, table, "source")
        if source is None:
            self.wrong(f"{where}.source", "is missing", 'for example source = "hf://org/name", or a folder')
            return None
        if not names_hub(source):
            source = self.source(where, source)
        recipes = table.get("recipes")
        if recipes is not None:
            if not isinstance(recipes, list) or not all(isinstance(each, str) for each in recipes):
                self.wrong(f"{where}.recipes", "expected an array of names of recipes")
                recipes = None
            for each in recipes or ():
                if each not in known:
                    self.wrong(f"{where}.recipes", f'unknown "{shown(each)}"{did_you_mean(each, known)}')
        return Model(table["name"], source, self.options(where, table), None if recipes is None else tuple(recipes))

    def source(self, where: str, source: str) -> str:
        """A path that is there, else what may be org/name of the Hub, else a fault."""
        path = self.place(source)
        if _exists(path):
            return str(path)
        if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", source) and not source.endswith((".gguf", "/")):
            return source
        what = f"{shown(self.path)}: {where}.source: {shown(source)} does not exist"
        hint = f"it would be {shown(path)}: paths are relative to the matrix; hf://org/name is a model of the Hub"
        self.faults.add(InputError(what, path=str(path), key=f"{where}.source", hint=hint))
        return str(path)

    def choices(
        self, kind: str, body: Mapping[str, Any], named: tuple[Sequence[Model], Sequence[RecipeEntry]]
    ) -> tuple[Choice, ...]:
        found = []
        models, recipes = ([each.name for each in some] for some in named)
        for number, given in enumerate(self.entries(kind, body.get(kind, []))):
            where = f"{kind}[{number}]"
            table = self.table(where, given)
            self.only(where, table, ("model", "recipe", *(OPTIONS if kind == "overrides" else ())))
            model, recipe = (self.text(where, table, key) or "*" for key in ("model", "recipe"))
            for key, glob, names in (("model", model, models), ("recipe", recipe, recipes)):
                if names and not any(fnmatchcase(name, glob) for name in names):
                    self.wrong(f"{where}.{key}", f'"{shown(glob)}" fits none{did_you_mean(glob, names)}')
            options = self.options(where, table) if kind == "overrides" else {}
            found.append(Choice(model, recipe, options))
        return tuple(found)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
