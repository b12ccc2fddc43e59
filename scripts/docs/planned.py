"""What every shipped recipe makes of a model of the shape of Llama 3.1 8B, by the planner itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from shapes import write_llama_8b

import quantkit
from quantkit.recipes.read import Recipe, load_recipe

GGUF = "gguf"


@cache
def recipes() -> Mapping[str, Recipe]:
    """Every shipped recipe by its name."""
    return {one["name"]: load_recipe(one["name"]) for one in quantkit.list_recipes()}


@cache
def sizes() -> Mapping[str, quantkit.SizeReport]:
    """Where the bytes are, by recipe; not of those for adapters, which are no models."""
    models = [recipe for recipe in recipes().values() if recipe.mixture is None or not recipe.mixture.adapter]
    plain = [recipe.name for recipe in models if not recipe.needs_imatrix]
    weighted = [recipe.name for recipe in models if recipe.needs_imatrix]
    with tempfile.TemporaryDirectory() as folder:
        source = str(write_llama_8b(Path(folder) / "Llama-3.1-8B"))
        return _sizes(source, plain) | _sizes(source, weighted, calib="default")


def _sizes(source: str, names: list[str], **options: str) -> dict[str, quantkit.SizeReport]:
    request = quantkit.Request(source, recipes=tuple(names), **options)  # type: ignore[arg-type]
    with quantkit.prepare(request) as prepared:
        return {name: quantkit.estimate(plan).size for name, plan in zip(names, prepared.plans, strict=True)}


def tensor_bytes(size: quantkit.SizeReport) -> int:
    """The bytes of all tensors: what a file takes but for its header, which depends on the tokenizer."""
    return sum(one.nbytes for one in size.types)


def bits(size: quantkit.SizeReport) -> float:
    """Bits for each weight, of the tensors alone."""
    return 8 * tensor_bytes(size) / size.weights
