"""Checkpoints for servers that go wrong: the message names the cause, and the hint a step that helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, Outcome, quantkit
from headers import checkpoint_of
from llama_folder import CONFIG, shapes, store, weights, write

from quantkit.errors import InputError
from quantkit.families.linears import outline
from quantkit.quality.feedback import Gain, gain

CALIBRATION = ("--calib", TINY.parent / "calibration.jsonl", "--samples", "4", "--seqlen", "32")
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}


def refused(ran: Outcome, status: int, *words: str) -> None:
    assert ran.status == status, ran.stderr
    for word in words:
        assert word in ran.stderr
    assert "convert again, and report" not in ran.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "llama")


@pytest.fixture(scope="module")
def artifact(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "w8a16"
    assert quantkit("convert", source, "--to", "w8a16", "-o", out).status == 0
    return out


@pytest.mark.parametrize("engine", [(), ("--engine", "torch"), ("--engine", "llama.cpp")])
@pytest.mark.parametrize("name", ["nothing", "nothing.gguf", "nothing/model.safetensors"])
def test_what_is_not_there_does_not_exist(name: str, engine: tuple[str, ...], tmp_path: Path) -> None:
    refused(quantkit("verify", tmp_path / name, *engine), 3, "does not exist")


def test_a_missing_tokenizer_is_missing(artifact: Path, source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "copy"))
    (folder / "model.manifest.json").unlink()
    (folder / "tokenizer.model").unlink()
    ran = quantkit("verify", folder, "--against", source)
    refused(ran, 7, "tokenizer.model is missing, which the source has", "copy tokenizer.model from the source")


def test_another_source_is_named_as_the_cause(artifact: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    other = {name: store(rng.normal(0, 0.05, tensor.shape), "BF16") for name, tensor in weights().items()}
    ran = quantkit("verify", artifact, "--against", write(tmp_path / "other", other))
    refused(ran, 7, "of the source is not the file", "give the source that it was made from with --against")


def test_defaults_of_generation_of_other_writers_are_a_note(artifact: Path, source: Path, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(source, tmp_path / "source"))
    (theirs / "generation_config.json").write_text('{"temperature": 0.6}')
    folder = Path(shutil.copytree(artifact, tmp_path / "copy"))
    (folder / "generation_config.json").write_text('{"temperature": 0.7}')
    (folder / "model.manifest.json").unlink()
    (folder / "SHA256SUMS").unlink()
    ran = quantkit("verify", folder, "--against", theirs, "--json")
    assert ran.status == 0, ran.stderr
    assert "generation_config.json is another" in ran.stdout


@pytest.mark.parametrize("recipe", ["gptq-w4g32", "awq-w4g128", "gptq-w8g128"])
@pytest.mark.parametrize("scale", [1e-7, 1e-20])
def test_scales_that_float16_does_not_hold_are_named(recipe: str, scale: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tensors = {
        name: store(rng.normal(0, 0.05, size) * (scale if "o_proj" in name else 1), "F32")
        for name, size in shapes(CONFIG | SIZES).items()
    }
    ran = quantkit("convert", write(tmp_path / "source", tensors, **SIZES), "--to", recipe, "-o", tmp_path / "out",
                   *CALIBRATION)  # fmt: skip
    refused(ran, 3, "self_attn.o_proj: its largest weight is", "too small for float16", "--keep self_attn.o_proj=bf16")


def test_a_stack_of_stacks_is_refused() -> None:
    sizes = shapes(CONFIG) | {"model.layers.0.mlp.up_proj.weight": (2, 2, 32, 32)}
    with pytest.raises(InputError, match=r"\[2, 2, 32, 32\]"):
        outline(checkpoint_of(sizes).tensors(), CONFIG)


def test_feedback_is_judged_by_its_loss_beside_plain_errors(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = quantkit("convert", TINY, "--to", "gptq-w4g128", "-o", out, *CALIBRATION)
    assert made.status == 0, made.stderr
    assert "with feedback 0." in made.stderr
    checks = {check["check"]: check for check in quantkit("verify", out, "--against", TINY, "--json").json["checks"]}
    feedback = checks["numbers"]["feedback"]
    assert feedback["layers"] == 28
    assert 0 < feedback["loss_to_rounding"] <= feedback["worst_loss_to_rounding"] <= 1
    assert "of the loss of rounding on the calibration data" in checks["numbers"]["detail"]
    layers = json.loads((out / "model.manifest.json").read_text())["layers"]
    ratios = [layer["loss"] / layer["rounding_loss"] for layer in layers]
    assert feedback["loss_to_rounding"] == pytest.approx(float(np.exp(np.mean(np.log(ratios)))), abs=1e-3)


@pytest.mark.parametrize(
    "facts",
    [{}, {"method": "rtn", "loss": 1.0, "rounding_loss": 1.0}, {"method": "gptq", "loss": "x", "rounding_loss": 1.0},
     {"method": "gptq", "loss": True, "rounding_loss": 1}, {"method": "gptq", "loss": 10**400, "rounding_loss": 1.0},
     {"method": "gptq", "loss": 1.0}, {"method": "gptq", "loss": -1.0, "rounding_loss": 0.0}],
)  # fmt: skip
def test_facts_that_are_no_losses_are_passed_over(facts: dict[str, object]) -> None:
    assert gain([facts]) is None
    assert gain([facts, {"method": "gptq", "loss": 1.0, "rounding_loss": 4.0}]) == Gain(1, 0.25, 0.25)
