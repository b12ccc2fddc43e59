"""quantkit schemes, quantkit recipes: what exists."""

from __future__ import annotations

from typing import Annotated

import typer

from quantkit.cli.session import Session
from quantkit.errors import UsageError
from quantkit.report.text import table


def schemes(session: Session) -> None:
    """List quantization types, methods, recipes, model families and consumers."""
    import quantkit

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


def recipes(
    session: Session,
    action: Annotated[str, typer.Argument(help='"list", or "show" with a name.')] = "list",
    name: Annotated[str | None, typer.Argument(help="The recipe to show.")] = None,
) -> None:
    """List the recipes, or show one as TOML."""
    import quantkit

    if action == "show":
        if name is None:
            raise UsageError("which recipe?", hint="quantkit recipes show q4_k_m")
        text = quantkit.recipe_text(name)
        session.result("quantkit.recipe/1", {"name": name, "toml": text}, text.splitlines())
        return
    if action != "list":
        raise UsageError(f'unknown action "{action}"', hint='use "list" or "show NAME"')
    found = quantkit.list_recipes()
    rows = [(r["name"], r["default"], r["description"]) for r in found]
    session.result("quantkit.recipes/1", {"recipes": found}, table(rows, ("name", "default type", "what it is for")))
