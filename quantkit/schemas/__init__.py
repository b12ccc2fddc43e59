"""JSON Schemas (draft 2020-12) of everything that quantkit prints or reads: outputs, events, recipe files.

They are made from types by msgspec. Outputs leave room for fields of later versions; recipes do not: an unknown key
in one is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from quantkit.errors import require_choice
from quantkit.events import Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EVENT, GGUF_RECIPE, SERVER_RECIPE = "quantkit.event/1", "recipe-gguf", "recipe-checkpoint"
MATRIX = "batch-matrix"
RECIPES = (GGUF_RECIPE, SERVER_RECIPE)
FILES = (*RECIPES, MATRIX)  # which users write
TEMPLATE = "#/$defs/{name}"


def schema_names() -> tuple[str, ...]:
    """The names of all schemas: those that objects carry in `schema`, and those of files that users write."""
    from quantkit.schemas.outputs import OUTPUTS

    return (*OUTPUTS, EVENT, *FILES)


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of that name; "plan" stands for "quantkit.plan/1". Raises UsageError for an unknown one."""
    from quantkit.schemas.outputs import OUTPUTS

    names = schema_names()
    short = {each.removeprefix("quantkit.").removesuffix("/1"): each for each in names}
    require_choice("--json-schema", name, (*short, *names))
    full = short.get(name, name)
    if full == EVENT:
        found = _events()
    elif full in OUTPUTS:
        found = _output(full, OUTPUTS[full])
    elif full == MATRIX:
        from quantkit.schemas.batch import BatchMatrix

        found = _schema(BatchMatrix)
        _each_object(found, lambda table: table.update(additionalProperties=False))
    else:
        from quantkit.schemas.recipes import GGUFRecipe, ServerRecipe

        found = _schema(GGUFRecipe if full == GGUF_RECIPE else ServerRecipe)
        _each_object(found, lambda table: table.update(additionalProperties=False))
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))  # defaults as JSON has them
    return {"$schema": DIALECT, "$id": full, **plain}


def _output(full: str, kind: Any) -> dict[str, Any]:
    found = _schema(kind)
    _carry(found, full)
    return found


def _events() -> dict[str, Any]:
    """One of the events, each with its name, its time and its fields."""
    kinds = get_args(Event)
    references, defs = msgspec.json.schema_components(kinds, ref_template=TEMPLATE)
    for kind in kinds:
        table = defs[kind.__name__]
        _carry(table, EVENT)
        table["properties"] |= {"event": {"const": kind.__name__}, "time": {"type": "string", "format": "date-time"}}
        table["required"] = sorted(table["properties"])  # every field is written, whatever its value
    said = "A line of --events: one of the events of a run, with its name, its time and its fields."
    return {"title": "Event", "description": said, "oneOf": list(references), "$defs": defs}


def _schema(kind: Any) -> dict[str, Any]:
    """The schema of a type with its own properties at the top."""
    found = msgspec.json.schema(kind, ref_template=TEMPLATE)
    reference = found.pop("$ref", None)
    if reference is not None:
        found |= found["$defs"].pop(reference.rpartition("/")[2])
    return found


def _carry(table: dict[str, Any], full: str) -> None:
    """Require the field `schema`, which every object carries."""
    table["properties"] = {"schema": {"const": full}, **table["properties"]}
    table["required"] = sorted({*table.get("required", ()), "schema"})


def _each_object(found: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> None:
    for table in (found, *found.get("$defs", {}).values()):
        if "properties" in table:
            change(table)
