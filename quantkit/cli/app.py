"""The Typer application: which commands exist and in which order the help lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from quantkit.cli.commands import calibrate, convert, doctor, inspect, lists, pack, plan, quantize, verify
from quantkit.cli.examples import epilog
from quantkit.cli.help import Command
from quantkit.cli.session import with_session
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


for command in (
    convert.convert,
    plan.plan,
    calibrate.calibrate,
    quantize.quantize,
    pack.pack,
    verify.verify,
    inspect.inspect,
    lists.schemes,
    lists.recipes,
    doctor.doctor,
):
    app.command(command.__name__, cls=Command, epilog=epilog(command.__name__))(with_session(command))
