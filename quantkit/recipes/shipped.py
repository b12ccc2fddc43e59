"""Recipe files: where the shipped ones lie, and how a file becomes a table.

Recipes may come from strangers: they are data only, and files are bounded.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from quantkit.errors import InputError, RecipeError
from quantkit.recipes.scan import TooComplexError, require_simple
from quantkit.recipes.table import EXAMPLE, Table
from quantkit.untrusted import read_bounded, shown

SCHEMA = 1
MAX_RECIPE_BYTES = 1 << 18


def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside the installed package, or beside it in a source tree."""
    inside = Path(__file__).parent
    return inside if (inside / "shared").is_dir() else inside.parents[1] / "recipes"


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes, in alphabetical order."""
    return tuple(sorted(p.stem for p in recipes_folder().glob("*.toml")))


def adapter_recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes for adapters, which no model is a source of."""
    return tuple(sorted(p.stem for p in (recipes_folder() / "adapters").glob("*.toml")))


def shipped_file(name: str) -> str | None:
    """The file of a shipped recipe by its name, below the folder of recipes; None for an unknown one."""
    if name in recipe_names():
        return f"{name}.toml"
    return f"adapters/{name}.toml" if name in adapter_recipe_names() else None


def gguf_recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes for GGUF files; the others are for checkpoints."""
    return tuple(name for name in recipe_names() if "container" not in read_shipped(f"{name}.toml").values)


def shared_names() -> tuple[str, ...]:
    """Names of the groups of rules that recipes may use."""
    return tuple(sorted(p.stem for p in (recipes_folder() / "shared").glob("*.toml")))


def by_alias() -> dict[str, str]:
    """Name of the shipped recipe of every alias."""
    return {alias: name for name in recipe_names() for alias in read_shipped(f"{name}.toml").strings("aliases")}


@cache
def read_shipped(name: str) -> Table:
    """A file of the folder of shipped recipes, read once: a command asks for some of them several times."""
    return read_table(recipes_folder() / name, f"recipes/{name}")


def read_table(path: Path, label: str) -> Table:
    """Parse a recipe file, bounded. `label` is what messages call it. Raises RecipeError."""
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
