"""quantkit schemes: what exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.report.text import table


def schemes(
    session: Session,
    json_schema: Annotated[
        str | None,
        typer.Option(
            "--json-schema",
            metavar="NAME",
            help="Print the JSON Schema of an output (plan, event, ...) or of recipe files; all: every one.",
        ),
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Only the model families, and what there is for each.")
    ] = False,
) -> None:
    """List quantization types, methods, recipes, model families and consumers."""
    import quantkit

    if json_schema is not None:
        _json_schema(session, json_schema)
        return
    known = quantkit.schemes()
    if families:
        lines = [*_table_of_families(known["families"]), "", *_table_of_encoders(known["encoders"])]
        session.result("quantkit.schemes/1", known, lines)
        return
    lines = [
        "quantization types",
        *table(
            [(t["name"], f"{t['bits_per_weight']:g}", str(t["block"]), t["importance"]) for t in known["types"]],
            ("name", "bits per weight", "block", "importance weights"),
        ),
        "",
        "methods     " + ", ".join(known["methods"]),
        "recipes     " + ", ".join(known["recipes"]),
        "consumers   " + ", ".join(known["consumers"]),
        "",
        "model families",
        *(f"{f['name']:<12}{', '.join(f['architectures'])}" for f in known["families"]),
    ]
    session.result("quantkit.schemes/1", known, lines)


def _table_of_families(families: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each family: a file of its own kind each, "-" where there is none; reasons below."""
    kinds = ("gguf", "mmproj", "calibrate", "servers")
    rows = [
        (
            f["name"],
            f["gguf"],
            *("yes" if f["supports"][kind] else "-" for kind in kinds),
            ", ".join(f["architectures"]),
        )
        for f in families
    ]
    lacking = [(_lacking(f["supports"]), f["why_not"], f["name"]) for f in families if f["why_not"]]
    reasons = sorted({(what, why) for what, why, _ in lacking})
    names = {reason: ", ".join(name for *said, name in lacking if tuple(said) == reason) for reason in reasons}
    head = ("family", "in GGUF", "GGUF", "mmproj", "calibrate", "servers", "architectures of config.json")
    return [*table(rows, head), "", *(f"without {what}: {names[what, why]}: {why}" for what, why in reasons)]


def _lacking(supports: Mapping[str, bool]) -> str:
    return " and ".join(kind for kind in ("calibrate", "servers") if not supports[kind])


def _table_of_encoders(encoders: Sequence[Mapping[str, Any]]) -> list[str]:
    """The encoders that are written as a file of their own, whatever language model is behind them."""
    rows = [(e["name"], ", ".join(e["architectures"])) for e in encoders]
    return table(rows, ("encoder (mmproj)", "architectures of config.json"))


def _json_schema(session: Session, name: str) -> None:
    """Print a schema, or all by their names."""
    import quantkit

    every = quantkit.schema_names()
    session.document({n: quantkit.json_schema(n) for n in every} if name == "all" else quantkit.json_schema(name))


COMMAND = Command(
    schemes,
    place=80,
    examples=(
        "quantkit schemes",
        "quantkit schemes --families",
        "quantkit schemes --json-schema convert",
    ),
)
