"""What exists: types, methods, recipes, families, consumers."""

from __future__ import annotations

from typing import Any

from quantkit.consumers import CONSUMERS
from quantkit.families.known import known_families
from quantkit.families.rows import Family
from quantkit.families.towers import has_tower, known_towers
from quantkit.families.wrapped import WRAPPED
from quantkit.formats.containers import table
from quantkit.methods import method_names, needs_hessian
from quantkit.methods.transforms import transform_names
from quantkit.qtypes import base
from quantkit.recipes.read import Recipe, adapter_recipe_names, load_recipe, recipe_names


def schemes() -> dict[str, Any]:
    """Everything quantkit can be asked for, as plain data."""
    return {
        "types": [_type(base.get(name)) for name in base.names()],
        "methods": [*sorted(method_names(), key=needs_hessian), *transform_names()],
        "containers": ["gguf", *table.names()],
        "recipes": [*recipe_names(), *adapter_recipe_names()],
        "families": [_family(family) for family in known_families()],
        "encoders": [{"name": tower.name, "architectures": list(tower.hf)} for tower in known_towers()],
        "consumers": list(CONSUMERS),
    }


def _family(family: Family) -> dict[str, Any]:
    """What there is for a family: `calibrate` holds where its layers can be run one by one, `servers` where they are
    packed, too."""
    run = family.unserved is None and family.unwalked is None
    around = [name for name, wrapped in WRAPPED.items() if wrapped.inside in family.hf]
    return {
        "name": family.name,
        "gguf": family.gguf,
        "architectures": [*family.hf, *around],
        "supports": {"gguf": True, "mmproj": has_tower(family), "calibrate": run, "servers": family.unserved is None},
        "why_not": family.unserved or family.unwalked,
    }


def list_recipes() -> list[dict[str, Any]]:
    """Name, default type, description, aliases and needs of every shipped recipe.

    `container` is "gguf" or that of a checkpoint; `needs_calib` says that it cannot be made without text,
    `needs_imatrix` that some of its types cannot be without importance weights.
    """
    return [_recipe(load_recipe(name)) for name in (*recipe_names(), *adapter_recipe_names())]


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "description": recipe.summary,
        "aliases": list(recipe.aliases),
        "default": recipe.default,
        "container": recipe.container,
        "needs_calib": recipe.needs_calibration,
        "needs_imatrix": recipe.needs_imatrix,
    }


def _type(qtype: base.QuantType) -> dict[str, Any]:
    return {
        "name": qtype.name,
        "bits_per_weight": qtype.bits_per_weight,
        "block": qtype.block,
        "bytes": qtype.nbytes,
        "importance": "used" if qtype.uses_importance else "-",
    }
