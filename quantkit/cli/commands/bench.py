"""quantkit bench"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session
from quantkit.errors import UsageError

WORK = "What is run"


def bench(
    session: Session,
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A GGUF file (of a split one the first shard).")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="FILE|SRC", help="The unquantized GGUF file, or the source it is made of."),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="llama.cpp", help="What runs them.")] = "llama.cpp",
    prompt: Annotated[
        int, typer.Option("--prompt", min=1, metavar="N", help="Tokens of the prompt.", rich_help_panel=WORK)
    ] = 128,
    steps: Annotated[
        int, typer.Option("--steps", min=2, metavar="N", help="Tokens that are written.", rich_help_panel=WORK)
    ] = 32,
    batch: Annotated[
        str, typer.Option("--batch", metavar="N[,N...]", help="Sequences at a time.", rich_help_panel=WORK)
    ] = "1,2,4,8",
    runs: Annotated[
        int, typer.Option("--runs", min=1, metavar="N", help="How often, in turns.", rich_help_panel=WORK)
    ] = 3,
    pre: Annotated[str | None, typer.Option("--pre", metavar="NAME", help="As given to convert.")] = None,
    threads: options.Threads = None,
) -> None:
    """Measure how fast an artifact runs here beside the unquantized file: speed, latency, memory (micro benchmark)."""
    import quantkit

    request = quantkit.BenchRequest(
        artifact, against, engine, prompt, steps, _batches(batch), runs, threads, session.settings.offline, pre
    )
    with StopSignal(session.note) as stop:
        found = quantkit.bench(request, emit=session.emit, stop=stop)
    width = shutil.get_terminal_size().columns
    session.result("quantkit.bench/1", found.as_json(), quantkit.bench_lines(found, width))


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise UsageError(f'--batch "{text[:40]}"', key="batch", hint="sequences at a time, such as 1,2,4,8")
    return tuple(dict.fromkeys(map(int, parts)))


COMMAND = Command(
    bench,
    place=67,
    examples=(
        "quantkit bench out/My-Model-Q4_K_M.gguf --against ./My-Model",
        "quantkit bench out/My-Model-Q4_K_M.gguf --against out/My-Model-BF16.gguf --batch 1,8 --json",
    ),
)
