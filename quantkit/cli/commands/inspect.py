"""quantkit inspect"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.report.text import count, size, table
from quantkit.units import counted


def inspect(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="FILE|DIR|hf://...", help="What to look at.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
) -> None:
    """Show what a file or checkpoint says of itself, from its headers alone; safe on hostile files."""
    import quantkit

    seen = quantkit.inspect(what, offline=session.settings.offline, emit=session.emit)
    weights = sum(t.elements for t in seen.tensors)
    lines = [
        (
            f"{seen.name}: {seen.kind}, {counted(len(seen.tensors), 'tensor')}, "
            f"{count(weights)} weights, {size(seen.nbytes)}"
        ),
        "",
        *table(
            [(n, str(k), count(w), size(b)) for n, k, w, b in seen.by_type()], ("type", "tensors", "weights", "size")
        ),
        "",
        *(f"{key} = {value}  ({kind})" for key, kind, value in seen.metadata),
    ]
    if seen.origin:
        lines += ["", *_said(seen.origin)]
    if tensors:
        rows = [(t.name, t.dtype, "x".join(map(str, t.shape)), f"{t.nbytes}") for t in seen.tensors]
        lines += ["", *table(rows, ("tensor", "type", "shape", "bytes"))]
    data = {
        "kind": seen.kind,
        "name": seen.name,
        "bytes": seen.nbytes,
        "weights": weights,
        "metadata": {fact.key: fact.as_json() for fact in seen.facts},
        "types": [{"type": n, "tensors": k, "weights": w, "bytes": b} for n, k, w, b in seen.by_type()],
        "tensors": [{"name": t.name, "type": t.dtype, "shape": list(t.shape), "bytes": t.nbytes} for t in seen.tensors],
        "origin": dict(seen.origin),
    }
    session.result("quantkit.inspect/1", data, lines)


def _said(origin: Mapping[str, Any]) -> Iterator[str]:
    """Provenance in lines, and warnings, one each."""
    for key, value in origin.items():
        if key == "warnings":
            yield from (f"warning[{each['code']}]: {each['message']}" for each in value)
        else:
            yield f"{key}: {value}"


COMMAND = Command(
    inspect,
    place=70,
    examples=(
        "quantkit inspect ./My-Model",
        "quantkit inspect out/My-Model-Q4_K_M.gguf --tensors",
    ),
)
