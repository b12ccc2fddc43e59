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
from commands import TINY, quantkit
from safetensors.torch import load_file, save_file

import quantkit as api
from quantkit.quality.checks.base import Check
from quantkit.quality.checks.layers import verify_server_parts
from quantkit.quality.readers import open_with_package
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
    [check] = verify_server_parts([folder / file.name for file in plan.files], source, plan).checks
    source.close()
    return check


def weights(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    return found


def test_a_sound_one_passes(made: Path) -> None:
    found = looked_at(made)
    assert (found.ok, found.data["compared"]) == (True, 28), found


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
    else:
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, path)
    found = looked_at(tmp_path / "x")
    assert (found.name, found.ok) == ("numbers" if fault == "rows" else "structure", False), found


def test_the_package_reads_every_type_without_torch(made: Path) -> None:
    with open_with_package([made / "model.safetensors"]) as found:
        for name, tensor in load_file(made / "model.safetensors").items():
            assert found[name].entry.shape == tuple(tensor.shape)
            raw = tensor.contiguous().view(-1).view(torch.uint8).numpy()
            assert np.array_equal(found[name].data, raw), name
