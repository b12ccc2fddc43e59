"""Recipes by name, alias or path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.errors import RecipeError, UsageError, did_you_mean, nearest
from quantkit.recipes.parse import parse_recipe
from quantkit.recipes.recipe import Recipe
from quantkit.recipes.shipped import (
    adapter_recipe_names,
    by_alias,
    gguf_recipe_names,
    read_shipped,
    read_table,
    recipe_names,
    recipes_folder,
    shipped_file,
)
from quantkit.untrusted import shown

__all__ = [
    "Recipe",
    "adapter_recipe_names",
    "gguf_recipe_names",
    "load_recipe",
    "load_recipes",
    "recipe_names",
    "recipe_text",
    "recipes_folder",
    "require_distinct",
]


def load_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name or alias (any case), or a recipe file by a path that ends in .toml.

    Raises RecipeError for an unknown name, with the nearest one, and for anything wrong in the file, with its key.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        return parse_recipe(read_table(path, shown(path)), shown(path.stem))
    wanted = name_or_path.lower()
    file = shipped_file(wanted) or shipped_file(by_alias().get(wanted, wanted))
    if file is None:
        known = [*recipe_names(), *adapter_recipe_names(), *by_alias()]
        near = ", ".join(nearest(wanted, known))
        hint = f"nearest: {near}; quantkit recipes lists all; or give a path to a .toml file"
        what = f'unknown recipe "{shown(name_or_path)}"{did_you_mean(wanted, known)}'
        raise RecipeError(what, hint=hint, key=name_or_path)
    return parse_recipe(read_shipped(file), Path(file).stem)


def load_recipes(names: Sequence[str]) -> list[Recipe]:
    """The recipes of --to. Raises what `load_recipe` and `require_distinct` raise."""
    found = [load_recipe(name) for name in names]
    require_distinct(names, found)
    return found


def require_distinct(names: Sequence[str], recipes: Sequence[Recipe]) -> None:
    """Raise UsageError for a recipe that these names name twice: in another case, by an alias, by another path."""
    first: dict[Path | str, str] = {}
    for name, recipe in zip(names, recipes, strict=True):
        same = Path(name).resolve() if name.endswith(".toml") else recipe.name
        before = first.get(same)
        if before is not None:
            both = f'"{shown(before)}" and "{shown(name)}" are the same recipe, {shown(recipe.name)}'
            what = f'"{shown(name)}" is named twice' if before == name else both
            raise UsageError(f"--to: {what}", hint="name each recipe once", key="to")
        first[same] = name


def recipe_text(name: str) -> str:
    """The TOML of a shipped recipe, by name or alias. Raises RecipeError for an unknown name."""
    file = shipped_file(load_recipe(name).name)
    assert file is not None, name
    return (recipes_folder() / file).read_text(encoding="utf-8")
