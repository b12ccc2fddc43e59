"""quantkit sensitivity: what every type costs every tensor"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session
from quantkit.records import record
from quantkit.report.predicted import predicted_words
from quantkit.report.text import count, cut, table, terminal_width, wrapped
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.tuning.record import CostRecord, Sensitivity

SHADES = " .:-=+*#%@"  # of the map, by the logarithm of what a weight costs: the darkest costs most
DECADES = 3.0  # that they span
RANKED = 20


@record
class Running:
    """How much of the text is run, and where."""

    samples: Annotated[
        int | None, typer.Option("--samples", min=1, metavar="N", help="Sequences to run.", show_default="128")
    ] = None
    seqlen: Annotated[
        int | None, typer.Option("--seqlen", min=2, metavar="N", help="Tokens in each.", show_default="512")
    ] = None
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda[:N]", help="Where blocks run.")] = "cpu"
    activations: options.Activations = "auto"


def sensitivity(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder, hf://org/name[@revision] or org/name.")],
    calib: Annotated[
        list[str],
        typer.Option("--calib", metavar="default|FILE", help='"default" (shipped text), text, JSON Lines, parquet.'),
    ],
    running: Running,
    to: Annotated[
        str, typer.Option("--to", metavar="RECIPE", help="How values are chosen, and the types to compare with.")
    ] = options.DEFAULT_RECIPE,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write it, for --sensitivity of convert."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="How values are chosen: rtn, gptq.")
    ] = None,
    pre: options.Pre = None,
    everything: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Measure what every type costs every tensor, in KL divergence; print the ranking and draw the map."""
    import quantkit

    request = quantkit.Request(
        source=source,
        recipes=(to,),
        calib=tuple(calib),
        samples=running.samples,
        seqlen=running.seqlen,
        method=method,
        device=running.device,
        activations=running.activations,
        pre=pre,
        threads=threads,
        offline=session.settings.offline,
    )
    width = terminal_width()
    if dry_run:
        planned = quantkit.plan_sensitivity(request, out, force=force, emit=session.emit)
        lines = [line for text in planned.lines() for line in wrapped(text, width, 11)]
        session.result("quantkit.sensitivity_plan/1", planned.as_json(), lines)
        return
    with StopSignal(session.note) as stop:
        found = quantkit.sensitivity(request, out, force=force, emit=session.emit, stop=stop).sensitivity
    lines = [*ranking(found, len(found.tensors) if everything else RANKED, width), "", *drawn(found, width)]
    session.result("quantkit.sensitivity/2", found.as_json, lines)


def ranking(found: Sensitivity, shown: int, width: int) -> list[str]:
    """The tensors by what their type of the recipe costs, most first, and what other types would: beside it where a
    line holds all of them, else below it."""
    ordered = sorted(found.tensors, key=lambda cost: -cost.by_type[cost.type].kld)
    types = list(dict.fromkeys(option.type for cost in found.tensors for option in cost.options))
    total = found.kld or 1.0
    head = (
        f"{found.recipe}: predicted KL {predicted_words(found.of_recipe)}; share of each tensor, and what types cost it"
    )
    own = [(cost.name, cost.type, f"{100 * cost.by_type[cost.type].kld / total:.1f} %") for cost in ordered[:shown]]
    others = [
        tuple(f"{cost.by_type[name].kld:.1e}" if name in cost.by_type else "-" for name in types)
        for cost in ordered[:shown]
    ]
    wide = table(
        [(*left, *right) for left, right in zip(own, others, strict=True)], ("tensor", "type", "share", *types)
    )
    listed = wide if max(map(len, wide)) <= width else _narrow(own, ordered[:shown], width)
    more = len(ordered) - len(own)
    return [*wrapped(head, width), *listed, *([f"and {more} more (--tensors lists all)"] if more > 0 else [])]


def _narrow(own: Sequence[tuple[str, str, str]], costs: Sequence[CostRecord], width: int) -> list[str]:
    """Two or more lines a tensor."""
    room = width - max(len(kind) + len(share) for _, kind, share in own) - 4
    head, *rows = table([(cut(name, room), kind, share) for name, kind, share in own], ("tensor", "type", "share"))
    out = [head]
    for row, cost in zip(rows, costs, strict=True):
        told = " · ".join(f"{option.type}\u00a0{option.kld:.1e}" for option in cost.options)
        out += [row, *(line.replace("\u00a0", " ") for line in wrapped(f"  {told}", width, 2))]
    return out


def drawn(found: Sensitivity, width: int) -> list[str]:
    """A map of the blocks: what a weight costs at about four bits, layers down, kinds across, darker for more."""
    inside = [cost for cost in found.tensors if cost.layer is not None]
    price = {cost.name: _price(cost) for cost in inside}
    most = max(price.values(), default=0.0)
    if most <= 0:
        return []
    roles = list(dict.fromkeys(cost.role for cost in inside))
    cells: dict[tuple[int, str], str] = {}
    for cost in inside:
        cells[cost.layer or 0, cost.role] = _shade(price[cost.name], most)
    numbers = sorted({cost.layer or 0 for cost in inside})
    shade = f"each shade {10 ** (DECADES / (len(SHADES) - 1)):.1f} times less"
    lines = wrapped(f"what a weight costs, {SHADES[-1]} most, {shade}", width)
    lines += [f"  {chr(ord('a') + k)}  {role}" for k, role in enumerate(roles)]
    lines += ["layer " + " ".join(chr(ord("a") + k) for k in range(len(roles)))]
    lines += [f"{number:5} {' '.join(cells.get((number, role), ' ') for role in roles)}".rstrip() for number in numbers]
    weights = sum(_weights(cost.shape) for cost in found.tensors)
    tokens = f"{counted(found.learned_tokens, 'token')} to learn from and {found.judged_tokens:,} to judge by"
    said = f"{count(weights)} weights in {counted(len(found.tensors), 'tensor')}, {tokens}"
    return [*lines, "", *wrapped(said, width)]


def _price(cost: CostRecord) -> float:
    """Nats of a weight at the type that is nearest to four and a half bits."""
    weights = _weights(cost.shape)
    nearest = min(cost.options, key=lambda option: (abs(8 * option.nbytes / weights - 4.5), option.type))
    return nearest.kld / weights


def _weights(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _shade(price: float, most: float) -> str:
    if price <= 0:
        return SHADES[0]
    below = log10(most / price) / DECADES
    return SHADES[max(0, round((1 - below) * (len(SHADES) - 1)))]


COMMAND = Command(
    sensitivity,
    place=35,
    examples=(
        "quantkit sensitivity ./My-Model --calib default --out costs.json",
        "quantkit convert ./My-Model --calib default --sensitivity costs.json --target-bpw 4.5",
    ),
)
