"""Where weights come from, on cards, in release.json and in bills of materials: adapters, parents, training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import checkpoints
import pytest
import tower_table
from adapters import Lora, make_adapter, weights_of
from commands import TINY, quantkit
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import is_supported_id
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard

from quantkit.report.card_sections import lineage_lines
from quantkit.report.licences import spdx
from quantkit.report.lineage import Ancestor, trained_as
from quantkit.report.release import read_release

TRAINED = [
    ("DeepSeek-R1-Distill-Qwen-7B", (), [("distilled", "name")]),
    ("gemma-3-27b-it-qat-q4_0-unquantized", (), [("quantization-aware", "name")]),
    ("model", ("knowledge-distillation", "qat"), [("distilled", "card"), ("quantization-aware", "card")]),
    ("model", ("quantization-aware-training",), [("quantization-aware", "card")]),
    ("distilbert-base", (), []),  # a family, which says nothing of this model's training
    ("equator-distillery", ("qatar",), []),
    ("x" * 100_000, ("y" * 100_000,), []),
]


@pytest.mark.parametrize(("name", "tags", "expected"), TRAINED, ids=lambda value: str(value)[:20])
def test_training_is_told_by_tags_and_names(name: str, tags: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    assert [(each.relation, each.by) for each in trained_as(name, tags, "card")] == expected


def test_words_for_licences_become_identifiers() -> None:
    known = ["apache-2.0", "mit", "cc-by-nc-sa-4.0", "bsl-1.0", "lppl-1.3c", "postgresql", "zlib", "odbl", "pddl"]
    found = [spdx(word) for word in known]
    assert all(word is not None and is_supported_id(word) for word in found)
    assert [spdx(word) for word in ("llama3.1", "gemma", "other", "openrail", "")] == [None] * 5


def test_every_step_is_a_sentence() -> None:
    steps = [
        Ancestor("merged with", "tuned`|", "manifest", sha256="a" * 64), Ancestor("finetune", "org/x", "card", "org/x"),
        Ancestor("merge", "<script>", "card"), Ancestor("derived from", "y", "header"),
        Ancestor("distilled", "z", "name"), Ancestor("quantization-aware", "z", "card"),
    ]  # fmt: skip
    text = "\n".join(lineage_lines(steps))
    assert text.count("\n- ") == len(steps)
    assert "The LoRA adapter `` tuned`| `` was merged into the weights (SHA-256 `aaaaaaaaaaaaaaaa`)." in text
    assert "a merge with `<script>`, as its card says." in text
    assert "by its name" in text and "as its header says" in text


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = weights_of(TINY)
    folder = tmp_path_factory.mktemp("adapter") / "tuned"
    return make_adapter(folder, weights, Lora(), base="org/base")


def test_merged_adapters_are_ancestors(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "base-qat")
    (tmp_path / "base-qat" / "README.md").write_text(
        "---\nlicense: llama3.1\nbase_model: [a/b, not a repository]\n---\n"
    )
    made = ("convert", tmp_path / "base-qat", "--adapter", adapter, "--to", "q8_0", "-o", tmp_path / "out", "-q")
    assert quantkit(*made).status == 0
    assert quantkit("release", tmp_path / "out", "-q").status == 0  # all of it stands in the file and its manifest
    body = read_release(tmp_path / "out" / "release.json")
    merged, parent, trained = body["lineage"]
    weights = next(file for file in body["model"]["files"] if file["name"] == "adapters/1/adapter_model.safetensors")
    assert (merged["relation"], merged["name"], merged["sha256"]) == ("merged with", "tuned", weights["sha256"])
    assert (parent["relation"], parent["repo"], parent["by"]) == ("derived from", "a/b", "header")
    assert (trained["relation"], trained["by"]) == ("quantization-aware", "name")
    data = (tmp_path / "out" / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None
    source, model = json.loads(data)["components"]
    assert source["pedigree"]["ancestors"][0]["hashes"][0]["content"] == weights["sha256"]
    assert source["pedigree"]["ancestors"][1]["purl"] == "pkg:huggingface/a/b"
    assert model["licenses"] == [{"license": {"name": "llama3.1"}}]  # no identifier of SPDX
    found = quantkit("release", tmp_path / "out", "--against", tmp_path / "base-qat")
    assert found.status == 7  # without the adapter it is another model
    again = ("--against", tmp_path / "base-qat", "--adapter", adapter)
    assert quantkit("release", tmp_path / "out", *again, "-q").status == 0
    assert [step["by"] for step in read_release(tmp_path / "out" / "release.json")["lineage"]][1] == "card"


def test_an_adapter_is_one_of_its_base(adapter: Path, tmp_path: Path) -> None:
    made = ("convert", adapter, "--base", TINY, "--to", "lora-f16", "-o", tmp_path / "out", "-q")
    found = quantkit(*made)
    assert found.status == 0, found.stderr
    assert quantkit("release", tmp_path / "out", "-q").status == 0
    data = ModelCard((tmp_path / "out" / "README.md").read_text()).data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["tags"][1]) == ("org/base", "adapter", "lora")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "llama-cli -m BASE.gguf --lora tuned-LoRA-F16.gguf" in text
    assert "ollama" not in text
    body = read_release(tmp_path / "out" / "release.json")
    assert body["order"] == ["tuned-LoRA-F16"]
    assert body["baseline"] == {"kind": "source", "name": "org/base", "repo": "org/base", "commit": None}
    assert "- Compare with: `org/base`." in text


def test_an_encoder_goes_with_its_model(tmp_path: Path) -> None:
    source = tower_table.build("gemma3", tmp_path / "seeing")
    made = ("convert", source, "--to", "q8_0", "-o", tmp_path / "out", "--pre", checkpoints.PRE, "-q")
    assert quantkit(*made).status == 0
    assert quantkit("release", tmp_path / "out", "-q").status == 0
    body = read_release(tmp_path / "out" / "release.json")
    found = {each["name"]: (each["role"], each["encoder"], each["modelfile"]) for each in body["artifacts"]}
    assert found == {
        "gemma3-Q8_0": ("primary", "mmproj-gemma3-BF16", "Modelfile"),
        "mmproj-gemma3-BF16": ("encoder", None, None),
    }
    assert body["order"] == ["gemma3-Q8_0"]
    assert {one["consumer"] for one in body["artifacts"][1]["consumers"]} == {"llama.cpp", "ollama", "lmstudio"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "llama-mtmd-cli -m gemma3-Q8_0.gguf --mmproj mmproj-gemma3-BF16.gguf" in text
    assert "FROM ./mmproj-gemma3-BF16.gguf" in (tmp_path / "out" / "Modelfile").read_text()
    found = quantkit("release", tmp_path / "out", "--primary", "mmproj-gemma3-BF16")
    assert (found.status, "is no model by itself" in found.stderr) == (2, True), found.stderr
