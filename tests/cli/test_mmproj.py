"""The second file of a model that sees: made with the first, told of, left out, checked, refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import tower_table
from commands import quantkit
from gguf import GGUFReader

from quantkit import Request, candidates
from quantkit.formats.safetensors.reader import read_safetensors

PRE = ("--pre", checkpoints.PRE)
PROCESSOR = "preprocessor_config.json"
Q_PROJ = "vision_tower.encoder.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 with its encoder."""
    return tower_table.build("gemma3", tmp_path_factory.mktemp("seeing"))


@pytest.fixture
def copy(seeing: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(seeing, tmp_path / "gemma3"))


def converted(source: Path, out: Path, *more: str) -> Any:
    return quantkit("convert", source, "--to", "q8_0", "-o", out, *PRE, "--no-verify", *more)


def test_both_files_are_made_at_once(seeing: Path, tmp_path: Path) -> None:
    ran = quantkit("convert", seeing, "--to", "q8_0,bf16", "-o", tmp_path, *PRE, "--json")
    assert ran.status == 0, ran.stderr
    *models, encoder = ran.json["artifacts"]
    assert [(a["recipe"], a["kind"], a["built"]) for a in (*models, encoder)] == [
        ("q8_0", "model", True), ("bf16", "model", True), ("mmproj-bf16", "mmproj", True),
    ]  # fmt: skip
    path = tmp_path / "mmproj-gemma3-BF16.gguf"
    assert [file["path"] for file in encoder["files"]] == [str(path)]
    assert encoder["next"] == []
    said = {step["for"]: step["command"] for step in models[0]["next"]}
    text = tmp_path / "gemma3-Q8_0.gguf"
    assert said["llama.cpp"] == f"llama-mtmd-cli -m {text} --mmproj {path}"
    assert f"'FROM {text}'" in said["ollama"]
    assert f"'FROM {path}'" in said["ollama"]
    assert said["lm-studio"].count("lms import") == 2
    assert {check["check"]: check["ok"] for check in encoder["checks"]} == {
        "structure": True, "tokenizer": None, "numbers": True,
    }  # fmt: skip
    names = {line.split()[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()}
    assert {path.name, "mmproj-gemma3-BF16.manifest.json"} <= names
    text_names = {str(t.name) for t in GGUFReader(text).tensors}
    assert not any(name.startswith(("v.", "mm.")) for name in text_names)

    seen = quantkit("verify", path, "--against", seeing, "--json")
    assert seen.status == 0, seen.stdout
    again = quantkit("convert", seeing, "--to", "q8_0", "-o", tmp_path, *PRE, "--json")
    assert [artifact["built"] for artifact in again.json["artifacts"]] == [False, False]


def test_a_damaged_encoder_does_not_verify(seeing: Path, tmp_path: Path) -> None:
    assert converted(seeing, tmp_path).status == 0
    path = tmp_path / "mmproj-gemma3-BF16.gguf"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 0x40
    path.write_bytes(data)
    seen = quantkit("verify", path, "--against", seeing)
    assert seen.status == 7
    assert "damaged" in seen.stdout + seen.stderr


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "q8_0"])
def test_its_type_can_be_chosen(kind: str, seeing: Path, tmp_path: Path) -> None:
    ran = quantkit("plan", seeing, "--to", "q4_k_m", *PRE, "--mmproj", kind, "--json")
    assert ran.status == 0, ran.stderr
    text, encoder = ran.json["plans"]
    assert [file["name"] for file in encoder["files"]] == [f"mmproj-gemma3-{kind.upper()}.gguf"]
    assert (text["kind"], encoder["kind"], encoder["recipe"]) == ("model", "mmproj", f"mmproj-{kind}")
    found = {t["name"]: t["type"] for t in encoder["tensors"]}
    assert found["v.blk.0.attn_q.weight"] == kind
    assert found["mm.input_projection.weight"] == "f16"  # whatever the file is
    assert found["v.patch_embd.weight"] == "f32"
    weights = sum(t["bytes"] for t in (*text["tensors"], *encoder["tensors"]))
    assert text["serving"]["weight_bytes"] > weights  # the headers too


def test_what_fits_is_asked_of_both_files(seeing: Path) -> None:
    """What serves every recipe takes the encoder's file as well, to the byte; so do its plans."""
    request = Request(str(seeing), ("q8_0",), pre=checkpoints.PRE)
    both, alone = (
        {one.recipe: one.serving.nbytes for one in candidates(asked, 8192)}
        for asked in (request, replace(request, mmproj="none"))
    )
    planned = quantkit("plan", seeing, "--to", "q8_0", *PRE, "--json").json["plans"]
    nbytes = planned[1]["files"][0]["bytes"]
    assert both == {recipe: size + nbytes for recipe, size in alone.items()}
    assert planned[0]["serving"]["bytes"] == both["q8_0"]


def test_tune_tells_of_the_encoder_that_it_leaves_out(seeing: Path) -> None:
    dry = ("tune", seeing, "--to", "q8_0", "--dry-run", *PRE)
    ran = quantkit(*dry)
    assert ran.status == 0 and "warning[no-mmproj]: the encoder is not written" in ran.stderr
    assert "no-mmproj" not in quantkit(*dry, "--mmproj", "none").stderr
    ran = quantkit(*dry, "--mmproj", "f16")
    assert (ran.status, "tune measures language models" in ran.stderr) == (2, True), ran.stderr


def test_it_can_be_left_out(seeing: Path, tmp_path: Path) -> None:
    ran = converted(seeing, tmp_path, "--mmproj", "none", "--json")
    assert len(ran.json["artifacts"]) == 1
    assert ran.json["artifacts"][0]["next"][0]["command"].startswith("llama-cli")
    assert not list(tmp_path.glob("mmproj*"))


def test_a_named_file_has_its_encoder_beside_it(seeing: Path, tmp_path: Path) -> None:
    assert converted(seeing, tmp_path / "mine.gguf").status == 0
    assert {path.name for path in tmp_path.glob("*.gguf")} == {"mine.gguf", "mmproj-gemma3-BF16.gguf"}


def test_a_work_folder_of_its_own_is_packed(seeing: Path, tmp_path: Path) -> None:
    ran = quantkit("quantize", seeing, "--to", "q8_0", "-o", tmp_path / "work", *PRE)
    assert ran.status == 0, ran.stderr
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"Q8_0", "mmproj-BF16"}
    assert quantkit("pack", tmp_path / "work" / "mmproj-BF16", "-o", tmp_path / "out").status == 0
    assert converted(seeing, tmp_path / "same").status == 0
    name = "mmproj-gemma3-BF16.gguf"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_without_processor_files_the_text_model_is_made_and_told(copy: Path, tmp_path: Path) -> None:
    (copy / PROCESSOR).unlink()
    ran = converted(copy, tmp_path / "out", "--json")
    assert ran.status == 0
    assert len(ran.json["artifacts"]) == 1
    assert ran.stderr.count(f"warning[no-mmproj]: {PROCESSOR} is missing") == 1
    assert "part-left-out" not in ran.stderr
    [kept] = (tmp_path / "out").glob("*.manifest.json")
    said = {each["code"]: each["message"] for each in json.loads(kept.read_text())["warnings"]}
    names = [name for file in copy.glob("*.safetensors") for name in read_safetensors(file).tensors]
    beside = sum("vision_tower." in name or "multi_modal_projector." in name for name in names)
    assert f"its encoder (gemma3, {beside} tensors) cannot be written" in said["no-mmproj"]
    [file] = (tmp_path / "out").glob("*.gguf")
    looked = quantkit("inspect", file, "--json").json["origin"]["warnings"]
    assert {each["code"]: each["message"] for each in looked} == said
    asked = converted(copy, tmp_path / "asked", "--mmproj", "f16")
    assert asked.status == 3
    assert f"no {PROCESSOR}" in asked.stderr
    assert "--mmproj none" in asked.stderr
    assert not (tmp_path / "asked").exists()


def test_inspect_says_what_a_conversion_leaves_out(copy: Path) -> None:
    """As plans do: an encoder that gets a file of its own, and one that cannot be written."""
    [beside] = quantkit("inspect", copy, "--json").json["origin"]["warnings"]
    assert beside["code"] == "encoder"
    assert re.fullmatch(r"the encoder \(gemma3, \d+ tensors\) gets a file of its own", beside["message"])
    (copy / PROCESSOR).unlink()
    said = quantkit("inspect", copy, "--json").json["origin"]["warnings"]
    planned = quantkit("plan", copy, "--to", "q8_0", "--json").json["plans"][0]["warnings"]
    assert said == [each for each in planned if each["code"] == "no-mmproj"] != []
    assert f"warning[no-mmproj]: {said[0]['message']}" in quantkit("inspect", copy).stdout.splitlines()
    (copy / "config.json").write_text('{"architectures": ["NobodyKnowsIt"]}')
    assert quantkit("inspect", copy, "--json").json["origin"] == {}


def test_an_encoder_that_nobody_knows_is_named(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["architectures"] = ["Gemma3ForCausalLM"]  # as if this architecture had one
    (copy / "config.json").write_text(json.dumps(config))
    ran = converted(copy, tmp_path / "out")
    assert ran.status == 0, ran.stderr
    assert "warning[no-mmproj]: config.json has an encoder (vision_config)" in ran.stderr
    asked = converted(copy, tmp_path / "out", "--mmproj", "f16")
    assert asked.status == 4
    assert "known projectors: " in asked.stderr


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite(name: str, **said: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        body = json.loads((folder / name).read_text())
        part = body["vision_config"] if name == "config.json" else body
        part.update(said)
        (folder / name).write_text(json.dumps(body))

    return edit


DAMAGED: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (lambda f: change_tensors(f, lambda t: t.pop(Q_PROJ)), 3, Q_PROJ),
    "extra": (
        lambda f: change_tensors(f, lambda t: t.update({"vision_tower.encoder.wings": t[Q_PROJ].clone()})), 4,
        'projector "gemma3" has no place for tensor "vision_tower.encoder.wings"',
    ),
    "shape": (lambda f: change_tensors(f, lambda t: t.update({Q_PROJ: t[Q_PROJ][:16].clone()})), 3, "shape [16, 32]"),
    "layers": (rewrite("config.json", num_hidden_layers=2), 3, "has number 2"),
    "no layers": (rewrite("config.json", num_hidden_layers="three"), 3, "num_hidden_layers is 'three'"),
    "patches of nothing": (rewrite("config.json", patch_size=0), 3, "patch_size"),
    "no mean": (rewrite(PROCESSOR, image_mean=None), 3, "image_mean is missing"),
    "a mean of words": (rewrite(PROCESSOR, image_mean=["grey"]), 3, "image_mean"),
    "no tokens": (rewrite(PROCESSOR, image_seq_length=0), 3, "image_seq_length"),
    "no JSON": (lambda f: (f / PROCESSOR).write_text("{"), 3, PROCESSOR),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_refused_before_any_work(what: str, copy: Path, tmp_path: Path) -> None:
    damage, status, said = DAMAGED[what]
    damage(copy)
    ran = converted(copy, tmp_path / "out")
    assert ran.status == status, ran.stderr
    assert said in ran.stderr
    assert "the text model alone: --mmproj none" in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--to", "q4_k_m", "--mmproj", "q4_k_m"), "one of auto, none, f16"),
        (("--to", "w8a16", "--mmproj", "f16"), "checkpoints keep their encoders"),
    ],
)
def test_options_that_mean_nothing(options: tuple[str, ...], said: str, seeing: Path) -> None:
    ran = quantkit("plan", seeing, *options)
    assert ran.status == 2
    assert said in ran.stderr
