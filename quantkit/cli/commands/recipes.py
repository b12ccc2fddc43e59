"""quantkit recipes: the list of recipes, or one of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.errors import UsageError
from quantkit.report.text import table


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


COMMAND = Command(
    recipes,
    place=90,
    examples=(
        "quantkit recipes",
        "quantkit recipes q4_k_m",
    ),
)
