"""The Typer application: the commands of quantkit/cli/commands, found by file name."""

from __future__ import annotations

from typing import Annotated

import typer

from quantkit.cli.command import Command
from quantkit.cli.help import CommandHelp
from quantkit.cli.session import with_session
from quantkit.discovery import defined, modules
from quantkit.version import __version__

app = typer.Typer(
    name="quantkit",
    help="Turn a Hugging Face checkpoint into a quantized model that provably runs.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"quantkit {__version__}")
        raise typer.Exit


def commands() -> list[Command]:
    """All commands, in the order of the help."""
    package = "quantkit.cli.commands"
    return sorted((defined(package, name, "COMMAND") for name in modules(package)), key=lambda c: (c.place, c.name))


for command in commands():
    app.command(command.name, cls=CommandHelp, epilog=command.epilog)(with_session(command.run))
