"""The check of convert does not believe what packs: a mistake that its reader shares is found all the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import TINY
from safetensors.torch import load_file, save_file

import quantkit as api
from quantkit.filling.layers import layout_of
from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.pipeline.verify import verify_parts
from quantkit.plan.base import Plan
from quantkit.plan.reading import read_weight
from quantkit.qtypes.schemes.base import Quantized
from quantkit.quality.against import of_plan
from quantkit.quality.checks.base import STANDARD, Check
from quantkit.recipes.read import load_recipe, recipe_names
from quantkit.source import Checkpoint, open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model, its first block alone: what is looked for is the same in all."""
    out = tmp_path_factory.mktemp("source") / "m"
    shutil.copytree(TINY, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    tensors = load_file(TINY / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if ".layers." not in n or ".layers.0." in n}, out / "model.safetensors")
    return out


RECIPES = [name for name in recipe_names() if load_recipe(name).container != "gguf"]


def write(folder: Path, plan: Plan, source: Checkpoint) -> list[Path]:
    """The files of a plan, every layer rounded to nearest."""
    raw = [np.zeros(file.nbytes, np.uint8) for file in plan.files]
    for data, file in zip(raw, plan.files, strict=True):
        data[: len(file.header)] = np.frombuffer(file.header, np.uint8)
    for unit in plan.units:
        made: tuple[PackedTensor, ...] = ()
        if unit.layout is not None:
            layout = layout_of(unit)
            peak = 1.0 if layout.traits.activations == "static" else None
            made = layout.pack(unit.name, layout.scheme.encode(read_weight(source, unit.tensor)), peak)
        elif unit.copy:
            [out] = unit.outputs
            values = source.ref(unit.source.tensor).read(0, unit.tensor.rows).reshape(out.shape)
            made = (packed(Entry(out.name, out.dtype, out.shape), values),)
        for tensor in made:
            place = plan.by_name[tensor.entry.name]
            raw[place.file][place.offset : place.offset + place.nbytes] = tensor.data.reshape(-1)
    paths = [folder / file.name for file in plan.files]
    for data, path in zip(raw, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        data.tofile(path)
    return paths


def reversed_codes(quantized: Quantized) -> Quantized:
    return replace(quantized, codes=np.ascontiguousarray(quantized.codes[:, ::-1]))


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_packs_and_unpacks_the_same_wrong_way_is_found(
    recipe: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api.prepare(api.Request(str(folder), (recipe,))) as prepared:
        [plan] = prepared.plans
    source = open_source(str(folder))

    def look(name: str) -> dict[str, Check]:
        seen = verify_parts(write(tmp_path / name, plan, source), plan, of_plan(source, plan), STANDARD)
        return {check.name: check for check in seen.checks}

    assert {name: check.ok for name, check in look("sound").items()} == dict.fromkeys(
        ("structure", "tokenizer", "numbers"), True
    )
    if not plan.rounded:
        return  # nothing is packed: tensors are what they are
    of = type(plan.rounded[0].layout)
    pack, unpack = of.pack, of.unpack
    monkeypatch.setattr(of, "pack", lambda self, name, q, peak=None: pack(self, name, reversed_codes(q), peak))
    monkeypatch.setattr(of, "unpack", lambda self, name, tensors: reversed_codes(unpack(self, name, tensors)))
    numbers = look("broken")["numbers"]
    assert (numbers.ok, "far from the source" in numbers.detail) == (False, True), numbers
    source.close()
