"""What models made of prompts, for people: in lines of a terminal, and in cells of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quantkit.evaluation.answers import Answer, PromptReport, Rate
from quantkit.evaluation.tasks import TaskFigure
from quantkit.pipeline.columns import beside, cut, figure, named, one_line, percent, tail, with_error, wrapped
from quantkit.report.text import table
from quantkit.units import counted

NAMES = {
    "json_valid": "JSON that parses",
    "copy_exact": "exact copies",
    "arithmetic": "right numbers",
    "choice": "right choices",
    "expect_pass": "as expected",
}
HEADER = ("artifact", "prompts", "identical", "equal tokens", *NAMES.values(), "lost")
AROUND = 3  # of a line, the part that shows what both models wrote alike


def prompt_lines(report: PromptReport, width: int) -> Iterator[str]:
    """The figures of a set of prompts, its kinds, and the worst ten, in lines of at most `width` columns."""
    of = f"{counted(len(report.answers), 'prompt')} of {report.prompts.name} {report.prompts.sha256[:12]}"
    how = f"{report.templated:,} by the chat template, {counted(report.length, 'token')} each"
    yield from wrapped(f"  {of}, {how}", width, 2)
    yield from named("identical", percent(report.identical), width)
    yield from named("equal tokens", f"{percent(report.divergence)} before the first that differs", width)
    yield from named("KL divergence", f"{with_error(report.kl)} nats on what the original wrote", width)
    for name, rate in report.rates.items():
        if rate is not None:
            yield from named(NAMES[name], _rate(rate), width)
    if report.lost or report.gained:
        told = f"{report.lost} that the original passes fail here, {report.gained} the other way round"
        yield from named("lost", told, width)
    yield ""
    kinds = report.as_json()["kinds"]
    rows = [
        (
            str(k["prompts"]), str(k["identical"]), f"{100 * k['divergence']:.1f}", figure(k["kl"]),
            f"{k['passed']}/{k['expecting']}", f"{k['reference_passed']}/{k['expecting']}",
        )
        for k in kinds
    ]  # fmt: skip
    columns = table(rows, ("n", "same", "equal %", "KL", "pass", "original"))
    yield from (f"  {line}" for line in beside(["kind", *(k["kind"] for k in kinds)], columns, width - 2))
    yield ""
    yield "  worst prompts"
    for answer in report.worst:
        yield from _answer(answer, width)


def _rate(rate: Rate) -> str:
    proved = "" if rate.other.error is None else f", {100 * rate.other.low:.1f} % or more with 95 % confidence"
    return f"{rate.hits} of {rate.prompts}, original {rate.reference_hits}{proved}"


def _answer(answer: Answer, width: int) -> Iterator[str]:
    """A prompt, and below it what both wrote, from shortly before they part."""
    mark = "  LOST" if answer.lost else ""
    at = "identical" if answer.same else f"differs at token {answer.equal + 1}"
    yield cut(f"  {answer.name}  KL {figure(answer.kl)}  {at}{mark}", width)
    same = 0 if answer.same else _alike(answer.reference, answer.other)
    for who, text in (("original", answer.reference), ("this", answer.other)):
        room = width - 14
        before = tail(one_line(text[:same]), room // AROUND)
        yield f"    {who:<8}  {cut(before + one_line(text[same:]), room)}".rstrip()
        if answer.same:
            return


def _alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def prompt_cells(name: str, report: PromptReport) -> tuple[str, ...]:
    """The figures of a set of prompts as the cells below HEADER."""
    rates = (
        "-" if r is None else f"{r.hits} of {r.prompts}, original {r.reference_hits}" for r in report.rates.values()
    )
    shares = (percent(report.identical), percent(report.divergence))
    return (name, str(len(report.answers)), *shares, *rates, str(report.lost))


def prompt_history(report: PromptReport) -> dict[str, Any]:
    """The figures of a set of prompts as a line of a history has them: small, without the texts."""
    whole = report.as_json()
    return {key: whole[key] for key in ("set", "sha256", "count", "identical", "divergence", "rates", "lost", "gained")}


TASK_HEADER = ("task", "metric", "n", "value", "original")


def task_rows(figures: Sequence[TaskFigure]) -> list[tuple[str, ...]]:
    """The figures of tasks as cells below TASK_HEADER."""
    return [
        (f.task, f.metric, str(f.documents), _pm(f.value, f.error), _pm(f.reference, f.reference_error))
        for f in figures
    ]


def task_lines(figures: Sequence[TaskFigure], width: int) -> Iterator[str]:
    rows = task_rows(figures)
    columns = table([row[2:] for row in rows], TASK_HEADER[2:])
    names = ["task", *(f"{task} {metric}" for task, metric, *_ in rows)]
    yield from (f"  {line}" for line in beside(names, columns, width - 2))


def _pm(value: float, error: float | None) -> str:
    return figure(value) if error is None else f"{figure(value)} ± {error:.2g}"
