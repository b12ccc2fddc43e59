"""quantkit recommend: which recipe for what, in which memory, and why"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.records import record
from quantkit.report.text import terminal_width

TASK, SERVING = "The task", "Serving"


@record
class Serving:
    """Where the model is to run, and how much it reads."""

    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE|DEVICE",
            help="24GB, rtx4090, m2-16gb; default: what this machine has.",
            rich_help_panel=SERVING,
        ),
    ] = None
    context: Annotated[
        str | None,
        typer.Option(
            "--context", metavar="TOKENS", help="Of each text: 32k, 8192.", show_default="8192", rich_help_panel=SERVING
        ),
    ] = None
    slots: Annotated[int, typer.Option("--slots", metavar="N", help="Texts at a time.", rich_help_panel=SERVING)] = 1
    kv_type: Annotated[
        str, typer.Option("--kv", metavar="TYPE", help="Type of the cache: f16, q8_0, ...", rich_help_panel=SERVING)
    ] = "f16"
    consumers: Annotated[
        str | None,
        typer.Option("--for", metavar="NAME[,NAME...]", help="Who must load it.", rich_help_panel=SERVING),
    ] = None
    tp: Annotated[
        int, typer.Option("--tp", min=1, metavar="N", help="Devices that share each layer.", rich_help_panel=SERVING)
    ] = 1


def recommend(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A folder, hf://org/name[@revision][:FILE.gguf], org/name or a .gguf file."),
    ],
    serving: Serving,
    workload: Annotated[
        str,
        typer.Option(
            "--workload", metavar="NAME", help="chat, code, math, summarize, high-stakes, edge.", rich_help_panel=TASK
        ),
    ] = "chat",
    driver: Annotated[
        str,
        typer.Option(
            "--driver", metavar="NAME", help="What costs most: memory, latency, throughput, cost.", rich_help_panel=TASK
        ),
    ] = "memory",
    records: Annotated[
        list[Path] | None,
        typer.Option("--records", metavar="FILE|DIR", help="More places of measurements; repeatable."),
    ] = None,
    rules_only: Annotated[
        bool, typer.Option("--rules-only", help="Do not look for measurements beside the source.")
    ] = False,
    pre: options.Pre = None,
) -> None:
    """Say which recipe to take, and why; what to try when a gate fails; or not to quantize. Writes nothing.

    Sizes are exact; measurements of the model beside it come before rules. Ends with 5 where nothing fits.
    """
    import quantkit

    request = quantkit.RecommendRequest(
        source=source,
        workload=workload,
        memory=serving.memory,
        context=serving.context,
        kv_type=serving.kv_type,
        driver=driver,
        slots=serving.slots,
        consumers=(serving.consumers or "",),
        tp=serving.tp,
        records=tuple(records or ()),
        beside=not rules_only,
        offline=session.settings.offline,
        pre=pre,
    )
    found = quantkit.recommend(request, emit=session.emit)
    if found.largest is not None or found.verdict != "does not fit":
        lines = quantkit.recommendation_lines(found, terminal_width())
        session.result("quantkit.recommend/1", found.as_json(), lines)
    found.require()


COMMAND = Command(
    recommend,
    place=15,
    examples=(
        "quantkit recommend ./My-Model --workload code --memory 24GB --context 32k",
        "quantkit recommend ./My-Model --driver throughput --for vllm --memory a100-80gb --slots 8",
    ),
)
