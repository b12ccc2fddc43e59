"""What is printed, held against the schemas that the package publishes."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from quantkit.schemas import json_schema


def validator(name: str) -> Draft202012Validator:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def require(body: dict[str, Any]) -> None:
    """Raise AssertionError unless an object fits the schema that it names."""
    errors = [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator(body["schema"]).iter_errors(body)
    ]
    assert errors == [], body["schema"]
