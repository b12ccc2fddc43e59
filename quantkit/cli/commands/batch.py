"""quantkit batch: a matrix of models and recipes"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command, Group
from quantkit.cli.exits import error_of
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session
from quantkit.records import record
from quantkit.report.text import terminal_width
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.pipeline.batch import BatchRequest

PLACE = "Where it runs"
MatrixFile = Annotated[
    Path, typer.Argument(metavar="MATRIX.toml", help="Models, recipes and options; see docs/batch.md.")
]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="What cannot be planned fails by itself; the others are made.",
                 rich_help_panel=options.RUN),
]  # fmt: skip


@record
class Where:
    """Where tasks run, and how many at a time."""

    on: Annotated[
        str,
        typer.Option("--on", metavar="PLACE",
                     help="local: processes of this machine; dask: workers of a scheduler; slurm: jobs of a cluster.",
                     rich_help_panel=PLACE),
    ] = "local"  # fmt: skip
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "--workers", "-j", min=1, metavar="N",
                     help="Tasks at a time; default: cores, at most 4.",
                     rich_help_panel=PLACE),
    ] = None  # fmt: skip
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, metavar="N", help="Of each task; default: its share of the cores.",
                     rich_help_panel=PLACE),
    ] = None  # fmt: skip
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Of all tasks together; default: what is free now.",
                     rich_help_panel=PLACE),
    ] = None  # fmt: skip


@record
class Scheduler:
    """The scheduler of --on dask."""

    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", rich_help_panel=PLACE,
                     help="Of Dask: tcp://HOST:PORT or tls://HOST:PORT; default: one on this machine, for this run."),
    ] = None  # fmt: skip
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", metavar="PEM", help="Who signs its certificate.", rich_help_panel=PLACE)
    ] = None
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="PEM", help="The certificate to show.", rich_help_panel=PLACE)
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="PEM", help="Its key.", rich_help_panel=PLACE)
    ] = None

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """The files that were given, as the place knows them."""
        files = {"tls-ca": self.tls_ca, "tls-cert": self.tls_cert, "tls-key": self.tls_key}
        return tuple((name, str(path)) for name, path in files.items() if path is not None)


@record
class Told:
    """What is written besides the artifacts."""

    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Tasks as test cases for servers of CI (XML).",
                     rich_help_panel=options.RUN),
    ] = None  # fmt: skip
    step_summary: Annotated[
        bool,
        typer.Option("--step-summary/--no-step-summary", help="Append the result to $GITHUB_STEP_SUMMARY where set.",
                     rich_help_panel=options.RUN),
    ] = True  # fmt: skip


NOTHING_MORE = Told()


def plan_(session: Session, matrix: MatrixFile, where: Where, keep_going: KeepGoing = False) -> None:
    """Say what a matrix makes: sizes to the byte, disk, memory, time, what is done. Writes nothing.

    All that is wrong with it is said at once: keys, names, models, outputs, disk, memory.
    """
    _plan(session, _request(session, matrix, where, keep_going=keep_going))


def run_(
    session: Session,
    matrix: MatrixFile,
    where: Where,
    scheduler: Scheduler,
    told: Told,
    keep_going: KeepGoing = False,
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="Run this one task, here.", rich_help_panel=options.RUN)
    ] = None,
    recheck: Annotated[
        bool,
        typer.Option(
            "--recheck", help="Begin done tasks, too: each hashes what is there.", rich_help_panel=options.RUN
        ),
    ] = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Run the tasks of a matrix that are not done; killed anywhere, the same command goes on.

    Ends with 10 where some fail, and says which and why; with --task as the command line of that task did.
    """
    request = replace(
        _request(session, matrix, where, told, keep_going, force),
        task=task, recheck=recheck, address=scheduler.scheduler, options=scheduler.options,
    )  # fmt: skip
    if dry_run:
        _plan(session, request)
    else:
        _run(session, request, failed_only=False)


def retry(
    session: Session,
    matrix: MatrixFile,
    where: Where,
    scheduler: Scheduler,
    told: Told,
    keep_going: KeepGoing = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Run the tasks of a matrix that failed, and no others."""
    request = replace(
        _request(session, matrix, where, told, keep_going, force),
        address=scheduler.scheduler, options=scheduler.options,
    )  # fmt: skip
    if dry_run:
        _plan(session, request, failed_only=True)
    else:
        _run(session, request, failed_only=True)


def status(session: Session, matrix: MatrixFile) -> None:
    """Say what became of each task so far, and why some failed. Opens no model, writes nothing."""
    import quantkit

    found = quantkit.batch_status(quantkit.BatchRequest(matrix))
    session.result("quantkit.batch/1", found.as_json(), quantkit.batch_lines(found, terminal_width()))


def emit_(
    session: Session,
    matrix: MatrixFile,
    kind: Annotated[
        str, typer.Option("--for", metavar="KIND", help="kubernetes, github, gitlab or make.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Default: the standard output.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="Tasks at a time.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="Of each task.")] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="NAME", help="Of the container (kubernetes, gitlab).")
    ] = None,
    claim: Annotated[
        str | None, typer.Option("--claim", metavar="NAME", help="The volume of all instances (kubernetes).")
    ] = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Write a matrix as a file that makes others run its tasks, each as `quantkit batch run MATRIX --task ID`."""
    import quantkit

    request = _request(session, matrix, Where(jobs=jobs, threads=threads), force=force)
    made = quantkit.emit_batch(request, kind, None if dry_run else out, image=image, claim=claim)
    lines = made.text.splitlines() if made.file is None else [f"{made.file}: {counted(made.tasks, 'task')}"]
    session.result("quantkit.batch_emit/1", made.as_json(), lines)


def _request(
    session: Session,
    matrix: Path,
    where: Where,
    told: Told = NOTHING_MORE,
    keep_going: bool = False,
    force: bool = False,
) -> BatchRequest:
    import quantkit

    return quantkit.BatchRequest(
        matrix,
        place=where.on,
        jobs=where.jobs,
        threads=where.threads,
        memory=where.memory,
        force=force,
        keep_going=keep_going,
        offline=session.settings.offline,
        junit=told.junit,
        summary=told.step_summary,
    )


def _plan(session: Session, request: BatchRequest, *, failed_only: bool = False) -> None:
    import quantkit

    found = quantkit.plan_batch(request, failed_only=failed_only, emit=session.emit)
    if not (found.lacking and session.settings.json):  # one object: that of the error
        lines = quantkit.batch_plan_lines(found, terminal_width())
        session.result("quantkit.batch_plan/1", found.as_json(), lines)
    found.require()


def _run(session: Session, request: BatchRequest, *, failed_only: bool) -> None:
    import quantkit

    with StopSignal(session.note) as stop:
        found = quantkit.run_batch(request, failed_only=failed_only, emit=session.emit, stop=stop)
        session.result("quantkit.batch/1", found.as_json(), quantkit.batch_lines(found, terminal_width()))
        failure = None if request.task is None or found.stopped else found.telling
        if failure is not None:  # one task ends as its command line did: who runs many of them tells them apart by it
            raise error_of(failure.exit, failure.code, failure.message, failure.hint)
        found.require()


COMMAND = Group(
    "batch",
    "Many conversions: a matrix of models and recipes, planned, run, looked at, and run again where it failed.",
    place=16,
    members=(
        Command(plan_, 1, ("quantkit batch plan matrix.toml", "quantkit batch plan matrix.toml --json")),
        Command(run_, 2, ("quantkit batch run matrix.toml", "quantkit batch run matrix.toml --jobs 2 --junit out.xml")),
        Command(status, 3, ("quantkit batch status matrix.toml", "quantkit batch status matrix.toml --json")),
        Command(
            emit_,
            5,
            (
                "quantkit batch emit matrix.toml --for make -o Makefile",
                "quantkit batch emit matrix.toml --for kubernetes",
            ),
        ),
        Command(retry, 4, ("quantkit batch retry matrix.toml", "quantkit batch retry matrix.toml --jobs 1")),
    ),
)
