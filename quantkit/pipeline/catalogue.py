"""What exists: types, methods, recipes, families, consumers."""

from __future__ import annotations

from typing import Any, get_args

from quantkit.consumers import CONSUMERS
from quantkit.families.describe import known_families
from quantkit.formats import containers
from quantkit.qtypes import base
from quantkit.recipe import Recipe, ServerRecipe, load_recipe, recipe_names
from quantkit.servers.recipe import MethodName, TransformName

METHODS = (*get_args(MethodName), *get_args(TransformName))


def schemes() -> dict[str, Any]:
    """Everything quantkit can be asked for, as plain data."""
    return {
        "types": [_type(base.get(name)) for name in base.names()],
        "methods": list(METHODS),
        "containers": ["gguf", *containers.names()],
        "recipes": list(recipe_names()),
        "families": [{"name": f.name, "gguf": f.gguf, "architectures": list(f.hf)} for f in known_families()],
        "consumers": list(CONSUMERS),
    }


def list_recipes() -> list[dict[str, str]]:
    """Name, default type and description of every shipped recipe."""
    recipes = [load_recipe(name) for name in recipe_names()]
    return [{"name": r.name, "default": _default(r), "description": r.summary} for r in recipes]


def _default(recipe: Recipe | ServerRecipe) -> str:
    """What most weights become, in a word; checkpoints say the container, too."""
    return f"{recipe.container}" if isinstance(recipe, ServerRecipe) else recipe.qtype


def _type(qtype: base.QuantType) -> dict[str, Any]:
    return {
        "name": qtype.name,
        "bits_per_weight": qtype.bits_per_weight,
        "block": qtype.block,
        "bytes": qtype.nbytes,
        "importance": "used" if qtype.uses_importance else "-",
    }
