"""The JSON Schemas as files of the site, and the page that lists them with their fields."""

from __future__ import annotations

import json
from typing import Any

from words import MADE, cell, code, table

from quantkit.schemas import RECIPES, json_schema, schema_names


def schema_pages() -> dict[str, str]:
    """`schemas/NAME-VERSION.json` for each schema, an index for programs, and a page for people."""
    schemas = {name: json_schema(name) for name in schema_names()}
    files = {file_of(name): _text(schema) for name, schema in schemas.items()}
    index = {"schemas/index.json": _text({name: file_of(name).removeprefix("schemas/") for name in schemas})}
    return {"reference/json.md": _page(schemas) + MADE, **files, **index}


def file_of(name: str) -> str:
    """Where a schema lies: "quantkit.plan/1" in "schemas/plan-1.json"."""
    return f"schemas/{name.removeprefix('quantkit.').replace('/', '-')}.json"


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _page(schemas: dict[str, dict[str, Any]]) -> str:
    text = (
        "# JSON outputs and schemas\n\n"
        "With `--json` a command prints one object on stdout, and its `schema` names the JSON Schema (draft 2020-12) "
        "that it fits. The files below keep their addresses: within a version fields are only added, and a change "
        "that would break a reader is a new version, with a file of its own beside the old one. "
        "[schemas/index.json](../schemas/index.json) lists them for programs; offline `quantkit schemes "
        "--json-schema NAME` prints the same, and `quantkit.json_schema(NAME)` returns it.\n\n"
        "Schemas of [recipe files](recipe-list.md) are at the end: an editor that completes TOML takes them.\n\n"
    )
    outputs = [name for name in schemas if name not in RECIPES]
    return text + "".join(_section(name, schemas[name]) for name in (*outputs, *RECIPES))


def _section(name: str, schema: dict[str, Any]) -> str:
    file = file_of(name)
    said = f"## {name}\n\n{schema['description']}\n\n[{file.removeprefix('schemas/')}](../{file})\n\n"
    inner = schema.get("$defs", {})
    if "oneOf" in schema:
        names = [each["$ref"].rpartition("/")[2] for each in schema["oneOf"]]
        said += table(("event", "what it is"), [(code(n), cell(inner[n].get("description", ""))) for n in names])
    else:
        said += _fields(schema)
    if not inner:
        return said
    within = "".join(
        f"**{key}**: {cell(each.get('description', ''))}\n\n{_fields(each)}" for key, each in inner.items()
    )
    folded = "".join(f"    {line}".rstrip() + "\n" for line in within.splitlines())
    return f'{said}??? note "Objects inside"\n\n{folded}\n'


def _fields(schema: dict[str, Any]) -> str:
    """The fields of an object as a table; what it may be where it has none."""
    if "properties" not in schema:
        return f"{cell(_kind(schema))}\n\n"
    required = set(schema.get("required", ()))
    rows = [
        (code(key), cell(_kind(kind)) + ("" if key in required else ", may be missing"))
        for key, kind in schema["properties"].items()
    ]
    return table(("field", "is"), rows)


def _kind(kind: dict[str, Any]) -> str:
    """A type in words: "list of File", "text or null"."""
    if "const" in kind:
        return json.dumps(kind["const"])
    if "$ref" in kind:
        return str(kind["$ref"]).rpartition("/")[2]
    if "anyOf" in kind:
        return " or ".join(_kind(each) for each in kind["anyOf"])
    if "enum" in kind:
        words = [json.dumps(each) for each in kind["enum"]]
        return f"one of {', '.join(words)}" if len(words) <= 8 else f"one of {len(words)} words"
    said = kind.get("type")
    if isinstance(said, list):
        return " or ".join(_kind({**kind, "type": each}) for each in said)
    if said == "array":
        return f"list of {_kind(kind.get('items') or {})}"
    if said == "object":
        inner = kind.get("additionalProperties")
        return f"object of {_kind(inner)}" if isinstance(inner, dict) and inner else "object"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return words.get(str(said), "anything" if said is None else str(said))
