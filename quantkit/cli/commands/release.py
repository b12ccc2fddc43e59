"""quantkit release"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.records import record

PASSWORD = "QUANTKIT_SIGN_PASSWORD"


@record
class Known:
    """What is known besides the folder."""

    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SRC", help="Their source: compare with it, and take over its card."),
    ] = None
    adapter: options.Adapters = None
    measured: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="FILE", help="What eval --json or --append wrote; repeatable."),
    ] = None
    base_model: Annotated[
        str | None, typer.Option("--base-model", metavar="ORG/NAME", help="The source's repository, if it is known.")
    ] = None
    quantized_by: Annotated[
        str | None, typer.Option("--quantized-by", metavar="NAME", help="Who made them, for the front matter.")
    ] = None


@record
class Wanted:
    """What goes first and when, what is in it, who signs it."""

    primary: Annotated[
        str | None,
        typer.Option("--primary", metavar="NAME", help="First to deploy; default: the smallest that is good."),
    ] = None
    require_gates: Annotated[
        bool, typer.Option("--require-gates", help="Nothing goes first, or back, that no gate judged.")
    ] = False
    not_before: Annotated[
        str | None, typer.Option("--not-before", metavar="DATE", help="For deployers: not before this date (UTC).")
    ] = None
    sign_key: Annotated[
        Path | None,
        typer.Option("--sign-key", metavar="KEY.pem", help=f"Sign all files; its password is in ${PASSWORD}."),
    ] = None
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="FILE", help="Also list this file, though no manifest does; repeatable."),
    ] = None
    card: Annotated[bool, typer.Option("--card/--no-card", help="Write README.md; without, it stays as it is.")] = True
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Leave unfinished work in the folder out, instead of refusing.")
    ] = False


def release(
    session: Session,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of finished artifacts; each is a release.")
    ],
    known: Known,
    wanted: Wanted,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Make a folder of artifacts a release: card, release.json, bill of materials, SHA256SUMS, signature.

    Artifacts are verified first. Ends with 7 for one that is damaged, with 8 where none passed its gates.
    """
    import quantkit

    request = quantkit.ReleaseRequest(
        paths=tuple(paths),
        against=known.against,
        adapters=tuple(known.adapter or ()),
        records=tuple(known.measured or ()),
        quantized_by=known.quantized_by,
        base_model=known.base_model,
        primary=wanted.primary,
        not_before=wanted.not_before,
        include=tuple(wanted.include or ()),
        require_gates=wanted.require_gates,
        unfinished=wanted.unfinished,
        card=wanted.card,
        sign_key=wanted.sign_key,
        password=None if wanted.sign_key is None else _password(wanted.sign_key),
        force=force,
        offline=session.settings.offline,
    )
    made = quantkit.release(request, dry_run=dry_run, emit=session.emit)
    lines = [line for one in made for line in quantkit.release_lines(one, dry_run=dry_run)]
    session.result("quantkit.released/1", {"dry_run": dry_run, "releases": [one.as_json() for one in made]}, lines)


def _password(key: Path) -> bytes | None:
    """The password of a key that has one: from the environment, else from whoever sits at the terminal; never from
    the command line, which others can read."""
    import quantkit

    if not quantkit.is_encrypted(key):
        return None
    said = os.environ.get(PASSWORD)
    if said is None and sys.stdin.isatty():
        said = typer.prompt(f"Password of {key.name}", hide_input=True, err=True)
    return None if said is None else os.fsencode(said)


COMMAND = Command(
    release,
    place=71,
    examples=(
        "quantkit release out --against ./My-Model --eval measured.json",
        "quantkit release out --sign-key key.pem --not-before 2026-12-06 --dry-run",
    ),
)
