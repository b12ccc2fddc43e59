"""What convert checks of a checkpoint: tensors by the safetensors package, layers by what config.json says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import build, stack_experts
from commands import TINY, quantkit
from published import require
from safetensors.torch import load_file, save_file

import quantkit as api
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.pipeline.verify import verify_parts
from quantkit.quality.against import of_plan
from quantkit.quality.checks.base import STANDARD, Check
from quantkit.quality.made_checkpoint import open_with_package
from quantkit.source import open_source

RECIPE = ("w4a16", "rtn")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    outcome = quantkit("convert", TINY, "--to", RECIPE[0], "--method", RECIPE[1], "-o", folder)
    assert outcome.status == 0, outcome.stderr
    return folder


def looked_at(folder: Path) -> Check:
    with api.prepare(api.Request(str(TINY), (RECIPE[0],), method=RECIPE[1])) as prepared:
        [plan] = prepared.plans
    source = open_source(str(TINY))
    paths = [folder / file.name for file in plan.files]
    checks = verify_parts(paths, plan, of_plan(source, plan), STANDARD).checks
    source.close()
    return next((check for check in checks if check.ok is False), checks[-1])


def weights(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    return found


def test_a_sound_one_passes(made: Path) -> None:
    found = looked_at(made)
    assert (found.ok, found.data["compared_tensors"]) == (True, 28), found


@pytest.mark.parametrize(
    "change",
    [
        lambda config: weights(config).update(num_bits=8),
        lambda config: weights(config).update(group_size=64),
        lambda config: config["quantization_config"]["config_groups"]["group_0"].update(targets=["re:.*mlp.*"]),
        lambda config: config.pop("quantization_config"),
    ],
    ids=["bits", "group", "targets", "nothing"],
)
def test_a_configuration_that_says_something_else_fails(
    made: Path, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "x")
    config = json.loads((made / "config.json").read_text())
    change(config)
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    assert looked_at(tmp_path / "x").ok is False


@pytest.mark.parametrize("fault", ["missing", "more", "dtype", "rows"])
def test_tensors_that_were_not_planned_fail(made: Path, fault: str, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "x")
    path = tmp_path / "x" / "model.safetensors"
    tensors, name = load_file(path), "model.layers.1.mlp.up_proj.weight_packed"
    if fault == "missing":
        del tensors["model.norm.weight"]
    elif fault == "more":
        tensors["model.extra"] = tensors["model.norm.weight"].clone()
    elif fault == "dtype":
        tensors["model.norm.weight"] = tensors["model.norm.weight"].half()
    if fault == "rows":  # where they lie: places are promised, too
        place = read_safetensors(path).tensors[name]
        raw = np.fromfile(path, np.uint8)
        raw[place.start : place.stop] = raw[place.start : place.stop].reshape(place.shape[0], -1)[::-1].reshape(-1)
        raw.tofile(path)
    else:
        save_file(tensors, path)
    found = looked_at(tmp_path / "x")
    assert (found.name, found.ok) == ("numbers" if fault == "rows" else "structure", False), found


FIGURES = {"check", "ok", "detail", "compared_tensors", "compared_weights", "sampled", "not_compared", "worst"}


def test_numbers_have_one_shape_in_every_container(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    assert quantkit("convert", TINY, "--to", "q4_k_m", "-o", file).status == 0
    for artifact, manifest in ((made, made / "model.manifest.json"), (file, tmp_path / "m.manifest.json")):
        seen = quantkit("verify", artifact, "--against", TINY, "--json").json
        require(seen)
        require(json.loads(manifest.read_text()))
        for checks, sampled in ((json.loads(manifest.read_text())["checks"], True), (seen["checks"], False)):
            [numbers] = [check for check in checks if check["check"] == "numbers"]
            assert numbers.keys() == FIGURES
            assert (numbers["ok"], numbers["sampled"], numbers["not_compared"]) == (True, sampled, 0)
            assert [worst.keys() for worst in numbers["worst"]] == [{"tensor", "type", "snr_db"}] * 5
            assert all(worst["tensor"].endswith(".weight") for worst in numbers["worst"])
        assert (numbers["compared_tensors"], numbers["compared_weights"]) == (38, 3672320)


def test_a_source_of_another_shape_is_said(made: Path, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "other")
    tensors = load_file(TINY / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"][:64].clone()
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    shutil.copytree(made, tmp_path / "x")
    (tmp_path / "x" / "model.manifest.json").unlink()
    seen = quantkit("verify", tmp_path / "x", "--against", tmp_path / "other")
    assert seen.status == 7
    assert "model.layers.1.mlp.up_proj.weight is [768, 256], the source has [64, 256]" in seen.stderr


def test_experts_that_the_source_stacks_are_compared_one_by_one(tmp_path: Path) -> None:
    source, out = build("mixtral-4x1M", tmp_path / "m"), tmp_path / "out"
    tensors = load_file(source / "model.safetensors")
    stack_experts(tensors)
    save_file(tensors, source / "model.safetensors")
    assert quantkit("convert", source, "--to", "w8a16", "--method", "rtn", "-o", out).status == 0
    seen = quantkit("verify", out, "--against", source, "--json").json
    [numbers] = [check for check in seen["checks"] if check["check"] == "numbers"]
    assert (seen["ok"], numbers["compared_tensors"]) == (True, len(tensors) - 4 + 2 * 4 * 3)
    (out / "model.manifest.json").unlink()
    stored = load_file(out / "model.safetensors")
    one, other = (f"model.layers.1.mlp.experts.{e}.down_proj.weight_packed" for e in (1, 2))
    stored[one], stored[other] = stored[other], stored[one]
    save_file(stored, out / "model.safetensors")
    seen = quantkit("verify", out, "--against", source)
    assert (seen.status, "experts" in seen.stderr) == (7, True), seen.stderr


def test_the_package_reads_every_type_without_torch(made: Path) -> None:
    with open_with_package([made / "model.safetensors"]) as found:
        for name, tensor in load_file(made / "model.safetensors").items():
            assert found[name].entry.shape == tuple(tensor.shape)
            raw = tensor.contiguous().view(-1).view(torch.uint8).numpy()
            assert np.array_equal(found[name].data, raw), name
