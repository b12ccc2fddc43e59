"""Batches in words: tables for terminals, Markdown for pages of CI, XML for its servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantkit.batch.place import Failure
from quantkit.pipeline.batch_result import BatchPlan, BatchResult, TaskRow, counts
from quantkit.pipeline.columns import plain
from quantkit.report.junit import Case, junit
from quantkit.report.text import cut, cut_inside, duration, size, wrapped
from quantkit.units import counted

MOST = 500  # rows of a table in Markdown


def batch_plan_lines(plan: BatchPlan, width: int) -> list[str]:
    """The matrix as a table that fits `width` columns, and its sums."""
    rows = [
        (row.planned.task.id, each.recipe, f"{each.nbytes:,}" if each.exact else f"~{each.nbytes:,}",
         f"{each.bits_per_weight:.2f}", size(row.planned.task.needs.memory_bytes), row.state)
        for row in plan.rows
        for each in row.planned.artifacts
    ]  # fmt: skip
    rows += [(row.planned.task.id, "cannot be made", "", "", "", row.state) for row in plan.rows if row.planned.error]
    heads = ("task", "recipe", "bytes", "bits", "memory", "state")
    lines = columns(rows, heads, width, drop=(3, 4))
    for row in plan.rows:
        if row.planned.error is not None:
            said = f"{row.planned.task.id}: error[{row.planned.error.code}]: {row.planned.error.message}"
            lines += wrapped(said, width, 2)
    states = ", ".join(f"{n} {state}" for state, n in counts([row.state for row in plan.rows]).items() if n)
    fetched = plan.as_json()["download_bytes"]
    sums = (
        *(f"source   {each.words}" for each in plan.sources),
        *([f"fetch    {size(fetched)} from the Hub"] if fetched else []),
        f"disk     {size(plan.left_bytes)} to write of {size(plan.nbytes)}, {size(plan.free_bytes)} free",
        f"memory   {size(plan.peak_bytes)} for the largest task, {size(plan.memory_bytes)} for all that run at once",
        f"time     about {duration(plan.seconds)} one after the other, {counted(plan.jobs, 'task')} at a time"
        f" with {counted(plan.threads, 'thread')}",
    )
    folded = [line for each in sums for line in wrapped(each, width, 9)]
    scripts = [line for script in plan.scripts for line in ("", *script.splitlines())]
    return [*lines, "", f"{counted(len(plan.rows), 'task')}: {states}", *folded, *scripts]


def batch_lines(result: BatchResult, width: int) -> list[str]:
    """The tasks as a table that fits `width` columns, what failed and why, and the sums."""
    rows = [
        (row.task.id, ",".join(row.task.recipes), size(sum(each.nbytes for each in row.made)) if row.made else "-",
         duration(row.record.seconds) if row.record and row.record.exit is not None else "-",
         row.record.where if row.record else "-", row.state)
        for row in result.rows
    ]  # fmt: skip
    lines = columns(rows, ("task", "recipes", "size", "time", "where", "state"), width, drop=(4, 3))
    failed = list(failure_rows(result))
    if failed:
        lines += ["", "what failed, and why:"]
        for task, failure in failed:
            lines += wrapped(f"{task}  exit {failure.exit}  error[{failure.code}]: {failure.message}", width, 4)
            lines += wrapped(f"  hint: {failure.hint}", width, 4) if failure.hint else []
    states = ", ".join(f"{n} {state}" for state, n in result.as_json()["states"].items() if n)
    sources = [line for each in result.sources for line in wrapped(f"source   {each.words}", width, 9)]
    return [*lines, "", f"{counted(len(result.rows), 'task')}: {states}", *sources]


def failure_rows(result: BatchResult) -> Iterator[tuple[str, Failure]]:
    """What failed, by task and recipe, and why."""
    for row in result.failed:
        for each in row.failures:
            yield f"{row.task.id}{f' ({each.recipe})' if each.recipe else ''}", each


def columns(rows: Sequence[tuple[str, ...]], heads: tuple[str, ...], width: int, drop: Sequence[int] = ()) -> list[str]:
    """A table within `width`: columns to `drop` go, in that order, while it is too wide; then the first two are cut,
    ids, which may begin alike, in the middle."""
    kept = list(range(len(heads)))
    whole = [heads, *rows]

    def total() -> int:
        return sum(max(len(row[at]) for row in whole) for at in kept) + 2 * (len(kept) - 1)

    for at in drop:
        if total() > width:
            kept.remove(at)
    widths = {at: max(len(row[at]) for row in whole) for at in kept}
    for at in (1, 0):
        over = sum(widths.values()) + 2 * (len(kept) - 1) - width
        if over > 0:
            widths[at] = max(widths[at] - over, 12)
    numbers = {at for at in kept if rows and all(row[at][:1].isdigit() or row[at][:1] in "-~" for row in rows)}

    def cell(row: tuple[str, ...], at: int) -> str:
        said = (cut_inside if at == 0 else cut)(row[at], widths[at])
        return said.rjust(widths[at]) if at in numbers else said.ljust(widths[at])

    return ["  ".join(cell(row, at) for at in kept).rstrip() for row in whole]


def batch_markdown(result: BatchResult) -> str:
    """The batch for the page of a run of CI: how many are done, what failed and why, what was made."""
    failed = len(result.failed)
    verdict = f"**{counted(failed, 'task')} failed**" if failed else "nothing failed"
    states = ", ".join(f"{n} {state}" for state, n in counts([row.state for row in result.rows]).items() if n)
    out = [
        f"### quantkit batch {plain(result.matrix.path.name)}: {verdict}",
        "",
        f"{counted(len(result.rows), 'task')}: {states}",
    ]
    failures = list(failure_rows(result))
    if failures:
        out += ["", "| failed | exit | why |", "|---|---:|---|"]
        out += [f"| {plain(task)} | {each.exit} | {plain(each.message)} |" for task, each in failures[:MOST]]
    made = [(row, each) for row in result.rows for each in row.made]
    if made:
        out += ["", "| model | recipe | bytes | bits | KL divergence |", "|---|---|---:|---:|---:|"]
        out += [
            f"| {plain(row.task.model)} | {plain(each.recipe)} | {each.nbytes:,} | {each.bits_per_weight:.2f}"
            f" | {'not measured' if each.kl is None else f'{each.kl:.3g}'} |"
            for row, each in made[:MOST]
        ]
    if max(len(made), len(failures)) > MOST:
        out += ["", f"The first {MOST:,} are shown; the page and the index of the batch have all."]
    return "\n".join([*out, "", ""])


def batch_junit(result: BatchResult) -> str:
    """The tasks as test cases, in the XML that servers for CI read: what was not begun, or not ended, is skipped."""
    return junit("quantkit batch", [_case(row) for row in result.rows], result.seconds)


def _case(row: TaskRow) -> Case:
    seconds = row.record.seconds if row.record is not None else 0.0
    said = ", ".join(f"{each.recipe}: {each.nbytes:,} bytes" for each in row.made)
    if row.state == "failed":
        first = row.failures[0] if row.failures else None
        why = "; ".join(f"{each.recipe}: {each.message}" if each.recipe else each.message for each in row.failures)
        return Case(
            row.task.model, row.task.id, seconds, said, failure=why or "it failed", kind=first.code if first else ""
        )
    return Case(row.task.model, row.task.id, seconds, said, skipped="" if row.state == "done" else row.state)
