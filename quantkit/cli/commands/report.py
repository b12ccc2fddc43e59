"""quantkit report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session


def report(
    session: Session,
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="What eval --json or --append wrote, GGUF files, checkpoint folders."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.html", help="The report; an older one is replaced.")
    ],
    title: Annotated[str | None, typer.Option("--title", help="What the page is called.")] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Show measurements, runs and artifacts in one HTML file: verdict, sizes, types, errors, quality against size."""
    import quantkit

    found = quantkit.write_report(quantkit.ReportRequest(tuple(inputs), out, title), dry_run=dry_run)
    line = f"would write {found.path}" if dry_run else str(found.path)
    session.result("quantkit.report/1", found.as_json(), [line])


COMMAND = Command(
    report,
    place=66,
    examples=(
        "quantkit report measured.json --out report.html",
        "quantkit report history.jsonl out/My-Model-Q4_K_M.gguf --out report.html",
    ),
)
