"""The program: the commands of quantkit/cli/commands, found by file name, which is their name."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.main import get_command

from quantkit.cli.command import Command, Group
from quantkit.cli.help import CommandHelp, ProgramHelp
from quantkit.cli.session import with_session
from quantkit.discovery import defined, modules
from quantkit.version import __version__

PACKAGE = "quantkit.cli.commands"


@cache
def program(name: str | None = None) -> TyperGroup:
    """All commands in the order of the help; the one of this name alone if there is one: making all of them takes as
    long as a small command."""
    app = typer.Typer(
        name="quantkit",
        cls=ProgramHelp,
        help="Turn a Hugging Face checkpoint into a quantized model that provably runs.",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    chosen = [defined(PACKAGE, name, "COMMAND")] if name in modules(PACKAGE) else commands()
    for command in chosen:
        if isinstance(command, Group):
            app.add_typer(group_app(command))
        else:
            register(app, command, command.name)
    made = get_command(app)
    assert isinstance(made, TyperGroup), "an application with a callback is a group"
    made.commands = {command.name: made.commands[command.name] for command in chosen}  # Typer puts groups last
    return made


def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"quantkit {__version__}")
        raise typer.Exit


def commands() -> list[Command | Group]:
    """All commands and groups of commands, in the order of the help."""
    return sorted((defined(PACKAGE, name, "COMMAND") for name in modules(PACKAGE)), key=lambda c: (c.place, c.name))


def register(where: typer.Typer, command: Command, name: str) -> None:
    """Make a command of Typer's; `name` is what events call it."""
    run = with_session(command.run, name)
    where.command(command.name, cls=CommandHelp, epilog=command.epilog)(run)


def group_app(group: Group) -> typer.Typer:
    """The application of a group."""
    found = typer.Typer(name=group.name, cls=ProgramHelp, help=group.summary, rich_markup_mode=None)

    @found.callback(invoke_without_command=True)
    def _alone(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    for member in sorted(group.members, key=lambda command: command.place):
        register(found, member, f"{group.name} {member.name}")
    return found
