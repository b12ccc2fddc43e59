"""The decoder that checks take: it shares nothing with what packs, and gives what loaders of every format compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized_folder import VARIANTS, round_weight, write_folder
from safetensors.torch import load_file, save_file

from quantkit.errors import InputError
from quantkit.formats.containers.base import StoredPart
from quantkit.formats.containers.packed import Tensors
from quantkit.quality.unpacking import unpack
from quantkit.source import open_source
from quantkit.source.quantized import QuantizedCheckpoint, read_part
from quantkit.tensors import F32, U8

NAME = "model.layers.0.mlp.up_proj"


def gaussian(rows: int, cols: int) -> F32:
    return (np.random.default_rng(1).standard_normal((rows, cols)) * 0.05).astype(np.float32)


def decoded(folder: Path, start: int, stop: int) -> F32:
    made = open_source(str(folder))
    assert isinstance(made, QuantizedCheckpoint)
    module = made.modules[f"{NAME}.weight"]

    def values(tensors: Tensors) -> F32:
        found = unpack(NAME, tensors, module.layout.traits)
        assert found is not None, "no decoder of its own"
        return found

    def read(part: StoredPart, first: int, last: int) -> U8:
        return read_part(made.folder.stored[part.name], part, first, last)

    try:
        return module.assembled(start, stop, read, values)
    finally:
        made.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_it_gives_the_numbers_that_were_packed(name: str, tmp_path: Path) -> None:
    w = gaussian(160, 320)
    if name == "native-fp8" or "block" in name:
        w = np.tile(w, (2, 2))[:256, :384].copy()
    rounded = round_weight(VARIANTS[name].layout, w)
    folder = write_folder(tmp_path / "m", VARIANTS[name], {NAME: rounded}, config={"dtype": "float16"})
    expected, rows = rounded.values(), len(w)
    assert np.array_equal(decoded(folder, 0, rows), expected)
    for start, stop in ((0, 1), (3, 70), (rows - 9, rows)):
        assert np.array_equal(decoded(folder, start, stop), expected[start:stop])


@pytest.mark.parametrize("group", [-1, 5, 1 << 30])
def test_groups_that_are_not_there_are_damage(group: int, tmp_path: Path) -> None:
    variant = VARIANTS["gptq-v2-4-asymmetric-g64-act"]
    rounded = round_weight(variant.layout, gaussian(64, 320))
    folder = write_folder(tmp_path / "m", variant, {NAME: rounded}, config={"dtype": "float16"})
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{NAME}.g_idx"][7] = group
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match="g_idx"):
        decoded(folder, 0, 64)


@pytest.mark.parametrize(
    ("name", "part"), [("awq-symmetric-g32", "scales"), ("packed-4-symmetric-g32", "weight_scale")]
)
def test_what_is_no_number_is_damage(name: str, part: str, tmp_path: Path) -> None:
    rounded = round_weight(
        VARIANTS[name].layout, np.random.default_rng(1).standard_normal((64, 320)).astype(np.float32)
    )
    folder = write_folder(tmp_path / "m", VARIANTS[name], {NAME: rounded}, config={"dtype": "float16"})
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{NAME}.{part}"].view(-1)[3] = float("inf")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match="decodes to"):
        decoded(folder, 0, 64)
