"""quantkit report and eval --html: what is on the page is what was measured, and nothing else is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.report.html.markup import digits
from quantkit.report.text import size

TEXT = Path(__file__).parent.parent / "data" / "held-out.jsonl"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artifacts, measured twice: `measured.json`, `history.jsonl` and `report.html`."""
    folder = tmp_path_factory.mktemp("report")
    assert quantkit("convert", TINY, "--to", "q8_0,q4_0", "-o", folder, "--no-verify", "-q").status == 0
    files = sorted(folder.glob("*.gguf"))
    few = ("--against", TINY, "--data", TEXT, "--window", 64, "--tokens", 300, "--append", folder / "history.jsonl")
    places = ("--html", folder / "report.html", "--gate", "top1>=99.99%", "--json")
    for _ in range(2):
        found = quantkit("eval", *files, *few, *places)
        assert found.status == 8
    (folder / "measured.json").write_text(found.stdout)
    return folder


def test_the_page_shows_what_was_measured(made: Path) -> None:
    shown = (made / "report.html").read_text()
    body = json.loads((made / "measured.json").read_text().splitlines()[0])
    assert "2 of 2 gates do not hold" in shown
    for each in body["artifacts"]:
        assert each["name"] in shown
        for value in (each["kl"]["value"], each["perplexity_ratio"]["value"], each["blocks"][-1]["relative_error"]):
            assert digits(value) in shown
        assert sum(one["tokens"] for one in each["kl_histogram"]) == each["tokens"]
        assert sum(one["tensors"] for one in each["storage"]) == 38
        for passage in each["worst"]:
            assert len(passage["choices"]) == passage["tokens"]
            assert "".join(choice["text"] for choice in passage["choices"]).strip() == passage["text"].strip()
            assert digits(passage["kl"]) in shown
        differing = sum(not choice["same"] for passage in each["worst"] for choice in passage["choices"])
        assert differing or "Q8_0" in each["name"]
    assert f"KL divergence of {body['artifacts'][0]['name']} over 2 runs" in shown
    assert shown.count("<mark>") == 2 * sum(
        not choice["same"] for each in body["artifacts"] for passage in each["worst"] for choice in passage["choices"]
    )


def test_records_show_the_same_again(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.html"
    found = quantkit("report", made / "measured.json", made / "history.jsonl", "--out", out, "--json").json
    assert (found["artifacts"], found["runs"], found["bytes"]) == (2, 4, out.stat().st_size)
    assert out.read_bytes() == (made / "report.html").read_bytes()
    pretty = tmp_path / "pretty.json"
    pretty.write_text(json.dumps(json.loads((made / "measured.json").read_text().splitlines()[0]), indent=2))
    shown = quantkit("report", made / "history.jsonl", "--out", out.parent / "new" / "r.html", "--dry-run")
    assert (shown.status, shown.stdout) == (0, f"would write {out.parent / 'new' / 'r.html'}\n")
    assert not (out.parent / "new").exists()
    assert quantkit("report", pretty, made / "history.jsonl", "--out", out).status == 0
    assert out.read_bytes() == (made / "report.html").read_bytes()


def test_artifacts_alone_are_shown_without_figures(made: Path, tmp_path: Path) -> None:
    file = next(made.glob("*Q4_0.gguf"))
    found = quantkit("report", file, "--out", tmp_path / "r.html", "--title", "Mine")
    assert (found.status, found.stdout) == (0, f"{tmp_path / 'r.html'}\n")
    shown = (tmp_path / "r.html").read_text()
    assert "Nothing was measured" in shown
    assert "<title>Mine - quantkit report</title>" in shown
    assert size(file.stat().st_size) in shown
    found = quantkit("report", file, made / "measured.json", "--out", tmp_path / "r.html", "--json")
    assert found.json["artifacts"] == 2  # once, for its record is known by its identity


def test_what_is_refused(made: Path, tmp_path: Path) -> None:
    notes, wrong, empty = tmp_path / "notes.txt", tmp_path / "wrong.json", tmp_path / "empty.jsonl"
    notes.write_text("no JSON")
    wrong.write_text(json.dumps({"schema": "quantkit.eval/1", "artifacts": []}) + "\n")
    empty.write_text("")
    measured = made / "measured.json"
    for status, said, arguments in (
        (3, "does not exist", (tmp_path / "none.json", "--out", tmp_path / "r.html")),
        (3, "notes.txt", (notes, "--out", tmp_path / "r.html")),
        (3, "missing or malformed field", (wrong, "--out", tmp_path / "r.html")),
        (3, "empty.jsonl", (empty, "--out", tmp_path / "r.html")),
        (3, "no record of eval", (TINY / "config.json", "--out", tmp_path / "r.html")),
        (6, "is an input", (measured, "--out", measured)),
        (6, "is no report of quantkit", (measured, "--out", notes)),
        (6, "Is a directory", (measured, "--out", tmp_path)),
    ):
        found = quantkit("report", *arguments)
        assert (found.status, said in found.stderr) == (status, True), found.stderr
    assert notes.read_text() == "no JSON"
    options = ("--against", TINY, "--data", TEXT, "--html", notes)
    found = quantkit("eval", next(made.glob("*Q4_0.gguf")), *options)
    assert (found.status, "is no report of quantkit" in found.stderr) == (6, True)
