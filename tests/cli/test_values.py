"""Values that are taken as they are given are what Typer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.core import TyperCommand
from typer.main import get_command

from quantkit.cli.help import CommandHelp


def outcome(cls: type[TyperCommand], arguments: Sequence[str], defaults: dict[str, Any]) -> object:
    """What the function of a command gets, or the words of the refusal."""
    app = typer.Typer(rich_markup_mode=None)
    got: list[object] = []

    @app.command(cls=cls)
    def command(
        word: Annotated[str, typer.Argument()],
        text: Annotated[str, typer.Option()] = "a",
        texts: Annotated[list[str] | None, typer.Option()] = None,
        count: Annotated[int | None, typer.Option()] = None,
        few: Annotated[int, typer.Option(min=1, max=4)] = 1,
        share: Annotated[float, typer.Option(min=0.0)] = 0.5,
        path: Annotated[Path, typer.Option()] = Path(),
        flag: Annotated[bool | None, typer.Option("--flag/--no-flag")] = None,
        there: Annotated[Path | None, typer.Option(exists=True)] = None,
    ) -> None:
        got.append((word, text, texts, count, few, share, path, flag, there))

    try:
        get_command(app).main(list(arguments), standalone_mode=False, default_map=defaults)
    except typer.TyperException as error:
        return error.format_message()
    return got


@pytest.mark.parametrize("defaults", [{}, {"few": 3, "share": 2, "text": 7, "texts": ["x"], "path": "p", "flag": True}])
@pytest.mark.parametrize(
    "arguments",
    [
        [], ["w"], ["w", "--text", ""], ["w", "--texts", "x", "--texts", "y"], ["w", "--count", "3"],
        ["w", "--count", "three"], ["w", "--few", "4"], ["w", "--few", "5"], ["w", "--share", "0"],
        ["w", "--share", "-1"], ["w", "--share", "nan"], ["w", "--path", "/nowhere/at/all"], ["w", "--path", "/"],
        ["w", "--path", "~"], ["w", "--no-flag"], ["w", "--there", "/nowhere/at/all"], ["w", "--there", "/"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_values_are_those_of_typer(arguments: list[str], defaults: dict[str, Any]) -> None:
    assert outcome(CommandHelp, arguments, defaults) == outcome(TyperCommand, arguments, defaults)


@pytest.mark.parametrize(
    "defaults", [{"few": 9}, {"share": -1.0}, {"count": "x"}, {"texts": [1]}, {"path": 3}], ids=str
)
def test_what_a_file_of_defaults_says_wrongly_is_refused_as_by_typer(defaults: dict[str, Any]) -> None:
    assert outcome(CommandHelp, ["w"], defaults) == outcome(TyperCommand, ["w"], defaults)
