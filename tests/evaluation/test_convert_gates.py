"""convert --gate: a file that breaches is kept aside, and published once the gates let it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.events import Event, Warned
from quantkit.pipeline.step_summary import append, gates_markdown

TEXT = TINY.parent / "held-out.jsonl"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "few.jsonl"
    rows = [json.loads(line) for line in TEXT.read_text().splitlines()[:10]]
    file.write_text("".join(json.dumps({"text": row["text"][:400]}) + "\n" for row in rows))
    return file


def test_a_breach_publishes_nothing_and_the_work_is_kept(tmp_path: Path, text: Path) -> None:
    out = tmp_path / "out"
    convert = ("convert", TINY, "--to", "q4_0", "-o", out, "--eval-data", text, "--no-verify")
    failed = quantkit(*convert, "--gate", "kld<0.0001")
    assert (failed.status, "kld<0.0001" in failed.stderr) == (8, True), failed.stderr
    assert not list(out.glob("*.gguf"))
    assert not list(out.glob("*.json"))
    assert list(out.glob(".quantkit-*"))
    passed = quantkit(*convert, "--gate", "kld<0.1", "--gate", "default", "--json")
    assert passed.status == 0, passed.stderr
    assert "resumed" in passed.stderr
    [artifact] = passed.json["artifacts"]
    [check] = artifact["checks"]
    assert check["check"] == "gates"
    assert [gate["ok"] for gate in check["gates"]] == [True, True]
    manifest = json.loads(Path(artifact["manifest"]).read_text())
    assert manifest["checks"] == artifact["checks"]
    again = quantkit(*convert, "--gate", "kld<0.0001")
    assert again.status == 8  # what stands there is judged, too
    assert Path(artifact["files"][0]["path"]).exists()


def test_of_several_recipes_those_that_hold_are_published(tmp_path: Path, text: Path) -> None:
    found = quantkit(
        "convert", TINY, "--to", "q8_0,q4_0", "-o", tmp_path, "--eval-data", text, "--no-verify", "--gate", "kld<0.0005"
    )
    assert found.status == 10
    assert [file.name for file in tmp_path.glob("*.gguf")] == ["docs-llama-tiny-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gate", "kld<0.1"), "--eval-data"),
        (("--eval-data", TEXT), "give --gate"),
        (("--gate", "lost<=0", "--eval-data", TEXT), "lost is measured on prompts"),
        (("--gate", "klx<0.1", "--eval-data", TEXT), 'did you mean "kld"'),
        (("--gate", "kld<0.1", "--eval-data", TEXT, "--calib", TEXT), "--calib calibrates on"),
    ],
)
def test_gates_that_convert_cannot_judge(tmp_path: Path, options: tuple[object, ...], said: str) -> None:
    found = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path / "out", *options)
    assert (found.status, said in found.stderr) == (2, True), found.stderr
    assert not (tmp_path / "out").exists()


def test_a_source_that_rounds_inputs_is_measured_as_eval_measures_it(tmp_path: Path, text: Path) -> None:
    assert quantkit("convert", TINY, "--to", "fp8", "-o", tmp_path / "fp8", "--no-verify", "-q").status == 0
    out = tmp_path / "made.gguf"
    gated = ("--gate", "kld<0.1", "--eval-data", text, "--no-verify", "--json")
    found = quantkit("convert", tmp_path / "fp8", "--to", "q8_0", "--allow-requantize", "-o", out, *gated)
    [check] = found.json["artifacts"][0]["checks"]
    seen = quantkit("eval", out, "--against-quantized", tmp_path / "fp8", "--data", text, "--json")
    assert check["kl"] == seen.json["artifacts"][0]["kl"]


@pytest.mark.parametrize(
    ("recipe", "options", "gates"),
    [
        ("fp8", (), ("default", "size<=0.9x")),
        ("w4a16-awq", ("--calib", "default", "--samples", 4, "--seqlen", 32), ("ppl_ratio<=1.5",)),
    ],
)
def test_a_checkpoint_is_measured_as_eval_measures_it_before_it_is_published(
    tmp_path: Path, text: Path, recipe: str, options: tuple[object, ...], gates: tuple[str, ...]
) -> None:
    out = tmp_path / "served"
    convert = ("convert", TINY, "--to", recipe, "-o", out, *options, "--eval-data", text, "--no-verify")
    failed = quantkit(*convert, "--gate", "kld<0.00001")
    assert (failed.status, "served: kld<0.00001" in failed.stderr) == (8, True), failed.stderr
    assert [path.name.startswith(".quantkit-") for path in out.iterdir()] == [True]
    given = [word for gate in gates for word in ("--gate", gate)]
    passed = quantkit(*convert, "--gate", "kld<0.5", *given, "--json")
    assert (passed.status, "resumed" in passed.stderr) == (0, True), passed.stderr
    [artifact] = passed.json["artifacts"]
    [check] = artifact["checks"]
    seen = quantkit("eval", out, "--against", TINY, "--data", text, "--gate", "kld<0.5", *given, "--json")
    [measured] = seen.json["artifacts"]
    assert (check["name"], check["bytes"], check["kl"]) == ("served", measured["bytes"], measured["kl"])
    assert check["gates"] == measured["gates"]
    assert quantkit(*convert, "--gate", "kld<0.00001").status == 8  # what stands there is judged, too
    assert (out / "model.safetensors").exists()


def test_damage_is_not_judged_where_scales_move(tmp_path: Path, text: Path) -> None:
    few = ("--calib", "default", "--samples", 2, "--seqlen", 16)
    gate = ("--gate", "default", "--eval-data", text)
    found = quantkit("convert", TINY, "--to", "w4a16-awq", *few, *gate, "-o", tmp_path / "out")
    assert (found.status, "scales of w4a16-awq were moved" in found.stderr) == (3, True), found.stderr
    assert not (tmp_path / "out").exists()


def test_verdicts_stand_on_the_page_of_a_run(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    convert = ("convert", TINY, "--to", "q8_0,q4_0", "-o", tmp_path / "out", "--no-verify", "--eval-data", text)
    assert quantkit(*convert, "--gate", "kld<0.0005").status == 10
    told = page.read_text()
    assert told.startswith("before\n### quantkit convert: **gates do not hold**\n")
    rows = [line for line in told.splitlines() if "kld&lt;" in line or "kld\\<" in line]
    assert [row.endswith("**FAILED** |") for row in rows] == [False, True]
    made = tmp_path / "out" / "docs-llama-tiny-Q8_0.gguf"
    judged = ("--against", TINY, "--data", text, "--gate", "kld<0.1")
    for command, more, times in (
        ("eval", (), 1),
        ("verify", (), 1),
        ("eval", ("--summary", page), 1),
        ("eval", ("--no-step-summary",), 0),
    ):
        page.write_text("")
        assert quantkit(command, made, *judged, *more).status == 0
        assert page.read_text().count("all gates hold") == times, (command, more)
    page.write_text("")
    assert quantkit("eval", made, "--against", TINY, "--data", text).status == 0
    assert page.read_text() == ""  # nothing was judged


@pytest.mark.parametrize("place", ["folder", "pipe", "none/below", "long"])
def test_a_page_that_takes_nothing_is_a_warning(
    tmp_path: Path, text: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("x" * 300 if place == "long" else place)
    if place == "folder":
        path.mkdir()
    if place == "pipe":
        os.mkfifo(path)
    if place == "none/below":
        (tmp_path / "none").write_text("no folder")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    summarize = [{"name": "a", "bytes": 1, "gates": []}]
    said: list[Event] = []
    append(gates_markdown("title", summarize), None, said.append)
    [warning] = said
    assert isinstance(warning, Warned)
    assert (warning.code, "GITHUB_STEP_SUMMARY" in warning.message) == ("step-summary", True)
