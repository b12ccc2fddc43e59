"""The containers, found by the names of their files: those that define CONTAINER."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache, lru_cache

from quantkit.discovery import modules
from quantkit.errors import UnsupportedError
from quantkit.formats.containers.base import Container, Layout, Reading, Writing
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes.base import ScaleDtype

PACKAGE = "quantkit.formats.containers"


@cache
def containers() -> Mapping[str, Container]:
    """All containers by name, in alphabetical order."""
    every = [importlib.import_module(f"{PACKAGE}.{name}") for name in modules(PACKAGE)]
    found: list[Container] = [module.CONTAINER for module in every if hasattr(module, "CONTAINER")]
    return {container.name: container for container in sorted(found, key=lambda container: container.name)}


def names() -> tuple[str, ...]:
    """Names of the containers that are written."""
    return tuple(name for name, container in containers().items() if container.writing)


def writing(name: str) -> Writing:
    """How the container called `name` is written."""
    found = containers()[name].writing
    assert found is not None, name
    return found


def readings() -> dict[str, Reading]:
    """How containers are read, by name."""
    return {name: container.reading for name, container in containers().items() if container.reading}


@lru_cache(maxsize=256)  # a mixture of experts asks ten thousand times; equal layouts are then one object
def layout_of(container: str, weights: Weights, dtype: ScaleDtype) -> Layout:
    """The layout of these weights in a container, in a model of `dtype`.

    Raises UnsupportedError for what the container does not hold; shapes and bits the layout checks itself.
    """
    found = writing(container)
    if weights.type not in found.types:
        others = " or ".join(f'"{name}"' for name in names() if weights.type in writing(name).types)
        hint = f"use container = {others}, or weights of type {', '.join(found.types)}"
        raise UnsupportedError(f"{container} checkpoints have no weights of type {weights.type}", hint=hint, key="type")
    if weights.activations not in found.activations:
        what = f"{container} checkpoints do not say how activations are rounded"
        raise UnsupportedError(what, hint='use container = "compressed-tensors"', key="activations")
    return found.choose(weights, dtype)
