"""What docs/extending.md adds to the package is found, planned and used: its examples, in a copy of the package."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import SIZES, Variant, build_variant
from commands import TINY, Outcome
from house import ROOT, house_with, run_all
from oracles import ggml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: (?P<path>\S+))?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """The examples under one heading: files by where they go, and what is typed."""

    files: dict[str, str]
    commands: list[list[str]]


def sections() -> dict[str, Section]:
    found = {}
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        blocks = [block.groupdict() for block in BLOCK.finditer(body)]
        files = {block["path"]: block["body"] for block in blocks if block["path"]}
        typed = [line for block in blocks if block["kind"] == "console" for line in block["body"].splitlines()]
        assert all(line.startswith("$ quantkit ") for line in typed), typed
        found[title] = Section(files, [shlex.split(line.removeprefix("$ quantkit ")) for line in typed])
    return found


SECTIONS = sections()
Done = dict[str, list[Outcome]]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "model").symlink_to(TINY)
    (folder / "text.jsonl").symlink_to(ROOT / "tests" / "data" / "calibration.jsonl")
    build_variant(Variant("Helium", {**SIZES, "head_dim": 16}), folder / "helium")
    return folder


@pytest.fixture(scope="module")
def done(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """What came of every command of the page, by section."""
    files = {path: text for section in SECTIONS.values() for path, text in section.files.items()}
    house = house_with(tmp_path_factory.mktemp("house"), files)
    outcomes = iter(run_all(house, [c for section in SECTIONS.values() for c in section.commands], work))
    return {title: [next(outcomes) for _ in section.commands] for title, section in SECTIONS.items()}


def results(done: Done, title: str) -> list[Outcome]:
    for command, outcome in zip(SECTIONS[title].commands, done[title], strict=True):
        assert outcome.status == 0, (command, outcome.stderr)
    return done[title]


def test_every_example_adds_one_file_of_its_kind_and_uses_it() -> None:
    for title, section in SECTIONS.items():
        assert section.commands, title
        assert sum(path.endswith(".py") for path in section.files) == (title != "A recipe"), title
        assert not any((ROOT / path).exists() for path in section.files), title


def test_a_type(done: Done, work: Path) -> None:
    converted, inspected = results(done, "A quantization type")
    assert "does not decode Q3_0" in converted.stderr
    assert "q3_0" in inspected.stdout
    namespace: dict[str, object] = {}
    exec(SECTIONS["A quantization type"].files["quantkit/qtypes/q3_0.py"], namespace)
    made, w = namespace["TYPE"], np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    assert np.abs(made.decode(made.encode(w, None), 64) - w).max() < np.abs(w).max() / 5  # type: ignore[attr-defined]


def test_a_method(done: Done, work: Path) -> None:
    """Listed, planned and used under its own name, and not as another one."""
    listed, planned, _ = results(done, "A method")
    assert "clipped" in listed.json["methods"]
    [plan] = planned.json["plans"]
    assert plan["method"]["name"] == "clipped"
    assert (plan["recipe"], plan["calibrated"]) == ("w4a16 --method clipped", False)
    manifest = json.loads((work / "out" / "clipped" / "model.manifest.json").read_text())
    assert manifest["method"]["name"] == "clipped"
    name = "model.layers.0.mlp.up_proj.weight"
    scale = load_file(work / "out" / "clipped" / "model.safetensors")[f"{name}_scale"].float()
    largest = load_file(TINY / "model.safetensors")[name].float().abs().amax(dim=1)
    assert (scale.abs().amax(dim=1) * 8 / largest - 0.95).abs().max() < 0.005  # signed scales, in bfloat16


def test_a_transform(done: Done, work: Path) -> None:
    results(done, "A transform")
    manifest = json.loads((work / "out" / "peaks" / "model.manifest.json").read_text())
    assert manifest["method"]["transform"] == "peaks"


def test_a_recipe(done: Done) -> None:
    shown, planned = results(done, "A recipe")
    assert "attention is small" in shown.stdout
    types = {t["name"]: t["type"] for t in planned.json["plans"][0]["tensors"]}
    assert (types["blk.0.attn_q.weight"], types["blk.0.ffn_up.weight"]) == ("q6_k", "q4_k")


def test_a_family(done: Done, work: Path) -> None:
    """llama.cpp loads it and computes what transformers does."""
    converted, _ = results(done, "A family")
    assert "numbers ok" in converted.stderr
    tokens = [3, 17, 40, 99, 5]
    with ggml.Model(work / "out" / "helium.gguf") as loaded:
        found = loaded.logits(tokens)
    model = AutoModelForCausalLM.from_pretrained(work / "helium", dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0, -1].numpy()
    assert np.abs(found.reshape(-1, expected.size)[-1] - expected).max() < 0.05 * np.abs(expected).max()
    manifest = json.loads((work / "out" / "helium-fp8" / "model.manifest.json").read_text())
    assert any(t["name"].endswith("up_proj.weight") and t["type"] == "F8_E4M3" for t in manifest["tensors"])


def test_a_container(done: Done, work: Path) -> None:
    """Written, named in config.json, and read again by what it says there."""
    converted, verified = results(done, "A container")
    assert "numbers ok" in converted.stderr
    config = json.loads((work / "out" / "rows8" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "rows8"}
    numbers = next(check for check in verified.json["checks"] if check["check"] == "numbers")
    assert (numbers["ok"], numbers["compared_tensors"]) == (True, 38)
    stored, source = (load_file(folder / "model.safetensors") for folder in (work / "out" / "rows8", TINY))
    name = "model.layers.2.mlp.down_proj"
    w = source[f"{name}.weight"].float()
    assert (stored[f"{name}.codes"] * stored[f"{name}.scale"] - w).abs().max() <= w.abs().max() / 200


def test_a_command(done: Done) -> None:
    largest, own, every = results(done, "A command")
    assert largest.json["tensors"][0]["name"] == "model.embed_tokens.weight"
    assert len(largest.json["tensors"]) == 2
    assert "Which:" in own.stdout
    assert "quantkit largest ./My-Model --count 20" in own.stdout
    lines = every.stdout.splitlines()
    places = [next(i for i, line in enumerate(lines) if line.strip().startswith(f"{n} ")) for n in
              ("inspect", "largest", "schemes")]  # fmt: skip
    assert places == sorted(places)
