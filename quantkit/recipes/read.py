"""Recipes by name, alias or path."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import RecipeError, did_you_mean, nearest
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
    "recipe_names",
    "recipe_text",
    "recipes_folder",
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


def recipe_text(name: str) -> str:
    """The TOML of a shipped recipe, by name or alias. Raises RecipeError for an unknown name."""
    file = shipped_file(load_recipe(name).name)
    assert file is not None, name
    return (recipes_folder() / file).read_text(encoding="utf-8")
