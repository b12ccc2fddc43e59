"""quantkit calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session


def calibrate(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder, hf://org/name[@revision] or org/name.")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="D", help='"default" (shipped text), text, JSON Lines, parquet, hf://dataset; repeatable.'
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="x.safetensors (statistics), x.gguf or x.dat (imatrix)."),
    ],
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", help="Sequences to run.", show_default="128")
    ] = None,
    seqlen: Annotated[
        int | None, typer.Option("--seqlen", metavar="N", help="Tokens in each.", show_default="512")
    ] = None,
    hessian: Annotated[
        bool | None, typer.Option("--hessian/--no-hessian", help="Products of columns too; default: in .safetensors.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where blocks run.")] = "cpu",
    activations: options.Activations = "auto",
    require_coverage: Annotated[
        float | None,
        typer.Option("--require-coverage", metavar="PERCENT", help="Fail unless so many experts saw enough tokens."),
    ] = None,
    pre: options.Pre = None,
    adapter: options.Adapters = None,
    allow_other_base: options.AllowOtherBase = False,
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Run text through a model once; write statistics for every method, or an imatrix."""
    import quantkit

    spec = quantkit.CalibrationSpec(
        data=tuple(data),
        samples=quantkit.CalibrationSpec.samples if samples is None else samples,
        seqlen=seqlen,
        device=device,
        threads=threads,
        activations=activations,
        offline=session.settings.offline,
    )
    request = quantkit.CalibrateRequest(
        source, spec, out, hessian, require_coverage, force, pre, tuple(adapter or ()), allow_other_base
    )
    if dry_run:
        plan = quantkit.plan_calibration(request, session.emit, headers=True)
        plan.checkpoint.close()
        session.result("quantkit.calibrate/1", plan.as_json(), plan.line().splitlines())
        return
    with StopSignal(session.note) as stop:
        done = quantkit.calibrate(request, emit=session.emit, stop=stop)
    session.note(done.summary())
    session.result("quantkit.calibrate/1", done.as_json(), [str(done.path)])


COMMAND = Command(
    calibrate,
    place=30,
    examples=(
        "quantkit calibrate ./My-Model --data default -o imatrix.gguf",
        "quantkit calibrate ./My-Model --data text.jsonl -o text.safetensors",
    ),
)
