"""quantkit eval"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.records import record

if TYPE_CHECKING:
    import quantkit

TEXT, PROMPTS, TASKS, GATES = "The text", "Prompts", "Tasks of a harness", "Gates and records"


@record
class Text:
    """What is run, and how it is cut."""

    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="Text, JSON Lines, hf://; repeatable.", rich_help_panel=TEXT),
    ] = None
    window: Annotated[
        int | None,
        typer.Option(
            "--window", min=4, metavar="N", help="Tokens of a window.", show_default="512", rich_help_panel=TEXT
        ),
    ] = None
    score: Annotated[
        str,
        typer.Option(
            "--score", metavar="all|second-half", help="What of a window counts; llama.cpp's.", rich_help_panel=TEXT
        ),
    ] = "all"
    tokens: Annotated[
        int, typer.Option("--tokens", min=0, metavar="N", help="About this many; 0: all.", rich_help_panel=TEXT)
    ] = 20_000
    seen: Annotated[
        bool, typer.Option("--seen", help="Also on text that an artifact was calibrated on.", rich_help_panel=TEXT)
    ] = False


@record
class Asking:
    """Prompts that all models continue."""

    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="golden|json|copy|FILE",
            help="50 of all kinds, 240 of one, or your own, JSON Lines.",
            rich_help_panel=PROMPTS,
        ),
    ] = None
    prompt_tokens: Annotated[
        int,
        typer.Option("--prompt-tokens", min=1, metavar="N", help="At most so many of each.", rich_help_panel=PROMPTS),
    ] = 64


@record
class Tasks:
    """What an evaluation harness asks all models."""

    harness: Annotated[
        str | None,
        typer.Option("--harness", metavar="lm-eval", help="Needs the extra eval.", rich_help_panel=TASKS),
    ] = None
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", metavar="NAMES", help="Such as hellaswag,arc_easy.", rich_help_panel=TASKS),
    ] = None
    tasks_from: Annotated[
        Path | None,
        typer.Option("--tasks-from", metavar="DIR", help="A folder with tasks of your own.", rich_help_panel=TASKS),
    ] = None
    task_limit: Annotated[
        int | None,
        typer.Option("--task-limit", min=1, metavar="N", help="Documents of each task.", rich_help_panel=TASKS),
    ] = None
    fewshot: Annotated[
        int | None,
        typer.Option("--fewshot", min=0, metavar="N", help="Examples before each.", rich_help_panel=TASKS),
    ] = None
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Tasks may run what models write.", rich_help_panel=TASKS)
    ] = False
    fetch_tasks: Annotated[
        bool, typer.Option("--fetch-tasks", help="Data of tasks may be fetched.", rich_help_panel=TASKS)
    ] = False

    def options(self) -> quantkit.TaskOptions:
        import quantkit

        return quantkit.TaskOptions(
            folder=str(self.tasks_from) if self.tasks_from else None,
            limit=self.task_limit,
            fewshot=self.fewshot,
            run_code=self.run_code,
            fetch=self.fetch_tasks,
        )


@record
class Judging:
    """What the figures are compared with, and where they are written."""

    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="GATE", help="Such as 'kld<0.03', or a profile; repeatable.", rich_help_panel=GATES
        ),
    ] = None
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write the gates as JUnit XML.", rich_help_panel=GATES),
    ] = None
    summary: Annotated[
        Path | None,
        typer.Option("--summary", metavar="FILE", help="Append a summary in Markdown.", rich_help_panel=GATES),
    ] = None
    append: Annotated[
        Path | None,
        typer.Option("--append", metavar="FILE", help="Append a JSON line per artifact.", rich_help_panel=GATES),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a report with pictures, one file.", rich_help_panel=GATES),
    ] = None


def eval(  # noqa: A001 - what the user types
    session: Session,
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT...", help="GGUF files (of split ones the first shard), or folders."),
    ],
    text: Text,
    asking: Asking,
    harnessed: Tasks,
    judging: Judging,
    against: Annotated[
        str | None, typer.Option("--against", metavar="SRC", help="The unquantized checkpoint they were made from.")
    ] = None,
    against_quantized: Annotated[
        str | None,
        typer.Option("--against-quantized", metavar="SRC", help="In its place: a checkpoint that is quantized itself."),
    ] = None,
    adapter: options.Adapters = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="llama.cpp|transformers", help="Run artifacts there, not by our own code."),
    ] = None,
    pre: Annotated[str | None, typer.Option("--pre", metavar="NAME", help="As given to convert.")] = None,
    threads: options.Threads = None,
    step_summary: options.StepSummary = True,
) -> None:
    """Measure how far artifacts are from the original: perplexity, KL divergence, agreement; and gate on it."""
    import quantkit

    records = quantkit.Records(judging.junit, judging.summary, judging.append, judging.html)
    request = quantkit.EvalRequest(
        artifacts=tuple(artifacts),
        against=against,
        against_quantized=against_quantized,
        adapters=tuple(adapter or ()),
        data=tuple(text.data or ()),
        window=text.window,
        score=text.score,
        tokens=text.tokens or None,
        gates=tuple(judging.gate or ()),
        threads=threads,
        offline=session.settings.offline,
        pre=pre,
        seen=text.seen,
        prompts=asking.prompts,
        prompt_tokens=asking.prompt_tokens,
        harness=harnessed.harness,
        tasks=tuple(harnessed.tasks or ()),
        task_options=harnessed.options(),
        engine=engine,
    )
    records.require_writable(request)
    found = quantkit.evaluate(request, emit=session.emit)
    records.write(found)
    if step_summary:
        quantkit.summarize_evaluation(found, judging.summary, session.emit)
    width = shutil.get_terminal_size().columns
    session.result("quantkit.eval/1", found.as_json(), quantkit.evaluation_lines(found, width))
    found.require()


COMMAND = Command(
    eval,
    place=65,
    examples=(
        "quantkit eval out/My-Model-Q4_K_M.gguf --against ./My-Model --data held-out.jsonl",
        "quantkit eval out/My-Model-Q4_K_M.gguf --against ./My-Model --prompts golden --gate 'lost<=0'",
        "quantkit eval out-gptq --against ./My-Model --data held-out.jsonl --gate assistant --gate 'size<=0.35x'",
    ),
)
