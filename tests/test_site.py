"""The documentation site: it builds without a warning, its links lead somewhere, and it says what the code says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from commands import quantkit
from examples import blocks
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from jsonschema import Draft202012Validator

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "docs"))

import hooks  # noqa: E402
from check_links import faults  # noqa: E402
from diagrams import draw, read_block  # noqa: E402

from quantkit.cli.app import program  # noqa: E402
from quantkit.cli.exits import CODES  # noqa: E402
from quantkit.qtypes import base  # noqa: E402
from quantkit.recipes.read import adapter_recipe_names, recipe_names  # noqa: E402
from quantkit.schemas import json_schema, schema_names  # noqa: E402

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def text_of(path: Path) -> str:
    """What a page says, without its markup."""
    page = path.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    return unescape(re.sub(r"<[^>]+>", "", page))


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert faults(site) == []
    assert len(list(site.rglob("*.html"))) > 30


def test_every_page_of_docs_is_in_the_site(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / page).is_file(), page
        assert f'href="{page}"' in home, f"{page} is not in the navigation"


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that is no group."""
    members = getattr(command, "commands", None)
    if members is None:
        yield words
        return
    for name, member in members.items():
        yield from leaves(member, (*words, name))


def test_every_command_and_option_has_its_place(site: Path) -> None:
    listed = list(leaves(program()))
    assert len(listed) > 20
    for words in listed:
        page = text_of(site / "reference" / "commands" / f"{words[0]}.html")
        assert f"quantkit {' '.join(words)}" in page
        said = quantkit(*words, "--help").stdout
        for option in set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", said, re.MULTILINE)) - {"--help"}:
            assert option in page, (words, option)


def test_every_schema_is_published_as_the_package_has_it(site: Path) -> None:
    index = json.loads((site / "schemas" / "index.json").read_text(encoding="utf-8"))
    assert set(index) == set(schema_names())
    for name, file in index.items():
        schema = json.loads((site / "schemas" / file).read_text(encoding="utf-8"))
        assert schema == json_schema(name)
        Draft202012Validator.check_schema(schema)
        assert schema["title"] and schema["description"] and schema["$id"] == name
    assert index["quantkit.plan/1"] == "plan-1.json"


def test_every_recipe_and_exit_code_is_listed(site: Path) -> None:
    page = (site / "reference" / "recipe-list.html").read_text(encoding="utf-8")
    assert [n for n in (*recipe_names(), *adapter_recipe_names()) if f'<h3 id="{n}"' not in page] == []
    said = text_of(site / "reference" / "recipe-list.html")
    assert "4,912,898,304" in said  # the tensors of Llama-3.1-8B-Q4_K_M as llama.cpp writes it
    exits = text_of(site / "reference" / "exit-codes.html")
    assert all(re.search(rf"^{number}$", exits, re.MULTILINE) for number in (0, 1, 141, *CODES.values()))


def test_every_public_name_is_documented(site: Path) -> None:
    import quantkit as package

    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert [name for name in package._MODULES if f'id="quantkit.{name}"' not in page] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_search_finds_what_is_asked_without_a_server(site: Path, tmp_path: Path) -> None:
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    where = (f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=15000", "--dump-dom")
    shown = subprocess.run(
        [str(CHROMIUM), *options, *where, f"{(site / 'index.html').as_uri()}?q=imatrix"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert re.search(r"\d+ matching documents", shown.stdout)
    assert "reference/commands/calibrate.html?h=imatrix" in shown.stdout


# --- what pages say by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q4_0", "q4_k", "q5_k", "q6_k", "iq4_xs"])
def test_pictures_of_blocks_show_what_ggml_stores(name: str) -> None:
    """Sizes are those of the gguf package; fields those of the structs in ggml-common.h."""
    block = read_block(name)
    weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
    assert (block.qtype.block, block.pieces[-1].stop) == (weights, nbytes)
    assert sum(bits for piece in block.pieces for bits, _ in piece.holds.values()) == 8 * nbytes
    fields = {"q4_0": ["d", "codes"], "q4_k": ["d", "dmin", "sc m", "codes"], "q6_k": ["codes", "codes", "sc", "d"],
              "q5_k": ["d", "dmin", "sc m", "codes", "codes"], "iq4_xs": ["d", "sc", "codes"]}  # fmt: skip
    assert [" ".join(piece.holds) for piece in block.pieces] == fields[name]
    starts = {"q4_0": [0, 2], "q4_k": [0, 2, 4, 16], "q5_k": [0, 2, 4, 16, 48], "q6_k": [0, 128, 192, 208],
              "iq4_xs": [0, 2, 8]}  # fmt: skip
    assert [piece.start for piece in block.pieces] == starts[name]
    assert f"{nbytes} bytes" in draw(block)


def test_the_table_of_bits_is_that_of_the_types() -> None:
    text = (ROOT / "docs" / "concepts" / "size.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for name, *figures in rows:
        qtype = base.get(name)
        assert qtype.code_bytes is not None
        scales = qtype.nbytes - qtype.code_bytes
        found = [qtype.block, qtype.nbytes, qtype.code_bytes, scales, qtype.bits_per_weight]
        assert [float(figure) for figure in figures] == found, name


def test_the_workflow_of_the_page_fits_the_action() -> None:
    [text] = [text for language, text in blocks(ROOT / "docs" / "tutorials" / "ci.md") if language == "yaml"]
    inputs = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"]
    steps = yaml.safe_load(text)["jobs"]["quantize"]["steps"]
    [given] = [step["with"] for step in steps if "quantkit@" in step.get("uses", "")]
    assert set(given) <= set(inputs)
    assert {name for name, each in inputs.items() if each.get("required")} <= set(given)


def test_pages_that_the_navigation_does_not_name_are_in_it_all_the_same() -> None:
    named = [{"Start": ["index.md"]}, {"How-to": ["how-to/index.md"]}, {"Reference": [{"Commands": []}]}]
    listed = hooks.listed(hooks.on_config(SimpleNamespace(nav=named)).nav)
    assert sorted(listed) == sorted(set(listed))
    assert {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} <= set(listed)
    assert "reference/commands/convert.md" in listed


# --- the check itself ------------------------------------------------------------------------------------------------

WRONG = [
    ('<a href="b.html">', "there is no such file"),
    ('<a href="../b.html">', "there is no such file"),
    ('<a href="#nowhere">', "has no such anchor"),
    ('<a href="a.html#nowhere">', "has no such anchor"),
    ('<a href="http://example.org">', "not by https"),
    ('<a href="/a.html">', "there is no such file"),
    ('<script src="https://example.org/a.js">', "loaded from elsewhere"),
    ('<script src="//example.org/a.js">', "loaded from elsewhere"),
    ('<link rel="stylesheet" href="https://example.org/a.css">', "loaded from elsewhere"),
    ('<link rel="preconnect" href="https://example.org">', "loaded from elsewhere"),
    ('<img src="a.png">', "is loaded, and not there"),
    ('<img srcset="https://example.org/a.png 2x">', "loaded from elsewhere"),
    ("<style>@import 'https://example.org/a.css'</style>", "loaded from elsewhere"),
    ('<p style="background: url(https://example.org/a.png)">', "loaded from elsewhere"),
]


@pytest.mark.parametrize(("html", "what"), WRONG)
def test_the_check_of_links_finds_what_is_wrong(html: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "b.html").touch()
    (tmp_path / "site" / "a.html").write_text(f'<p id="here">{html}', encoding="utf-8")
    [said] = faults(tmp_path / "site")
    assert what in said


def test_the_check_of_links_lets_be_what_is_right(tmp_path: Path) -> None:
    right = '<a id="here" href="#here"><a href="b/"><a href="https://example.org"><img src="data:image/png;base64,">'
    (tmp_path / "a.html").write_text(right + '<link rel="canonical" href="https://example.org">', encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<a href="../a.html#here">', encoding="utf-8")
    (tmp_path / "c.css").write_text("a { background: url(https://example.org/x) }", encoding="utf-8")
    assert faults(tmp_path) == ["c.css: https://example.org/x: is loaded from elsewhere"]
