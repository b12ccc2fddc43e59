"""Real weights: SmolLM2-135M-Instruct becomes GGUF files that llama.cpp loads and that still know their capitals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import quantkit
from oracles import ggml
from smollm2 import SMOLLM2

pytestmark = [pytest.mark.slow, pytest.mark.reference, pytest.mark.xdist_group("smollm2")]

RECIPES = ("q4_0", "q4_k_m", "q3_k_m", "q6_k", "iq4_xs", "q8_0")
QUESTION, ANSWER = "The capital of France is", "Paris"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One read of the source, six files."""
    out = tmp_path_factory.mktemp("smollm2")
    made = quantkit("convert", SMOLLM2, "--to", ",".join(RECIPES), "-o", out, "--json")
    assert made.status == 0, made.stderr
    artifacts = made.json["artifacts"]
    for artifact in artifacts:
        checks = {check["check"]: check for check in artifact["checks"]}
        assert all(check["ok"] for check in checks.values())
    return {recipe: Path(a["files"][0]["path"]) for recipe, a in zip(RECIPES, artifacts, strict=True)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_have_the_size_of_their_recipe(files: dict[str, Path], recipe: str) -> None:
    planned = json.loads(quantkit("plan", SMOLLM2, "--to", recipe, "--json").stdout)
    assert files[recipe].stat().st_size == planned["plans"][0]["files"][0]["bytes"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_llama_cpp_loads_them_and_thinks_of_the_capital(files: dict[str, Path], recipe: str) -> None:
    with ggml.Model(files[recipe]) as model:
        [paris] = model.tokenize(f" {ANSWER}")
        assert paris in np.argsort(model.last_logits(model.tokenize(QUESTION)))[-20:]  # of 49,152


def test_llama_cpp_computes_what_the_file_says(files: dict[str, Path]) -> None:
    seen = quantkit("verify", files["q4_k_m"], "--against", SMOLLM2, "--engine", "llama.cpp", "--json")
    [engine] = [check for check in seen.json["checks"] if check["check"] == "llama.cpp"]
    assert engine["ok"] is True


@pytest.mark.parametrize("recipe", ["q4_k_m", "q8_0"])
def test_llama_cpp_answers(files: dict[str, Path], recipe: str) -> None:
    seen = quantkit("verify", files[recipe], "--engine", "llama.cpp", "--say", QUESTION, "--json")
    [engine] = [check for check in seen.json["checks"] if check["check"] == "llama.cpp"]
    assert engine["text"].startswith(QUESTION)
    assert ANSWER in engine["text"]
