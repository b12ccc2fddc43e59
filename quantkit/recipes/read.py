"""Recipes as TOML: where the shipped ones lie, and how a file is read into the data of `quantkit.recipes.rules`.

Recipes may come from strangers: they are data only. Names are matched with globs (no regular expressions, so no
catastrophic backtracking), files are bounded, and shared rules are found by name inside the package.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

from quantkit.errors import InputError, RecipeError, did_you_mean, nearest
from quantkit.families.roles import Role
from quantkit.qtypes import base
from quantkit.recipes.rules import LAYER_SELECTORS, Layers, Never, OnFallback, Recipe, Rule, When, is_layer_selector
from quantkit.recipes.scan import TooComplexError, require_simple
from quantkit.recipes.servers import ServerRecipe, read_server_recipe
from quantkit.recipes.table import EXAMPLE, Table
from quantkit.untrusted import read_bounded, shown

SCHEMA = 1
MAX_RECIPE_BYTES = 1 << 18
MAX_RULES = 512

RECIPE_KEYS = (
    "schema", "title", "summary", "aliases", "file_type", "strict", "on_fallback", "needs_imatrix", "default", "rule",
)  # fmt: skip
RULE_KEYS = ("qtype", "roles", "names", "layers", "stacked", "rows_fit", "was", "when", "why")
GROUP_KEYS = ("schema", "strict", "rule")

__all__ = ["Recipe", "ServerRecipe", "load_recipe", "recipe_names", "recipe_text", "recipes_folder"]


def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside the installed package, or beside it in a source tree."""
    inside = Path(__file__).parent
    return inside if (inside / "shared").is_dir() else inside.parents[1] / "recipes"


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes, in alphabetical order."""
    return tuple(sorted(p.stem for p in recipes_folder().glob("*.toml")))


def gguf_recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes for GGUF files; the others are for checkpoints."""
    return tuple(name for name in recipe_names() if "container" not in _read_shipped(f"{name}.toml").values)


def load_recipe(name_or_path: str) -> Recipe | ServerRecipe:
    """Read a shipped recipe by name or alias (any case), or a recipe file by a path that ends in .toml.

    Raises RecipeError for an unknown name, with the nearest one, and for anything wrong in the file, with its key.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        return _recipe(_read(path, shown(path)), shown(path.stem))
    wanted = name_or_path.lower()
    if wanted not in recipe_names():
        wanted = _by_alias().get(wanted, wanted)
    if wanted not in recipe_names():
        suggestion = did_you_mean(wanted, [*recipe_names(), *_by_alias()])
        near = ", ".join(nearest(wanted, [*recipe_names(), *_by_alias()]))
        hint = f"nearest: {near}; quantkit recipes lists all; or give a path to a .toml file"
        raise RecipeError(f'unknown recipe "{shown(name_or_path)}"{suggestion}', hint=hint, key=name_or_path)
    return _recipe(_read_shipped(f"{wanted}.toml"), wanted)


def recipe_text(name: str) -> str:
    """The TOML of a shipped recipe, by name or alias. Raises RecipeError for an unknown name."""
    return (recipes_folder() / f"{load_recipe(name).name}.toml").read_text(encoding="utf-8")


def _by_alias() -> dict[str, str]:
    return {alias: name for name in recipe_names() for alias in _read_shipped(f"{name}.toml").strings("aliases")}


def _read_shipped(name: str) -> Table:
    return _read(recipes_folder() / name, f"recipes/{name}")


def _read(path: Path, label: str) -> Table:
    """Parse a recipe file, bounded. `label` is what messages call it."""
    try:
        raw = read_bounded(path, MAX_RECIPE_BYTES)
    except InputError as error:
        raise RecipeError(f"recipe: {error.message}", path=label, hint=error.hint) from error
    try:
        text = raw.decode()
        require_simple(text)
        table = Table(label, "", tomllib.loads(text))
    except TooComplexError as error:
        raise RecipeError(f"{label}: {error}", path=label, hint=EXAMPLE) from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{label}: not valid TOML: {shown(str(error))}", path=label, hint=EXAMPLE) from error
    if table.need("schema", int) != SCHEMA:
        raise table.error("schema", f"is {shown(str(table.values['schema']), 20)}, this version reads {SCHEMA}")
    return table


def _recipe(table: Table, name: str) -> Recipe | ServerRecipe:
    title = table.get("title", str) or name.upper()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", title):
        raise table.error("title", f'"{shown(title)}" cannot be part of a file name', "use letters, digits, _ - and .")
    return read_server_recipe(table, name, title) if "container" in table.values else _gguf_recipe(table, name, title)


def _gguf_recipe(table: Table, name: str, title: str) -> Recipe:
    table.only(*RECIPE_KEYS)
    default = table.table("default")
    default.only("qtype")
    qtype = default.one_of("qtype", base.names())
    if qtype is None:
        raise default.error("qtype", "is missing", hint='for example [default] qtype = "q4_k"')
    on_fallback: OnFallback = "error" if table.one_of("on_fallback", get_args(OnFallback)) == "error" else "report"
    common = _read_shipped("limits/llama_quantize.toml")
    return Recipe(
        name=name,
        title=title,
        summary=table.text("summary"),
        file_type=_file_type(table, qtype),
        qtype=qtype,
        rules=_rules(table, groups=True),
        never=tuple(_never(entry) for entry in common.tables("never")),
        fallbacks={kind: str(to) for kind, to in common.table("fallback").values.items()},
        needs_imatrix=table.some_of("needs_imatrix", base.names()),
        aliases=table.strings("aliases"),
        on_fallback=on_fallback,
    )


def _file_type(table: Table, qtype: str) -> int:
    """general.file_type as stated, or that of the shipped recipe of the same default type (enum llama_ftype)."""
    number = table.get("file_type", int)
    if number is None:
        for name in (qtype, _by_alias().get(qtype)):
            if name in recipe_names():
                return _read_shipped(f"{name}.toml").need("file_type", int)
        raise table.error("file_type", f"is missing, and no shipped recipe is named {qtype}")
    if not 0 <= number < 1 << 32:
        raise table.error("file_type", f"{shown(str(number), 20)} is not an unsigned 32-bit number")
    return number


def _rules(table: Table, *, groups: bool) -> tuple[Rule, ...]:
    """The rules of a file in order, shared groups expanded in place (groups themselves cannot use groups)."""
    if not groups:
        table.only(*GROUP_KEYS)
    strict = table.get("strict", bool)
    rules: list[Rule] = []
    for entry in table.tables("rule"):
        if groups and "use" in entry.values:
            entry.only("use")
            shared = sorted(p.stem for p in (recipes_folder() / "shared").glob("*.toml"))
            group = entry.one_of("use", shared)
            rules += _rules(_read_shipped(f"shared/{group}.toml"), groups=False)
        else:
            rules.append(_rule(entry, optional=strict is False))
        if len(rules) > MAX_RULES:
            raise table.error("rule", f"more than {MAX_RULES} rules, those of shared groups counted")
    return tuple(rules)


def _rule(table: Table, *, optional: bool) -> Rule:
    table.only(*RULE_KEYS)
    qtype = table.one_of("qtype", base.names())
    if qtype is None:
        raise table.error("qtype", "is missing")
    layers = table.get("layers", str)
    if layers is not None and not is_layer_selector(layers):
        raise table.unknown("layers", layers, LAYER_SELECTORS)
    return Rule(
        qtype=qtype,
        where=f"{table.file}: {table.path}",
        roles=tuple(Role(word) for word in table.some_of("roles", list(Role))),
        names=table.globs("names"),
        layers=None if layers is None else Layers(layers),
        stacked=table.get("stacked", bool),
        rows_fit=table.get("rows_fit", bool),
        was=table.some_of("was", base.names()),
        when=_when(table.table("when")),
        why=table.text("why"),
        optional=optional,
    )


def _never(table: Table) -> Never:
    table.only("names", "when")
    return Never(table.globs("names"), _when(table.table("when")))


def _when(table: Table) -> When:
    table.only("architectures", "blocks", "gqa_min", "experts", "imatrix")
    return When(
        architectures=table.strings("architectures"),
        blocks=table.get("blocks", int),
        gqa_min=table.get("gqa_min", int),
        experts=table.get("experts", int),
        imatrix=table.get("imatrix", bool),
    )
