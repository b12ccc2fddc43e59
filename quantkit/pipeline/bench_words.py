"""A benchmark as people read it, in 60 to 120 columns."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from quantkit.pipeline.bench import Benchmark
from quantkit.pipeline.bench_figures import Batch, Model, Verdict
from quantkit.report.text import size, table
from quantkit.units import counted
from quantkit.untrusted import shown

NARROW, WIDE = 60, 120
ROOMY = 80  # columns from which memory and latency at 95 % have a place beside the rest
MARK = {"artifact": "A", "original": "B"}


def bench_lines(found: Benchmark, width: int) -> list[str]:
    """All figures as lines of at most `width` columns (60 to 120)."""
    width = min(max(width, NARROW), WIDE)
    request = found.request
    head = (
        f"micro benchmark: {counted(request.prompt, 'token')} of prompt, "
        f"{counted(request.steps, 'step')}, {counted(request.runs, 'run')}, "
        f"{found.engine} {found.engine_version}, {counted(found.threads, 'thread')}"
    )
    out = wrap(head, width)
    out.append("")
    for model in found.models:
        out += wrap(f"{MARK[model.role]}  {shown(model.name)}  {size(model.nbytes)}", width, subsequent_indent="   ")
    out.append("")
    out += _table(found, width)
    if found.verdicts:
        out.append("")
    for verdict in found.verdicts:
        out += _wrapped(verdict, found.models[0], found.models[1], width)
    return out


def _table(found: Benchmark, width: int) -> list[str]:
    roomy = width >= ROOMY
    columns = ("batch", "", "prompt/s", "first s", "token/s", "p50 ms", "p95 ms")
    extra = ("memory", "MB/token") if roomy else ("MB",)
    rows = []
    for at, first in enumerate(found.models[0].batches):
        for model in found.models:
            rows.append((str(first.batch), MARK[model.role], *_cells(model, model.batches[at], roomy)))
    return table(rows, (*columns, *extra))


def _cells(model: Model, batch: Batch, roomy: bool) -> tuple[str, ...]:
    peak = size(batch.peak_bytes) if roomy else f"{batch.peak_bytes / 1e6:.0f}"
    cells = (
        _number(batch.prompt_per_s), f"{batch.first_token:.2f}", _number(batch.per_s),
        _number(1e3 * batch.latency(0.5)), _number(1e3 * batch.latency(0.95)), peak,
    )  # fmt: skip
    return (*cells, _number(model.bytes_per_token(batch) / 1e6)) if roomy else cells


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _wrapped(verdict: Verdict, artifact: Model, original: Model, width: int) -> Iterator[str]:
    share = f"{artifact.nbytes / original.nbytes:.2f}x of the bytes"
    spread = f"{verdict.low:.2f} to {verdict.high:.2f}"
    said = "faster" if verdict.faster else "NOT faster"
    text = (
        f"batch {verdict.batch}: A is {said}: {verdict.ratio:.2f}x of B's tokens/s ({spread} over the runs), "
        f"{verdict.prompt_ratio:.2f}x of its prompt, with {share}"
    )
    yield from wrap(text, width, subsequent_indent="  ")
    for why in verdict.why:
        yield from wrap(f"  {why}", width, subsequent_indent="    ")
    if not verdict.faster and not verdict.why:
        yield "  the measurements do not say why"
