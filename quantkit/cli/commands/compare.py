"""quantkit compare"""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session

TEXT = "Text side by side"


def compare(
    session: Session,
    a: Annotated[str, typer.Argument(metavar="A", help="A GGUF file, a checkpoint folder, or any source.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What it is compared with: another one, or its source.")],
    text: Annotated[bool, typer.Option("--text", help="Let both continue some prompts.", rich_help_panel=TEXT)] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="A prompt of your own; repeatable.", rich_help_panel=TEXT),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, metavar="N", help="Behind each prompt.", rich_help_panel=TEXT)
    ] = 48,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SRC", help="The source of two GGUF files, for text.", rich_help_panel=TEXT),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 7 where they differ.", rich_help_panel=options.RUN)
    ] = False,
    pre: Annotated[
        str | None, typer.Option("--pre", metavar="NAME", help="As given to convert.", rich_help_panel=options.RUN)
    ] = None,
    threads: options.Threads = None,
) -> None:
    """Compare two models: tensors, types, sizes, errors of decoded weights, metadata, tokenizers, text."""
    import quantkit

    request = quantkit.CompareRequest(
        a=a,
        b=b,
        threads=threads,
        offline=session.settings.offline,
        pre=pre,
        text=text,
        prompts=tuple(prompt or ()),
        length=tokens,
        against=against,
    )
    found = quantkit.compare(request, emit=session.emit)
    width = shutil.get_terminal_size().columns
    session.result("quantkit.compare/1", found.as_json(), quantkit.comparison_lines(found, width))
    if exit_code:
        found.require_equal()


COMMAND = Command(
    compare,
    place=67,
    examples=(
        "quantkit compare out/My-Model-Q4_K_M.gguf out/My-Model-Q6_K.gguf",
        "quantkit compare out-gptq ./My-Model --text --exit-code",
    ),
)
