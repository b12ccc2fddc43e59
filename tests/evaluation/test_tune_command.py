"""quantkit tune: the first that passes is published, nothing is measured twice, and none is exit 8."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY, quantkit
from published import require

from quantkit.pipeline.advice import OF_GGUF
from quantkit.recipes.read import load_recipe

GATE = ("--gate", "kld<0.001")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [json.loads(line) for line in (TINY.parent / "held-out.jsonl").read_text().splitlines()[:10]]
    path = tmp_path_factory.mktemp("text") / "few.jsonl"
    path.write_text("".join(json.dumps({"text": row["text"][:400]}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nothing disturbs ends with."""
    found = quantkit(*tune(text, tmp_path_factory.mktemp("whole")))
    assert found.status == 0, found.stderr
    return Path(found.json["artifact"]["files"][0]["path"])


def tune(text: Path, out: Path, recipes: str = "q8_0,q4_0") -> tuple[object, ...]:
    return ("tune", TINY, "--to", recipes, "--eval-data", text, "-o", out, "--json", *GATE)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_smallest_that_passes_is_published_and_nothing_measured_twice(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for again in (False, True):
        found = quantkit(*tune(text, out))
        assert found.status == 0, found.stderr
        require(found.json)
        steps = found.json["steps"]
        assert [(s["recipe"], s["ok"], s["measured_before"]) for s in steps] == [
            ("q4_0", False, again), ("q8_0", True, again),
        ]  # fmt: skip
        assert [path.name for path in out.glob("*.gguf")] == ["docs-llama-tiny-Q8_0.gguf"]
        assert not [path for path in out.glob(".quantkit-*") if path.is_dir()]
    assert quantkit("tune", TINY, "--to", "q8_0", "--max-size", "1MB", "--dry-run").status == 5
    assert quantkit("tune", TINY, "--to", "q8_0").status == 2


@pytest.mark.slow
def test_steps_measure_what_a_conversion_by_itself_does(text: Path, tmp_path: Path) -> None:
    """The original ran once, ahead of the first measurement: the figures are the same to the bit."""
    found = quantkit(*tune(text, tmp_path / "out", "q4_0,q4_1,q8_0"))
    assert found.status == 0, found.stderr
    steps = {step["recipe"]: step for step in found.json["steps"]}
    assert [steps[name]["ok"] for name in ("q4_0", "q4_1", "q8_0")] == [False, False, True]
    alone = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path / "alone", "--eval-data", text, *GATE)
    assert alone.status == 0, alone.stderr
    [manifest] = (tmp_path / "alone").glob("*.manifest.json")
    [check] = [c for c in json.loads(manifest.read_text())["checks"] if c["check"] == "gates"]
    assert check["gates"] == steps["q8_0"]["gates"]
    [one], [other] = (tmp_path / "alone").glob("*.gguf"), (tmp_path / "out").glob("*.gguf")
    assert sha256(one) == sha256(other)


@pytest.mark.slow
@pytest.mark.parametrize(("event", "step"), [('"TensorProgress"', "q4_0"), ('"BlockProgress"', "q8_0")])
def test_killed_in_a_step_the_same_command_ends_with_the_same_file(
    event: str, step: str, text: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed while the first step is quantized, and while the second, after one that failed, is measured."""
    out, events = tmp_path / "out", tmp_path / "events"
    os.mkfifo(events)
    words = [*map(str, tune(text, out)), "--events", str(events)]
    command = [sys.executable, "-c", "from quantkit.cli.main import run; run()", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        made = 0
        with events.open() as lines:
            for line in lines:
                made += '"quantize"' in line and '"StageStarted"' in line
                if event in line and made == (1 if step == "q4_0" else 2):
                    process.kill()
                    break
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not list(out.glob("*.gguf"))
    found = quantkit(*tune(text, out))
    assert found.status == 0, found.stderr
    assert [s["measured_before"] for s in found.json["steps"]] == [step == "q8_0", False]
    assert [path.name for path in out.glob("*.gguf")] == [whole.name]
    assert sha256(out / whole.name) == sha256(whole)
    assert not [path for path in out.glob(".quantkit-*") if path.is_dir()]


@pytest.mark.slow
def test_a_step_gets_the_options_that_its_recipe_uses_and_a_recipe_of_ones_own(text: Path, tmp_path: Path) -> None:
    """Text is for the ladder: q8_0, which --method rtn leaves without a use for it, is a step like the others."""
    mine = tmp_path / "mine.toml"
    mine.write_text(quantkit("recipes", "show", "q4_0").stdout)
    options = ("--method", "rtn", "--calib", TINY.parent / "calibration.jsonl", "--samples", 2, "--seqlen", 16)
    found = quantkit(*tune(text, tmp_path / "out", f"{mine},q4_1,q8_0"), *options)
    assert found.status == 0, found.stderr
    assert [(step["recipe"], step["ok"]) for step in found.json["steps"]] == [
        ("mine", False), ("q4_1", False), ("q8_0", True),
    ]  # fmt: skip


def test_two_ladders_are_one_too_many() -> None:
    found = quantkit("tune", TINY, "--to", "q8_0", "--servers", "--dry-run")
    assert (found.status, "--servers names the recipes" in found.stderr) == (2, True), found.stderr


@pytest.mark.parametrize("consumer", ["transformers", "vllm", "sglang", "llama.cpp", "ollama", "mlx", "llama.cpp,vllm"])
def test_the_ladder_is_that_of_the_consumers(consumer: str) -> None:
    """None named: recipes in the format that the consumer is made for, and at least one that needs no text."""
    found = quantkit("tune", TINY, "--for", consumer, "--dry-run", "--json")
    assert found.status == 0, found.stderr
    steps = found.json["steps"]
    of_gguf = bool(OF_GGUF & {*consumer.split(",")})
    assert {load_recipe(step["recipe"]).mixture is not None for step in steps} == {of_gguf}
    assert any(step["skipped"] is None for step in steps)
