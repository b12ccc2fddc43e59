"""The document: what it may load (nothing), its one style sheet, and its sections, within a limit of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from quantkit.records import record
from quantkit.report.html import sections
from quantkit.report.html.charts import Point
from quantkit.report.html.markup import Markup, join, name, table, tag
from quantkit.report.html.style import CSS, POLICY
from quantkit.report.text import size
from quantkit.version import __version__

LIMIT = 2_000_000  # bytes of a file
ROOM = 20_000  # of them for what is not a section
START = "<!DOCTYPE html>\n<!-- quantkit report -->\n"
LEVELS = (  # from everything to what always fits
    sections.Detail(variants=24, passages=10, rows=400, maps=True),
    sections.Detail(variants=24, passages=3, rows=200, maps=True),
    sections.Detail(variants=12, passages=1, rows=100, maps=False),
    sections.Detail(variants=2, passages=1, rows=40, maps=False),
    sections.Detail(variants=0, passages=0, rows=20, maps=False),
)


@record
class Artifact:
    """A file of which sizes and types are known, and no more; `storage` as `report.kinds.Stored.as_json` says."""

    name: str
    nbytes: int
    identity: str | None
    storage: tuple[Mapping[str, Any], ...]

    def as_record(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.nbytes, "identity": self.identity, "storage": self.storage}


@record
class Page:
    """What a report shows: measurements (quantkit.eval/1), runs (quantkit.eval-history/1), and artifacts alone."""

    title: str
    evaluations: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    artifacts: tuple[Artifact, ...] = ()


def render(page: Page) -> bytes:
    """The file as UTF-8: with less detail, and a word on it, where it would be larger than LIMIT."""
    *richer, plainest = LEVELS
    for level, detail in enumerate(richer):
        parts = _within(_sections(page, detail, level), LIMIT - ROOM)
        if parts is not None:
            return document(page.title, parts)
    return document(page.title, list(_sections(page, plainest, len(richer))))


def _within(parts: Iterable[Markup], most: int) -> list[Markup] | None:
    """Parts of at most `most` bytes together; None as soon as there are more."""
    found, total = [], 0
    for part in parts:
        found.append(part)
        total += len(part.encode())
        if total > most:
            return None
    return found


def document(title: str, parts: Sequence[Markup]) -> bytes:
    """A whole file of parts, as UTF-8."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content=f"quantkit {__version__}"),
        tag("title", f"{title} - quantkit report"),
        tag("style", Markup(CSS)),
    )
    made = f"Made by quantkit {__version__}. Nothing in this file is loaded from elsewhere, and none of it is a script."
    body = tag("body", tag("main", *parts), tag("footer", made))
    return f"{START}{tag('html', head, body, lang='en')}\n".encode()


def _sections(page: Page, detail: sections.Detail, level: int) -> Iterator[Markup]:
    yield tag("h1", name(page.title))
    yield sections.verdict(page.evaluations)
    if level:
        yield tag("p", "Details were left out: with all of them the file would be too large.", class_="faint")
    for body in page.evaluations[: detail.rows]:
        yield join([tag("h2", "Summary"), sections.summary(body, detail)])
    if page.artifacts:
        yield _sizes(page.artifacts, detail)
    yield sections.gates(page.evaluations, detail)
    yield from _paretos(page, detail)
    yield sections.trends(page.history, detail)
    records = [each for body in page.evaluations for each in body["artifacts"]]
    records += [artifact.as_record() for artifact in page.artifacts]
    for number, each in enumerate(records[: detail.variants], 1):
        yield sections.artifact(each, number, detail)
    if len(records) > detail.variants:
        yield tag("p", f"{len(records) - detail.variants:,} further artifacts are in the tables above alone.")


def _sizes(artifacts: Sequence[Artifact], detail: sections.Detail) -> Markup:
    rows = [(name(each.name), size(each.nbytes), "not measured") for each in artifacts[: detail.rows]]
    words = table(("artifact", "size", "quality"), rows, "Artifacts that nobody measured here")
    return join([tag("h2", "Sizes"), words])


def _paretos(page: Page, detail: sections.Detail) -> list[Markup]:
    """A chart for each original, text and engine: others cannot be compared. The latest run stands for an artifact
    that is known from history alone."""
    groups: dict[tuple[str, str, str | None], dict[str, Point]] = {}
    for line in sorted(page.history, key=lambda line: str(line["time"])):
        point = Point(line["bytes"], line["kl"]["value"], line["kl"]["standard_error"], line["ok"])
        groups.setdefault((line["reference"], line["data"], line.get("engine")), {})[line["name"]] = point
    for body in page.evaluations:
        ran = next((each["engine"]["name"] for each in body["artifacts"] if each.get("engine")), None)
        found = groups.setdefault((body["reference"]["sha256"], body["data"]["token_sha256"], ran), {})
        found.update(sections.variants_of(body, detail))
    return [
        sections.pareto(
            list(found.items())[: detail.rows],
            f"Against original {original[:12]}, on text {text[:12]}{f', in {name(ran)}' if ran else ''}.",
        )
        for (original, text, ran), found in list(groups.items())[: detail.rows]
    ]
