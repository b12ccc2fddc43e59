"""Several recipes in one command: each has its own fate, from planning on, and what is said of it fits its schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_folder
import pytest
from commands import TINY, quantkit
from published import require

# A recipe that cannot be planned or made here, its exit code, what is said, and options that it takes to get there.
OFF = """schema = 1
summary = "a rule for a tensor that is not there"
file_type = 7
[default]
qtype = "q8_0"
[[rule]]
qtype = "f16"
names = ["no.such.*"]
"""
FAILING = [
    ("q2_k_s", 2, "needs importance weights", ()),
    ("gptq-w4g128", 2, "needs calibration text", ()),
    ("off.toml", 2, "matches no tensor", ()),
    ("w4a16", 4, "vllm", ("--for", "vllm", "--tp", 2)),
    ("q6_k", 2, "blk.0.attn_k", ("--on-fallback", "error")),
]

ROWS_OF_256 = {"q2_k_s", "gptq-w4g128"}  # the small model has shorter ones


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder.write(tmp_path_factory.mktemp("batches") / "model")


def lines(stdout: str) -> list[dict[str, Any]]:
    """What --json printed: the result, and after a failure the error; each fits its schema."""
    found = [json.loads(line) for line in stdout.splitlines()]
    for body in found:
        require(body)
    return found


def run(command: str, source: Path, recipes: str, out: Path, options: Sequence[object]) -> tuple[int, list[Any]]:
    outcome = quantkit(command, source, "--to", recipes, "-o", out, "--json", *options)
    return outcome.status, lines(outcome.stdout)


@pytest.mark.parametrize(("recipe", "code", "words", "options"), FAILING, ids=[case[0] for case in FAILING])
def test_what_cannot_be_planned_leaves_the_others(
    recipe: str,
    code: int,
    words: str,
    options: tuple[object, ...],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("off.toml").write_text(OFF)
    (good, other), name = ("w8a16", "fp8") if "--for" in options else ("q8_0", "bf16"), recipe.removesuffix(".toml")
    source = TINY if recipe in ROWS_OF_256 else model
    for command, key in (("convert", "artifacts"), ("quantize", "work")):
        status, (found, error) = run(command, source, f"{recipe},{good}", Path(command), (*options,))
        assert status == error["error"]["exit"] == 10
        [failure] = found["failures"]
        assert (failure["recipe"], failure["exit"]) == (name, code), failure
        assert words in failure["message"]
        assert failure["hint"]
        [made] = found[key]
        assert Path(made["files"][0]["path"] if command == "convert" else made).exists()
        status, (error,) = run(command, source, recipe, Path("alone"), options)
        assert (status, error["error"]["message"]) == (code, failure["message"])
    assert not Path("alone").exists()
    # Where an artifact lies does not depend on what became of the others.
    status, (found,) = run("convert", source, f"{good},{other}", Path("convert"), options)
    assert status == 0
    assert [made["built"] for made in found["artifacts"]] == [False, True]


def test_plans_say_which_cannot_be(model: Path, tmp_path: Path) -> None:
    status, (found, error) = run("plan", model, "q6_k,q8_0", tmp_path, ("--on-fallback", "error"))
    assert status == error["error"]["exit"] == 10
    assert [plan["recipe"] for plan in found["plans"]] == ["q8_0"]
    assert [failure["recipe"] for failure in found["failures"]] == ["q6_k"]


def test_when_none_can_be_planned_the_first_error_is_raised(model: Path, tmp_path: Path) -> None:
    outcome = quantkit("convert", TINY, "--to", "q2_k_s,gptq-w4g128", "-o", tmp_path / "out", "--json")
    [error] = lines(outcome.stdout)
    assert (outcome.status, error["error"]["code"]) == (2, "recipe")
    assert "q2_k_s" in error["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_has_no_gguf_name_leaves_checkpoints(model: Path, tmp_path: Path) -> None:
    source = llama_folder.write(tmp_path / "strange")
    for name in ("tokenizer.model", "tokenizer.json"):
        (source / name).unlink(missing_ok=True)
    status, (found, _) = run("convert", source, "q8_0,q4_0,w8a16", tmp_path / "out", ())
    assert status == 10
    assert [failure["recipe"] for failure in found["failures"]] == ["q8_0", "q4_0"]
    assert [made["recipe"] for made in found["artifacts"]] == ["w8a16"]


def test_text_is_for_those_that_use_it(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("All work and no play makes Jack a dull boy. " * 40)
    options = ("--calib", text, "--samples", 2, "--seqlen", 16, "--no-verify")
    status, (found,) = run("convert", model, "bf16,w8a16,w8a8-static", tmp_path / "all", options)
    assert status == 0
    manifests = [json.loads(Path(made["manifest"]).read_text()) for made in found["artifacts"]]
    assert ["calibration" in manifest for manifest in manifests] == [False, False, True]
    status, (alone,) = run("convert", model, "bf16,w8a16", tmp_path / "alone", ("--no-verify",))
    assert [made["identity"] for made in alone["artifacts"]] == [made["identity"] for made in found["artifacts"][:2]]
