"""What is said of batches, whatever names and errors are in them: pages, XML, Markdown, tables."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from quantkit.batch.ledger import Made, TaskRecord
from quantkit.batch.matrix import Matrix
from quantkit.batch.place import Failure
from quantkit.batch.task import Task
from quantkit.cli.exits import error_of, exit_code
from quantkit.errors import BatchError, InterruptedRunError
from quantkit.pipeline.batch_records import index_of, page_of
from quantkit.pipeline.batch_result import BatchResult, TaskRow
from quantkit.pipeline.batch_words import batch_junit, batch_lines, batch_markdown, columns
from quantkit.report.html.batch import render_batch
from quantkit.report.html.page import LIMIT

HOSTILE = "<script>alert(1)</script>\x00\x1b[31m | ]]> \u202e & \"' `x` " + "long " * 500


def result(tasks: int, message: str = "broken", *, stopped: bool = False) -> BatchResult:
    """Every third task failed, every fifth was not begun, the others have measured artifacts."""
    rows = []
    for n in range(tasks):
        task = Task(f"m{n // 2}.r{n % 2}", f"m{n // 2}", (f"r{n % 2}",), ("convert", "x"), Path())
        file = (f"m/{n}.gguf", 1000 + n, "a" * 64)
        made = Made("q4_k_m", "model", f"m/{n}.manifest.json", "i" * 64, "s", 4.5, (file,),
                    0.01 / (n + 1), 0.001, ("kld<1",))  # fmt: skip
        failure = Failure("input", 3, message, message)
        if n % 5 == 4:
            rows.append(TaskRow(task, "waiting", None))
        elif n % 3 == 2:
            record = TaskRecord(task.id, "k", "here:1", 0.0, 3, 1.0, 1, failure)
            rows.append(TaskRow(task, "failed", record))
        else:
            rows.append(TaskRow(task, "done", TaskRecord(task.id, "k", "here:1", 0.0, 0, 1.0, 1, artifacts=(made,))))
    matrix = Matrix(Path("/some/matrix.toml"), Path("/some/out"), {}, (), ())
    return BatchResult(matrix, tuple(rows), 1.5, stopped)


class Tags(HTMLParser):
    """The elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)


def test_whatever_an_error_says_is_text() -> None:
    found = result(9, HOSTILE)
    tags = Tags()
    page = render_batch(page_of(found)).decode()
    tags.feed(page)
    assert not tags.seen & {"script", "iframe", "img", "link"}
    assert "\u202e" not in page
    suite = ET.fromstring(batch_junit(found))
    assert [suite.get(key) for key in ("tests", "failures")] == ["9", "3"]
    [inner] = suite
    assert inner.get("skipped") == "1"
    assert len(list(suite.iter("skipped"))) == 1
    markdown = batch_markdown(found)
    assert "<script>" not in markdown
    assert all(line.count(" | ") == 2 for line in markdown.splitlines() if line.startswith("| m0.r"))
    for width in (60, 80, 120):
        assert max(map(len, batch_lines(found, width))) <= width


def test_pages_of_many_tasks_stay_small_and_say_so() -> None:
    found = result(10_000, "broken " * 20)
    page = render_batch(page_of(found))
    assert len(page) <= LIMIT
    assert b"index.json beside this file has all" in page
    assert b"Quality against size" in page
    assert len(index_of(found)["artifacts"]) == sum(row.state == "done" for row in found.rows)
    assert len(batch_markdown(found)) < 1_000_000  # what GitHub takes
    assert "The first 500 are shown" in batch_markdown(found)


@pytest.mark.parametrize(
    ("codes", "told"), [((8,), 8), ((8, 6), 6), ((3, 8), 3), ((4, -9), -9), ((7, 9, 5), 9)], ids=str
)
def test_one_task_ends_as_its_command_line_did(codes: tuple[int, ...], told: int) -> None:
    """Of several recipes that failed what may pass tells: whoever runs it by a server of jobs tries it again then."""
    failures = tuple(Failure("x", code, f"ended with {code}", "h", f"r{code}") for code in codes)
    task = Task("m.gguf", "m", ("r",), ("convert", "x"), Path())
    record = TaskRecord(task.id, "k", "here:1", 0.0, 10, 1.0, 1, Failure("batch", 10, "some failed", "h"), failures)
    found = replace(result(0), rows=(TaskRow(task, "failed", record),)).telling
    assert found is not None
    assert found.exit == told
    error = error_of(found.exit, found.code, found.message, found.hint)
    assert (exit_code(error), error.code) == (5 if told < 0 else told, "x")
    assert result(1).telling is None


def test_how_a_batch_ends() -> None:
    result(2).require()
    with pytest.raises(BatchError, match=r"1 of 3 tasks failed: m1\.r0: broken") as caught:
        result(3).require()
    assert caught.value.hint == "quantkit batch retry /some/matrix.toml begins those again"
    with pytest.raises(BatchError, match=r"^267 of 1000 tasks failed: (\S+: broken; ){5}and 262 more$"):
        result(1000).require()
    with pytest.raises(InterruptedRunError):
        result(3, stopped=True).require()


@pytest.mark.parametrize("width", [33, 40, 60, 80])
def test_ids_that_begin_alike_are_told_apart_in_narrow_tables(width: int) -> None:
    rows = [(f"a-model-with-quite-a-long-name-of-{n}b.q{n}_k_m", f"q{n}_k_m", "done") for n in range(2, 7)]
    lines = columns(rows, ("task", "recipe", "state"), width)
    assert max(map(len, lines)) <= width
    for line, (task, *_) in zip(lines[1:], rows, strict=True):
        said = line.split()[0]
        assert said == task or (said.endswith(task[-4:]) and said[:4] == task[:4] and "…" in said)
    assert len({line.split()[0] for line in lines}) == 6


@pytest.mark.parametrize("n", [1, 7])
def test_the_best_variants_are_joined_by_a_line(n: int) -> None:
    page = render_batch(page_of(result(n))).decode()
    assert ("<svg" in page) == (n > 1)
