"""quantkit schemes, quantkit recipes: what exists."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from quantkit.cli.session import Session
from quantkit.errors import UsageError
from quantkit.report.text import table


def schemes(
    session: Session,
    json_schema: Annotated[
        str | None,
        typer.Option(
            "--json-schema",
            metavar="NAME",
            help="Print the JSON Schema of an output (plan, event, ...) or of recipe files; all: every one.",
        ),
    ] = None,
) -> None:
    """List quantization types, methods, recipes, model families and consumers."""
    import quantkit

    if json_schema is not None:
        _json_schema(session, json_schema)
        return
    known = quantkit.schemes()
    lines = [
        "quantization types",
        *table(
            [(t["name"], f"{t['bits_per_weight']:g}", str(t["block"]), t["importance"]) for t in known["types"]],
            ("name", "bits per weight", "block", "importance weights"),
        ),
        "",
        "methods     " + ", ".join(known["methods"]),
        "recipes     " + ", ".join(known["recipes"]),
        "consumers   " + ", ".join(known["consumers"]),
        "",
        "model families",
        *(f"{f['name']:<12}{', '.join(f['architectures'])}" for f in known["families"]),
    ]
    session.result("quantkit.schemes/1", known, lines)


def _json_schema(session: Session, name: str) -> None:
    """Print a schema, or all by their names."""
    import quantkit

    every = quantkit.schema_names()
    session.document({n: quantkit.json_schema(n) for n in every} if name == "all" else quantkit.json_schema(name))


def recipes(
    session: Session,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help='The recipe to show; "show NAME" and "list" work as well.'),
    ] = None,
) -> None:
    """List the recipes, or show one as TOML."""
    import quantkit

    given = words or ["list"]
    if given[0] == "show":
        given = given[1:]
        if not given:
            raise UsageError("which recipe?", hint="quantkit recipes q4_k_m")
    if len(given) > 1:
        raise UsageError(f"one recipe at a time, not {', '.join(given)}", hint="quantkit recipes NAME")
    if words and given != ["list"]:
        text = quantkit.recipe_text(given[0])
        session.result("quantkit.recipe/1", {"name": given[0], "toml": text}, text.splitlines())
        return
    found = quantkit.list_recipes()
    rows = [(r["name"], r["default"], _needs(r), ", ".join(r["aliases"]), r["description"]) for r in found]
    header = ("name", "default type", "needs", "aliases", "what it is for")
    session.result("quantkit.recipes/1", {"recipes": found}, table(rows, header))


def _needs(recipe: dict[str, Any]) -> str:
    return "--calib" if recipe["needs_calib"] else "--imatrix" if recipe["needs_imatrix"] else ""
