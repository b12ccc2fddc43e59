"""HTML and SVG from values: whatever is not markup already is escaped, and what a screen would not show is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from math import isfinite
from typing import Any

MAX_NAME, MAX_TOKEN, MAX_TEXT = 160, 60, 1200  # characters
SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": " "}
VOID = frozenset({"meta", "br", "rect", "line", "circle", "polyline", "path", "col"})


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def visible(text: str, limit: int = MAX_NAME) -> str:
    """Text of which every character is seen: controls, bidirectional marks, surrogates as escapes; long text cut."""
    if len(text) <= limit and text.isprintable():
        return text
    cut = text[:limit]
    safe = "".join(
        c if c.isprintable() else SIGNS.get(c) or c.encode("unicode_escape", "surrogatepass").decode() for c in cut
    )
    return safe if len(text) <= limit else f"{safe}… ({len(text):,} characters)"


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children that are no `Markup` are text; attributes without a value (None) are left out.

    `class_` is the attribute class, and in names "_" stands for "-".
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(visible(str(value), MAX_TEXT))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = join(children)
    if name in VOID and not inner:
        return Markup(f"<{name}{said}>" if name in ("meta", "br", "col") else f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{inner}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Parts one after the other, those that are no `Markup` escaped."""
    return Markup("".join(p if isinstance(p, Markup) else escape(visible(str(p), MAX_TEXT)) for p in parts))


def name(text: str, limit: int = MAX_NAME) -> Markup:
    """A name from outside: as one piece whatever its direction of writing."""
    return tag("bdi", visible(text, limit))


def table(head: Iterable[object], rows: Iterable[Iterable[object]], caption: str, numbers: int = 0) -> Markup:
    """A table whose first column heads its rows; the last `numbers` columns are numbers. Where there is little room,
    cells stand below each other, each behind the head of its column."""
    heads = list(head)
    right = len(heads) - numbers

    def cell(at: int, value: object) -> Markup:
        kind = "n" if at >= right else None
        return (
            tag("th", value, scope="row")
            if at == 0
            else tag("td", value, class_=kind, data_of=heads[at] if len(heads) > 2 else None)
        )

    top = tag(
        "tr", *(tag("th", value, scope="col", class_="n" if at >= right else None) for at, value in enumerate(heads))
    )
    body = [tag("tr", *(cell(at, value) for at, value in enumerate(row))) for row in rows]
    whole = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", *body))
    return tag("div", whole, class_="wide", role="region", aria_label=caption, tabindex="0")


def figure(picture: Markup, caption: str) -> Markup:
    """A picture with words below it."""
    return tag("figure", picture, tag("figcaption", caption))


def picture(width: float, height: float, says: str, *shapes: object) -> Markup:
    """An SVG of this size that says in words what it shows."""
    return tag(
        "svg", tag("title", says), *shapes, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=says,
        class_="chart",
    )  # fmt: skip


def estimate(found: Mapping[str, Any], scale: float = 1.0) -> str:
    """A mean and its standard error: "0.0217 ± 0.0013"."""
    value, error = digits(scale * found["value"]), found["standard_error"]
    return value if error is None else f"{value} ± {scale * error:.2g}"


def digits(value: float | None) -> str:
    """A number with the digits that count, "-" for none."""
    if value is None or not isfinite(value):
        return "-"
    if value == 0:
        return "0"
    return f"{value:.3g}" if abs(value) < 1 or abs(value) >= 1e6 else f"{value:.4g}"
