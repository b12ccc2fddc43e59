"""JSON Schema (2020-12) as far as answers of models are checked with it: a check before any model runs that a schema
is one, and whether a value fits it.

Patterns are matched by RE2, in bounded time. References reach into the schema's own `$defs`. What is not known here is
an error rather than something that never fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quantkit.errors import did_you_mean
from quantkit.patterns import PatternError, compile_search
from quantkit.untrusted import shown

DEPTH = 50  # of schemas, references included
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == v // 1,
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
}
SAYS_NOTHING = ("$schema", "$id", "$comment", "$defs", "title", "description", "default", "examples", "format")
COUNTS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minLength": ("string", lambda v, n: len(v) >= n),
    "maxLength": ("string", lambda v, n: len(v) <= n),
    "minItems": ("array", lambda v, n: len(v) >= n),
    "maxItems": ("array", lambda v, n: len(v) <= n),
    "minProperties": ("object", lambda v, n: len(v) >= n),
    "maxProperties": ("object", lambda v, n: len(v) <= n),
}
LIMITS: Mapping[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda v, n: bool(v >= n),
    "maximum": lambda v, n: bool(v <= n),
    "exclusiveMinimum": lambda v, n: bool(v > n),
    "exclusiveMaximum": lambda v, n: bool(v < n),
}
LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
KEYWORDS = (
    "type", "enum", "const", "pattern", "properties", "required", "additionalProperties", "items", "uniqueItems", "not",
    "$ref", *LISTS, *COUNTS, *LIMITS, *SAYS_NOTHING,
)  # fmt: skip


class ShapeError(ValueError):
    """A schema that is none, or says what is not known here; names the place in it."""


def require_schema(schema: Any) -> None:
    """Raise ShapeError for what is no JSON Schema, or one with a keyword that is not known here."""
    for name, each in _defs(schema).items():
        _require(each, schema, f"$defs.{name}", 0)
    _require(schema, schema, "schema", 0)


def _defs(schema: Any) -> Mapping[str, Any]:
    found = schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
    if not isinstance(found, Mapping):
        raise ShapeError("$defs is no object")
    return found


def _require(schema: Any, root: Any, place: str, depth: int) -> None:
    if depth > DEPTH:
        raise ShapeError(f"{shown(place, 80)}: nested more than {DEPTH} deep")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise ShapeError(f"{shown(place, 80)} is {shown(repr(schema), 40)}, a schema is an object or true or false")
    for key, value in schema.items():
        if key not in KEYWORDS:
            raise ShapeError(f'{shown(place, 80)}: "{shown(key, 40)}" is not known{did_you_mean(key, KEYWORDS)}')
        _require_value(key, value, root, f"{place}.{key}")
        for name, inner in _inner(key, value):
            _require(inner, root, f"{place}.{name}", depth + 1)


def _inner(key: str, value: Any) -> list[tuple[str, Any]]:
    """The schemas in the value of a keyword."""
    if key in ("items", "additionalProperties", "not"):
        return [(key, value)]
    if key == "properties":
        return [(f"{key}.{name}", each) for name, each in value.items()]
    return [(f"{key}.{at}", each) for at, each in enumerate(value)] if key in LISTS else []


def _require_value(key: str, value: Any, root: Any, place: str) -> None:
    wrong = None
    names = value if isinstance(value, list) else [value]
    if key == "type" and not (names and all(isinstance(n, str) and n in TYPES for n in names)):
        near = did_you_mean(str(names[0]) if names else "", TYPES)
        wrong = f"is {shown(repr(value), 40)}, no type{near}"
    elif key == "pattern":
        wrong = _pattern_error(value)
    elif key in ("required", "enum") and not isinstance(value, list):
        wrong = "is no list"
    elif key == "required" and not all(isinstance(name, str) for name in value):
        wrong = "is no list of names"
    elif key == "properties" and not isinstance(value, Mapping):
        wrong = "is no object"
    elif key in LISTS and not (isinstance(value, list) and value):
        wrong = "is no list of schemas"
    elif (key in COUNTS and not (TYPES["integer"](value) and value >= 0)) or (
        key in LIMITS and not TYPES["number"](value)
    ):
        wrong = f"is {shown(repr(value), 40)}, no number that it may be"
    elif key == "$ref" and _referred(value, root) is None:
        wrong = f'is {shown(repr(value), 60)}, which is not "#" or "#/$defs/..." of this schema'
    if wrong:
        raise ShapeError(f"{shown(place, 80)} {wrong}")


def _pattern_error(value: Any) -> str | None:
    if not isinstance(value, str):
        return "is no text"
    try:
        compile_search(value, cased=True)
    except PatternError as error:
        return f"is no pattern: {error}"
    return None


def _referred(reference: Any, root: Any) -> Any:
    """The schema that a reference means, None for none."""
    if reference == "#":
        return root
    start = "#/$defs/"
    if not isinstance(reference, str) or not reference.startswith(start):
        return None
    return _defs(root).get(reference.removeprefix(start))


def fits(value: Any, schema: Any) -> bool:
    """Whether a JSON value fits a schema that `require_schema` accepts. References that go in circles never fit."""
    return _fits(value, schema, schema, 0)


def _fits(value: Any, schema: Any, root: Any, depth: int) -> bool:
    if isinstance(schema, bool) or depth > DEPTH:
        return schema is True
    deeper = depth + 1
    if "$ref" in schema and not _fits(value, _referred(schema["$ref"], root), root, deeper):
        return False
    tests: Mapping[str, Callable[[Any], bool]] = {
        "anyOf": lambda of: any(_fits(value, each, root, deeper) for each in of),
        "allOf": lambda of: all(_fits(value, each, root, deeper) for each in of),
        "oneOf": lambda of: sum(_fits(value, each, root, deeper) for each in of) == 1,
        "not": lambda of: not _fits(value, of, root, deeper),
    }
    if not all(test(schema[key]) for key, test in tests.items() if key in schema):
        return False
    return _fits_itself(value, schema) and _contents_fit(value, schema, root, deeper)


def _fits_itself(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value fits what a schema says of it, its contents aside."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(TYPES[kind](value) for kind in kinds):
        return False
    if "enum" in schema and not any(_equal(value, each) for each in schema["enum"]):
        return False
    if "const" in schema and not _equal(value, schema["const"]):
        return False
    if "pattern" in schema and isinstance(value, str) and not compile_search(schema["pattern"], cased=True)(value):
        return False
    if any(
        TYPES[kind](value) and key in schema and not test(value, schema[key]) for key, (kind, test) in COUNTS.items()
    ):
        return False
    return not TYPES["number"](value) or all(test(value, schema[key]) for key, test in LIMITS.items() if key in schema)


def _contents_fit(value: Any, schema: Mapping[str, Any], root: Any, depth: int) -> bool:
    if isinstance(value, dict):
        known = schema.get("properties", {})
        other = schema.get("additionalProperties", True)
        return all(name in value for name in schema.get("required", [])) and all(
            _fits(each, known.get(name, other), root, depth) for name, each in value.items()
        )
    if isinstance(value, list):
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        shapes = [*first, *[rest] * max(len(value) - len(first), 0)]
        if schema.get("uniqueItems") is True and any(
            _equal(a, b) for at, a in enumerate(value) for b in value[at + 1 :]
        ):
            return False
        return all(_fits(each, shape, root, depth) for each, shape in zip(value, shapes, strict=False))
    return True


def _equal(one: Any, other: Any) -> bool:
    """JSON's equality: 1 and 1.0 are one number, true and 1 are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other if isinstance(one, str) else bool(one == other)
