"""The examples in the documentation run as they stand, and say what the pages show."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from commands import TINY
from examples import Example, blocks, examples, wrong, wrong_python

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "docs"))

from notebook_pages import cells  # noqa: E402
from shapes import write_llama_8b  # noqa: E402

PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if any(e.shown is not None for e in examples(path))]
SESSIONS = [p for p in sorted((ROOT / "docs").rglob("*.md")) if any(language == "pycon" for language, _ in blocks(p))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for given: a model, one of a real one's shape, and texts."""
    shutil.copytree(TINY, tmp_path / "My-Model", ignore=shutil.ignore_patterns("metrics.json"))
    write_llama_8b(tmp_path / "Llama-3.1-8B")
    shutil.copy(TINY.parent / "calibration.jsonl", tmp_path / "text.jsonl")
    write_held_out(tmp_path / "held-out.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def write_held_out(path: Path) -> None:
    """Short texts of several kinds, so that measuring takes no time."""
    documents = (TINY.parent / "held-out.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    texts = (json.loads(document)["text"][:700] for document in documents)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT / "docs").as_posix())
def test_commands_say_what_the_page_shows(page: Path) -> None:
    found = list(wrong(page))
    assert not found, "\n\n".join(found)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", SESSIONS, ids=lambda path: path.relative_to(ROOT / "docs").as_posix())
def test_python_says_what_the_page_shows(page: Path) -> None:
    assert list(wrong_python(page)) == []


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_the_notebook_prints_what_it_shows() -> None:
    """Cell by cell, in one namespace, without a kernel."""
    namespace: dict[str, object] = {}
    code = [cell for cell in cells() if cell.kind == "code"]
    for cell in code:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(cell.source, namespace)
        assert said.getvalue() == cell.prints, cell.source
    assert len(code) > 8


def test_pages_with_examples_are_found() -> None:
    names = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES}
    assert {f"tutorials/{name}.md" for name in ("home", "publisher", "platform", "ci")} <= names


# --- the reader of examples ------------------------------------------------------------------------------------------

PAGE = """
```bash
quantkit plan a --to b   # what it says
hf download org/name
```
```console
$ quantkit recipes show q4_0 \\
    --json
{...}
$ echo $?
0
```
"""


def test_examples_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(PAGE)
    found = examples(tmp_path / "a.md")
    assert found == [
        Example("quantkit plan a --to b"), Example("hf download org/name"),
        Example("quantkit recipes show q4_0 --json", "{...}"), Example("echo $?", "0"),
    ]  # fmt: skip
    assert [example.runs for example in found] == [True, False, True, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$ echo one\ntwo\n", "the page shows"),
        ("$ quantkit recipes show q4_9\n...\n", "exit 2"),
        ("$ quantkit recipes show q4_9\n...\n$ echo $?\n0\n", "the page shows"),
        ("$ no-such-program\n", "exit 127"),
    ],
)
def test_examples_that_are_wrong_are_found(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(f"```console\n{text}```\n")
    [found] = wrong(tmp_path / "a.md")
    assert said in found


def test_sessions_that_are_wrong_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("```pycon\n>>> 1 + 1\n3\n```\n")
    assert list(wrong_python(tmp_path / "a.md"))
    (tmp_path / "a.md").write_text("```pycon\n>>> a = 1\n```\n\n```pycon\n>>> a + 1\n2\n```\n")
    assert not list(wrong_python(tmp_path / "a.md"))
