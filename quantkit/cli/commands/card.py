"""quantkit card"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session


def card(
    session: Session,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER|FILE...", help="Folders of artifacts, or files in them; each gets one card."),
    ],
    against: Annotated[
        str | None, typer.Option("--against", metavar="SRC", help="Their source: its card says licence and languages.")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="FILE", help="What eval --json or --append wrote; repeatable."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", metavar="ORG/NAME", help="The source's repository, if it is known.")
    ] = None,
    quantized_by: Annotated[
        str | None, typer.Option("--quantized-by", metavar="NAME", help="Who made them, for the front matter.")
    ] = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Write the model card of finished artifacts: README.md with variants, hashes, quality, licence, commands."""
    import quantkit

    request = quantkit.CardRequest(
        paths=tuple(paths),
        against=against,
        records=tuple(measured or ()),
        quantized_by=quantized_by,
        base_model=base_model,
        force=force,
        offline=session.settings.offline,
    )
    paths_of = [str(path) for path in quantkit.write_cards(request, emit=session.emit, dry_run=dry_run)]
    lines = [f"would write {path}" for path in paths_of] if dry_run else paths_of
    session.result("quantkit.card/1", {"cards": paths_of}, lines)


COMMAND = Command(
    card,
    place=70,
    examples=(
        "quantkit card out --against ./My-Model --eval measured.json",
        "quantkit card out-gptq --base-model org/name --quantized-by me",
    ),
)
