"""The HTML report: locked, escaped whatever records say, readable by everyone, and of bounded size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

import pytest

from quantkit.report.html import LIMIT, Artifact, Page, render
from quantkit.report.html.charts import Point, frontier
from quantkit.report.html.markup import tag, visible
from quantkit.report.html.style import DARK, LIGHT, SWATCH_INK, SWATCHES
from quantkit.report.html.type_map import runs
from quantkit.report.kinds import kind_of, stored_kinds
from quantkit.schemas.evaluation import Eval, HistoryLine, Rate
from quantkit.tensors import TensorInfo

HOSTILE = (
    "</title></style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<svg onload=alert(1)>' onfocus='x",
    "--><!--",
    "]]>&amp;&#60;",
    "\ud800 half a pair \udcff",
    "\u202eright to left\u2066\u200f",
    "\x00\x1b[31m\x07\x85\ufeff",
    "a" * 5000,
    "line\r\nbreaks\ttabs",
)
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "footer", "section", "article", "h1", "h2", "h3", "h4"),
    *("p", "div", "span", "strong", "small", "mark", "code", "bdi", "ul", "li", "details", "summary"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"),
    *("svg", "rect", "line", "circle", "polyline", "text"),
}
VOID = frozenset({"meta"})
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def record(kind: Any, text: str) -> Any:
    """A value of a type of quantkit.schemas with `text` in the place of every text."""
    origin = get_origin(kind)
    if hasattr(kind, "__required_keys__"):
        return {key: record(value, text) for key, value in get_type_hints(kind).items()}
    if origin is NotRequired or origin is UnionType:
        return record(get_args(kind)[0], text)
    if origin is list:
        return [record(get_args(kind)[0], text) for _ in range(2)]
    if origin is dict:
        value = get_args(kind)[1]
        return {text: 0.5, "99": 0.25} if value is float else {text: record(value, text)}
    return {str: text, int: 3, float: 0.125, bool: False}[kind]


def page(text: str) -> Page:
    lines = tuple({**record(HistoryLine, text), "time": f"2026-11-0{day}T00:00:00"} for day in (1, 2))
    storage = ({"kind": text, "type": text, "blocks": [0, 1], "tensors": 2, "weights": 64, "bytes": 32},)
    body = record(Eval, text)
    body["artifacts"][1]["name"] = f"2 {text}"
    return Page(text, (body,), lines, (Artifact(text, 5, text, storage),))


class Tree(HTMLParser):
    """Elements with their attributes, checked to be nested properly; the texts, and what a style holds."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attributes}) == len(attributes), name
        self.elements.append((name, {key: value or "" for key, value in attributes}))
        if name not in VOID:
            self._open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, {key: value or "" for key, value in attributes}))

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        (self.styles if self._open[-1:] == ["style"] else self.texts).append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def attributes(tree: Tree, name: str) -> Iterator[dict[str, str]]:
    return (found for element, found in tree.elements if element == name)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_text_is_text(text: str) -> None:
    raw = render(page(text))
    source = raw.decode()
    tree = Tree(source)
    assert {name for name, _ in tree.elements} <= ELEMENTS
    for name, found in tree.elements:
        assert not [key for key in found if key.startswith("on") or key in ("style", "src", "href", "srcset")], name
    assert tree.comments == [" quantkit report "]
    assert all(c.isprintable() or c == "\n" for c in source)
    told = visible(text, 20)[:20]
    assert told.rstrip("…").split("(")[0] in "".join(tree.texts)


def test_prompts_tasks_and_engines_are_shown() -> None:
    body = record(Eval, "x")
    for each in body["artifacts"]:
        each |= {"engine": {**each["engine"], "name": "an-engine"}}
        each["prompts"] |= {"worst": ["the-id"]}
        each["prompts"]["answers"][0] |= {"id": "the-id", "text": "what it wrote"}
        each["tasks"][0] |= {"task": "a-task"}
    texts = "".join(Tree(render(Page("x", (body,))).decode()).texts)
    assert [texts.count(word) for word in ("the-id", "what it wrote", "a-task")] == [2, 2, 2]
    assert "an-engine x; KL 0.125 ± 0.12 nats from our own run" in texts


def test_runs_in_another_engine_have_a_trend_of_their_own() -> None:
    lines = [{**record(HistoryLine, "x"), "time": f"2026-11-0{day}", "engine": None} for day in (1, 2)]
    assert "over 2 runs" in render(Page("x", (), tuple(lines))).decode()
    lines[1]["engine"] = "an-engine"
    assert "No artifact was measured twice" in render(Page("x", (), tuple(lines))).decode()


def test_the_trend_has_the_rates_of_prompts_where_they_were_asked() -> None:
    lines = [{**record(HistoryLine, "x"), "time": f"2026-11-0{day}"} for day in (1, 2, 3)]
    del lines[0]["prompts"]  # of an older version
    for line, share in zip(lines[1:], (0.5, 0.75), strict=True):
        rate = {**record(Rate, "x"), "value": share, "reference": 1.0}
        line["prompts"] = {**line["prompts"], "set": "json", "rates": {"json_valid": rate, "choice": None}, "lost": 4}
    texts = "".join(Tree(render(Page("x", (), tuple(lines))).decode()).texts)
    then, now = (f"json_valid {100 * share} % (original 100.0 %)" for share in (0.5, 0.75))
    assert f"x, json: {then} then, {now} now, over 2 runs." in texts
    assert texts.count(now) == 2, "and in the table"
    assert "Prompts of the runs" not in render(Page("x", (), (lines[0],))).decode()


def test_the_policy_allows_its_style_and_nothing_else() -> None:
    tree = Tree(render(page("plain")).decode())
    [policy] = [found["content"] for found in attributes(tree, "meta") if "http-equiv" in found]
    [style] = tree.styles
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not re.search(r"url\(|@import|https?:", style)


def test_everyone_can_read_it() -> None:
    tree = Tree(render(page("plain")).decode())
    assert next(attributes(tree, "html"))["lang"] == "en"
    assert "plain - quantkit report" in tree.texts
    names = [name for name, _ in tree.elements]
    assert names.count("h1") == names.count("main") == 1
    assert names.count("caption") == names.count("table") > 8
    assert all(found.get("scope") in ("row", "col") for found in attributes(tree, "th"))
    for found in attributes(tree, "svg"):
        assert found.get("aria-hidden") == "true" or (found["role"] == "img" and found["aria-label"])
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-4]", name)]
    assert all(b <= a + 1 for a, b in pairwise(levels) if a < 3)
    assert {"error", "bar", "curve", "dot bad", "dash"} <= {found.get("class") for _, found in tree.elements}


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_have_contrast(scheme: dict[str, str]) -> None:
    pairs = [(ink, ground) for ink in ("ink", "faint", "good", "bad", "accent") for ground in ("paper", "card")]
    colours = [(scheme[ink], scheme[ground]) for ink, ground in [*pairs, ("markink", "mark")]]
    for ink, ground in [*colours, *((SWATCH_INK, swatch) for swatch in SWATCHES)]:
        high, low = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_however_much_there_is_it_stays_small() -> None:
    body = record(Eval, "x" * 300)
    each = body["artifacts"][0]
    stored = [
        {"kind": f"kind {n} {'y' * 200}", "type": f"t{n % 90}", "blocks": list(range(300)), "tensors": 1, "weights": 9,
         "bytes": n} for n in range(600)
    ]  # fmt: skip
    passages = [{**each["worst"][0], "choices": each["worst"][0]["choices"] * 500}] * 10
    many = [{**each, "name": f"{n}", "storage": stored, "worst": passages} for n in range(400)]
    lines = tuple({**record(HistoryLine, "h"), "name": f"{n % 500}", "time": f"{n:05}"} for n in range(4000))
    data = render(Page("many", ({**body, "artifacts": many},), lines))
    assert len(data) <= LIMIT
    assert "Details were left out" in data.decode()
    assert "further artifacts" in data.decode()


def test_infinite_and_absurd_numbers_are_drawn() -> None:
    body = record(Eval, "a")
    for value in (0.0, 1e-300, 1e300, float("inf"), float("nan"), -1.0):
        for each in body["artifacts"]:
            each["kl"] = {**each["kl"], "value": value}
            each["blocks"] = [{"block": "b", "relative_error": value}] * 3
            each["bytes"] = 0
        Tree(render(Page("n", (body,))).decode())


@pytest.mark.parametrize(
    ("name", "kind", "block"),
    [
        ("blk.3.attn_q.weight", "attn_q", 3),
        ("model.layers.12.mlp.experts.7.up_proj.weight", "mlp.experts.*.up_proj", 12),
        ("transformer.h.0.attn.c_attn.bias", "attn.c_attn.bias", 0),
        ("token_embd.weight", "token_embd", None),
        ("layers.99999.x", "layers.99999.x", None),
        ("blk.٣.x.weight", "blk.٣.x", None),
        ("", "other", None),
    ],
)
def test_kinds_of_names(name: str, kind: str, block: int | None) -> None:
    assert kind_of(name) == (kind, block)


def test_tensors_are_summed_by_kind_and_type() -> None:
    def tensor(name: str, dtype: str) -> TensorInfo:
        return TensorInfo(name, dtype, (4, 8), 18)

    found = stored_kinds([tensor("blk.1.a.weight", "q4_0"), tensor("blk.0.a.weight", "q4_0"), tensor("b", "f32")])
    assert [(s.kind, s.type, s.blocks, s.tensors, s.weights, s.nbytes) for s in found] == [
        ("a", "q4_0", [0, 1], 2, 64, 36),
        ("b", "f32", [], 1, 32, 18),
    ]
    many = stored_kinds(tensor(f"k{n}x", "f32") for n in range(1000))
    assert len(many) == 257
    assert sum(each.tensors for each in many) == 1000


def test_the_edge_of_quality_and_size() -> None:
    points = [Point(n, loss, None, True) for n, loss in ((3, 1.0), (1, 5.0), (2, 6.0), (4, 1.0), (5, 0.5))]
    assert frontier(points) == [1, 0, 4]
    assert runs([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_a_tag_escapes_what_it_is_given() -> None:
    assert tag("p", "<b>", tag("b", "x&y"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<b>x&amp;y</b></p>'


MEASURE = """<!DOCTYPE html><body><script>
const found = {};
async function measure(width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:800px;border:0`;
  frame.src = "report.html";
  document.body.append(frame);
  await new Promise(done => frame.onload = done);
  const page = frame.contentDocument, view = frame.contentWindow;
  const small = [...page.querySelectorAll("p,td,th,li")].map(e => parseFloat(view.getComputedStyle(e).fontSize));
  found[width] = {wide: page.documentElement.scrollWidth, smallest: Math.min(...small), title: page.title,
    scripts: page.scripts.length, alerted: String(view.alerted), text: page.body.innerText.length,
    ink: view.getComputedStyle(page.querySelector("mark")).textDecorationLine};
}
(async () => { for (const width of [320, 400, 1100]) await measure(width);
  document.title = "measured"; document.body.textContent = "FOUND" + JSON.stringify(found) + "DNUOF"; })();
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize("text", ["plain words", "<img src=x onerror='window.alerted=1'>" * 3, "w" * 900])
def test_chromium_shows_it_on_phones_and_screens(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.html").write_bytes(render(page(text)))
    (tmp_path / "measure.html").write_text(MEASURE)
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--allow-file-access-from-files")
    where = (f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom")
    shown = subprocess.run(
        [str(CHROMIUM), *options, *where, (tmp_path / "measure.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    measured = json.loads(
        shown.stdout.partition("FOUND")[2].partition("DNUOF")[0].replace("&lt;", "<").replace("&gt;", ">")
    )
    assert set(measured) == {"320", "400", "1100"}
    for width, found in measured.items():
        assert found["wide"] <= int(width), found
        assert found["smallest"] >= 12
        assert (found["scripts"], found["alerted"]) == (0, "undefined")
        assert found["text"] > 1000
        assert found["ink"] == "underline"  # the style sheet is let in by the policy
        assert found["title"].endswith(" - quantkit report")
