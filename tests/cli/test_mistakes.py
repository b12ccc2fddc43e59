"""Errors that know the neighbour: typos, recipes that almost exist, outputs that are something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.recipes.read import recipe_names


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["convert", "x", "--thred", "3"], "did you mean --threads?", "quantkit convert --help"),
        (["plan", "x", "--fitt", "3"], "did you mean --fit?", "quantkit plan --help"),
        (["plan", "x", "--zzzzzz"], "no such option: --zzzzzz", "quantkit plan --help"),
        (["convrt", "x"], "convert", "quantkit --help"),
        (["verify"], "ARTIFACT", "quantkit verify --help"),
        (["convert", "x", "--threads", "many"], "integer", "quantkit convert --help"),
        (["recipes", "a", "b"], "one recipe at a time", "quantkit recipes NAME"),
    ],
)
def test_usage_errors_name_the_command_s_own_help(arguments: list[str], words: str, hint: str) -> None:
    outcome = quantkit(*arguments)
    assert outcome.status == 2
    assert words in outcome.stderr
    assert hint in outcome.stderr.splitlines()[-1]
    assert "Possible options" not in outcome.stderr


@pytest.mark.parametrize("name", ["q4km", "q4_k_x", "gptq-w4", "frobnicate", "Q4-K-M"])
def test_an_unknown_recipe_gets_three_names_and_not_all(name: str) -> None:
    outcome = quantkit("convert", TINY, "--to", name)
    assert outcome.status == 2
    hint = outcome.stderr.splitlines()[-1].partition("nearest: ")[2].partition(";")[0]
    assert len(hint.split(", ")) == 3
    assert len(set(recipe_names()) & set(outcome.stderr.replace(",", " ").replace(";", " ").split())) <= 4


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("q8_0,q8_0", '"q8_0" is named twice'),
        ("bf16,q4_k_m,Q4_K_M", '"q4_k_m" and "Q4_K_M" are the same recipe, q4_k_m'),
        ("awq,awq-w4g128", '"awq" and "awq-w4g128" are the same recipe, awq-w4g128'),
        ("mine.toml,./mine.toml", '"mine.toml" and "./mine.toml" are the same recipe, mine'),
    ],
)
@pytest.mark.parametrize("command", ["convert", "plan"])
def test_a_recipe_that_is_named_twice_is_told_before_any_work(
    command: str, names: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('schema = 1\n[default]\nqtype = "q8_0"\n')
    outcome = quantkit(command, TINY, "--to", names)
    assert outcome.status == 2
    assert words in outcome.stderr
    assert outcome.stderr.endswith("hint: name each recipe once\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_recipes_that_would_write_the_same_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('schema = 1\ntitle = "Q8_0"\n[default]\nqtype = "q8_0"\n')
    outcome = quantkit("convert", TINY, "--to", f"q8_0,{tmp_path / 'mine.toml'}", "-o", tmp_path)
    assert outcome.status == 2
    assert "recipes q8_0 and mine would both write " in outcome.stderr
    assert "-Q8_0.gguf" in outcome.stderr
    assert "hint: give each recipe file its own title" in outcome.stderr


def test_bare_and_short() -> None:
    bare = quantkit()
    assert (bare.status, bare.stderr) == (0, "")
    assert bare.stdout == quantkit("-h").stdout == quantkit("--help").stdout
    assert quantkit("-V").stdout == quantkit("--version").stdout
    assert quantkit("recipes", "gptq").stdout == quantkit("recipes", "show", "gptq-w4g128").stdout


def test_help_has_groups_defaults_choices_and_examples() -> None:
    text = quantkit("convert", "--help").stdout
    for words in ("GGUF files", "Checkpoints for servers", "Calibration", "5GB", "128", "cpu|cuda", "auto|memory|disk"):
        assert words in text
    assert "torch" not in text
    for command in ("convert", "plan", "calibrate", "quantize", "pack", "verify", "inspect", "recipes", "doctor"):
        examples = quantkit(command, "--help").stdout.partition("Examples:")[2]
        assert examples.count(f"quantkit {command}") >= 2


def test_the_list_of_recipes_says_what_they_need() -> None:
    found = {line.split()[0]: line for line in quantkit("recipes").stdout.splitlines()}
    assert "--calib" in found["gptq-w4g128"]
    assert "gptq" in found["gptq-w4g128"].split()
    assert "--imatrix" in found["q2_k_s"]
    assert "--calib" not in found["fp8"]


def test_completion_for_shells() -> None:
    asked = {"_QUANTKIT_COMPLETE": "complete_bash", "COMP_WORDS": "quantkit con", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "quantkit"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["convert"]
    assert "--install-completion" in quantkit("--help").stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "m.gguf"
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", path, "--no-verify").status == 0
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "q4_0"], "recipe q8_0 there, q4_0 now"),
        (["--to", "q8_0", "--keep", "attn_v=q6_k"], "recipe q8_0 there, q8_0 --keep attn_v=q6_k now"),
    ],
)
def test_exit_six_says_what_differs(options: list[str], words: str, made: Path) -> None:
    outcome = quantkit("convert", TINY, *options, "-o", made)
    assert outcome.status == 6
    assert words in outcome.stderr


def test_exit_six_for_other_bytes_and_without_a_manifest(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / made.name
    copy.write_bytes(made.read_bytes())
    outcome = quantkit("convert", TINY, "--to", "q8_0", "-o", copy)
    assert (outcome.status, "no manifest" in outcome.stderr) == (6, True)
    manifest = made.with_name(made.name + ".manifest.json")
    manifest = manifest if manifest.exists() else next(made.parent.glob("*.manifest.json"))
    (tmp_path / manifest.name).write_bytes(manifest.read_bytes())
    copy.write_bytes(made.read_bytes()[:-1] + b"x")
    outcome = quantkit("convert", TINY, "--to", "q8_0", "-o", copy)
    assert (outcome.status, "files themselves were changed" in outcome.stderr) == (6, True)
