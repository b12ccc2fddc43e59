"""convert --gate: a file that breaches is kept aside, and published once the gates let it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY, quantkit

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
        (("--gate", "klx<0.1", "--eval-data", TEXT), 'did you mean "kld"'),
        (("--gate", "kld<0.1", "--eval-data", TEXT, "--calib", TEXT), "--calib calibrates on"),
        (("--to", "fp8", "--gate", "kld<0.1", "--eval-data", TEXT), "quantkit eval"),
    ],
)
def test_gates_that_convert_cannot_judge(tmp_path: Path, options: tuple[object, ...], said: str) -> None:
    recipe = () if "--to" in options else ("--to", "q8_0")
    found = quantkit("convert", TINY, *recipe, "-o", tmp_path / "out", *options)
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
