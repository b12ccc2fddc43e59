"""quantkit eval as a user meets it: figures, gates, records, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from commands import quantkit

from quantkit.schemas import json_schema

TINY = Path(__file__).parent.parent / "data" / "docs-llama-tiny"
PROSE = Path(__file__).parent.parent.parent / "docs" / "numerics.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    assert quantkit("convert", TINY, "--to", "q8_0,q4_0", "-o", folder, "--no-verify", "-q").status == 0
    assert quantkit("convert", TINY, "--to", "fp8", "-o", folder / "fp8", "--no-verify", "-q").status == 0
    rows = PROSE.read_text().split("\n\n")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows[:60]))
    return folder


def artifact(made: Path, name: str) -> Path:
    return made / name if name == "fp8" else made / f"docs-llama-tiny-{name}.gguf"


def evaluate(made: Path, *options: object, name: str = "Q8_0", against: Path = TINY) -> Any:
    data = made / "text.jsonl"
    few = ("--data", data, "--window", 64, "--tokens", 900)
    return quantkit("eval", artifact(made, name), "--against", against, *few, *options)


def test_the_json_fits_its_schema_and_names_the_original(made: Path) -> None:
    from jsonschema import Draft202012Validator

    both = ("--json", "--gate", "kld<0.01", artifact(made, "fp8"))
    found = evaluate(made, *both)
    body = found.json
    assert [e.message for e in Draft202012Validator(json_schema("eval")).iter_errors(body)] == []
    assert found.status == 0
    assert {f["name"]: f["weights"] for f in body["reference"]["files"]}["model.safetensors"] is True
    gguf, fp8 = body["artifacts"]
    assert 0 < gguf["kl"]["value"] < 1e-4 < fp8["kl"]["value"] < 1e-2
    assert gguf["held_out"] is True
    assert fp8["inputs"].startswith("rounded in 28 layers")
    assert all(len(each["blocks"]) == 4 and len(each["worst"]) == 10 for each in body["artifacts"])
    assert all(passage["text"] for passage in gguf["worst"])


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_lines_fit_the_terminal(made: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = evaluate(made, "--gate", "assistant", "--gate", "size<=0.6x", artifact(made, "Q4_0"))
    assert found.status == 0
    assert max(map(len, found.stdout.splitlines())) <= columns
    assert "KL divergence" in found.stdout
    assert "worst passages" in found.stdout


def test_a_breach_is_exit_8_and_everything_is_recorded(made: Path, tmp_path: Path) -> None:
    places = ("--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md", "--append", tmp_path / "h.jsonl")
    (tmp_path / "s.md").write_text("before\n")
    for _ in range(2):
        found = evaluate(made, "--gate", "kld<0.01", "--gate", "top1>=99.9%", *places, name="Q4_0")
        assert found.status == 8
    assert "error[gate]" in found.stderr
    assert "top1>=99.9%" in found.stderr
    assert "kld<0.01" not in found.stderr
    [suite] = ElementTree.fromstring((tmp_path / "j.xml").read_text())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite] == ["kld<0.01", "top1>=99.9%"]
    assert [case.find("failure") is not None for case in suite] == [False, True]
    summary = (tmp_path / "s.md").read_text()
    assert summary.startswith("before\n")
    assert summary.count("**gates do not hold**") == 2
    first, second = (json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines())
    assert first["kl"] == second["kl"]
    assert first["ok"] is False


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("klx<0.1", 'did you mean "kld"'),
        ("assistent", 'did you mean "assistant"'),
        ("kld>0.1", "less kld is better"),
        ("top1<=0.9", "more top1 is better"),
        ("kld<", "is no gate"),
        ("kld<much", '"much" is no number'),
        ("kld<nan", '"nan" is no number'),
        ("size<=big", "is not a size"),
        ("json_valid>=0.98", "golden prompts"),
    ],
)
def test_gates_that_are_none(made: Path, gate: str, said: str) -> None:
    found = evaluate(made, "--gate", gate)
    assert (found.status, said in found.stderr) == (2, True), found.stderr


def test_the_gate_asks_the_bound_not_the_estimate(made: Path) -> None:
    kl = evaluate(made, "--json", name="Q4_0").json["artifacts"][0]["kl"]
    between = (kl["value"] + kl["high"]) / 2
    assert evaluate(made, "--gate", f"kld<{between:.9f}", name="Q4_0").status == 8
    assert evaluate(made, "--gate", f"kld<{kl['high'] * 1.001:.9f}", name="Q4_0").status == 0


def test_one_window_has_no_bound(made: Path, tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("A short text of one window.")
    found = evaluate(made, "--gate", "kld<1", "--data", text)
    assert quantkit("eval", artifact(made, "Q8_0"), "--against", TINY, "--data", text).status == 0
    found = quantkit("eval", artifact(made, "Q8_0"), "--against", TINY, "--data", text, "--gate", "kld<1")
    assert (found.status, "no confidence bound" in found.stderr) == (3, True)


def other_tokens(folder: Path) -> None:
    body = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = body["model"]["vocab"]
    one, two = (next(k for k, v in vocabulary.items() if v == n) for n in (700, 701))
    vocabulary[one], vocabulary[two] = 701, 700
    (folder / "tokenizer.json").write_text(json.dumps(body))
    (folder / "tokenizer.model").unlink()


def other_rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config.get("rope_parameters") or config)["rope_theta"] = 500.0
    (folder / "config.json").write_text(json.dumps(config))


def other_weights(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_tokens, 'token 700 is "'),
        (other_rope, "rope.freq_base"),
        (other_weights, "with other weights"),
    ],
)
def test_an_artifact_of_another_model_is_refused(
    made: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    change(folder)
    found = evaluate(made, against=folder)
    assert (found.status, said in found.stderr) == (3, True), found.stderr


def test_what_else_is_refused(made: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    file = artifact(made, "Q8_0")
    text = ("--data", made / "text.jsonl")
    for status, said, arguments in (
        (3, "has no text", (file, "--against", TINY, "--data", empty)),
        (6, "Is a directory", (file, "--against", TINY, *text, "--junit", tmp_path)),
        (6, "Is a directory", (file, "--against", TINY, *text, "--append", tmp_path)),
        (3, "does not exist", (made / "none.gguf", "--against", TINY, *text)),
        (2, "no original", (file, *text)),
        (2, "no text to measure on", (file, "--against", TINY)),
        (2, "is quantized itself", (file, "--against", made / "fp8", *text)),
        (4, "a GGUF file, as the original", (file, "--against", file, *text)),
        (2, 'did you mean "second-half"', (file, "--against", TINY, *text, "--score", "secondhalf")),
    ):
        found = quantkit("eval", *arguments)
        assert (found.status, said in found.stderr) == (status, True), found.stderr


def test_a_quantized_original_only_by_name(made: Path) -> None:
    text = ("--data", made / "text.jsonl", "--window", 64, "--tokens", 300)
    found = quantkit("eval", artifact(made, "fp8"), "--against-quantized", made / "fp8", *text, "--json")
    assert found.json["reference"]["quantized"] is True


def test_verify_gates_what_passed(made: Path, tmp_path: Path) -> None:
    asked = ("verify", artifact(made, "Q4_0"), "--against", TINY, "--data", made / "text.jsonl", "--json")
    found = quantkit(*asked, "--gate", "kld<0.1", "--gate", "size<=0.2x")
    body = json.loads(found.stdout.splitlines()[0])
    assert (found.status, body["ok"]) == (8, False)
    assert [(gate["metric"], gate["ok"]) for gate in body["gates"]] == [("kld", True), ("size", False)]
    found = quantkit("verify", artifact(made, "Q4_0"), "--against", TINY, "--gate", "kld<0.1")
    assert (found.status, "--gate needs --data" in found.stderr) == (2, True)


def test_text_that_it_was_calibrated_on_is_refused(made: Path, tmp_path: Path) -> None:
    data = made / "text.jsonl"
    out = tmp_path / "cal.gguf"
    few = ("--samples", 2, "--seqlen", 32, "--no-verify", "-q")
    assert quantkit("convert", TINY, "--to", "q8_0", "--calib", data, *few, "-o", out).status == 0
    text = ("--data", data, "--window", 64, "--tokens", 300)
    found = quantkit("eval", out, "--against", TINY, *text)
    assert (found.status, "was calibrated on text.jsonl" in found.stderr) == (2, True), found.stderr
    found = quantkit("eval", out, "--against", TINY, *text, "--seen", "--json")
    assert found.json["artifacts"][0]["held_out"] is False
    assert "warning[not-held-out]" in found.stderr
