"""The page of a batch: what became of its tasks, sizes of all that was made, and quality where that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from quantkit.records import record
from quantkit.report.html.charts import Point
from quantkit.report.html.markup import Markup, digits, join, name, table, tag
from quantkit.report.html.page import LIMIT, document
from quantkit.report.html.sections import pareto
from quantkit.report.text import duration, size
from quantkit.units import counted

ROWS = (4000, 1000, 200, 40)  # of a table: as many as the file has room for
HASH = 16  # digits of a hash, for people
MARKS = {"done": "✓", "failed": "✕"}


@record
class TaskLine:
    """A task: its state, and why it failed."""

    task: str
    model: str
    recipes: str
    state: str
    seconds: float
    where: str
    why: str = ""


@record
class ArtifactLine:
    """An artifact. `loss` is its KL divergence in nats, with the standard error; None where nobody measured it. `data`
    tells on what: figures on other text cannot be compared."""

    model: str
    recipe: str
    path: str
    nbytes: int
    bits_per_weight: float
    loss: float | None = None
    error: float | None = None
    gates: str = ""
    data: str = ""


@record
class BatchPage:
    """What the page shows. `states` are how many tasks are in each state."""

    title: str
    states: Mapping[str, int]
    tasks: tuple[TaskLine, ...]
    artifacts: tuple[ArtifactLine, ...]


def render_batch(page: BatchPage) -> bytes:
    """The file as UTF-8: with shorter tables, and a word on it, where it would be too large."""
    *more, least = ROWS
    for rows in more:
        data = document(page.title, list(_sections(page, rows)))
        if len(data) <= LIMIT:
            return data
    return document(page.title, list(_sections(page, least)))


def _sections(page: BatchPage, rows: int) -> Iterator[Markup]:
    yield tag("h1", name(page.title))
    yield _verdict(page)
    if max(len(page.tasks), len(page.artifacts)) > rows:
        words = f"Tables show their first {rows:,} rows; index.json beside this file has all."
        yield tag("p", words, class_="faint")
    failed = [line for line in page.tasks if line.why]
    if failed:
        cells = [(name(each.task), name(each.recipes), each.why) for each in failed[:rows]]
        yield join([tag("h2", "What failed, and why"), table(("task", "recipes", "why"), cells, "Tasks that failed")])
    yield from _qualities(page, rows)
    made = [
        (name(each.model), name(each.recipe), name(each.path), f"{each.bits_per_weight:.2f}", f"{each.nbytes:,}",
         _loss(each), each.gates or "-")
        for each in page.artifacts[:rows]
    ]  # fmt: skip
    heads = ("model", "recipe", "file", "bits", "bytes", "KL (nats)", "gates")
    yield join([tag("h2", "Artifacts"), table(heads, made, "All that was made, with sizes and measured quality")])
    tasks = [
        (name(each.task), name(each.recipes), f"{MARKS.get(each.state, '·')} {each.state}", each.where,
         duration(each.seconds))
        for each in page.tasks[:rows]
    ]  # fmt: skip
    yield join([tag("h2", "Tasks"), table(("task", "recipes", "state", "where", "time"), tasks, "All tasks", 1)])


def _verdict(page: BatchPage) -> Markup:
    total = sum(page.states.values())
    said = ", ".join(f"{many:,} {state}" for state, many in page.states.items() if many)
    nbytes = sum(each.nbytes for each in page.artifacts)
    words = f"{counted(total, 'task')}: {said}. {counted(len(page.artifacts), 'artifact')}, {size(nbytes)}."
    failed, done = page.states.get("failed", 0), page.states.get("done", 0)
    mark, kind = ("✕ ", "verdict bad") if failed else ("✓ ", "verdict good") if done == total else ("", "verdict")
    return tag("p", f"{mark}{words}", class_=kind)


def _qualities(page: BatchPage, rows: int) -> Iterator[Markup]:
    """A chart for each model of which two artifacts or more were measured on one text: others cannot be compared."""
    measured = sorted((each for each in page.artifacts if each.loss is not None), key=lambda e: (e.model, e.data))
    shown = 0
    for (model, data), group in groupby(measured, key=lambda each: (each.model, each.data)):
        points = [
            (f"{each.recipe} ({each.path})", Point(each.nbytes, each.loss or 0.0, each.error, True)) for each in group
        ]
        if len(points) > 1 and shown < rows // 10:
            shown += 1
            where = f" on the text of hash {data[:HASH]}{data[64:]}" if data else ""
            yield pareto(points, f"{model}, measured{where}.")


def _loss(line: ArtifactLine) -> str:
    if line.loss is None:
        return "not measured"
    value = digits(line.loss)
    return value if line.error is None else f"{value} ± {line.error:.2g}"
