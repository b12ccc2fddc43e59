"""The decoder that checks take: it shares nothing with what packs, and gives what loaders of every format compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized_folder import VARIANTS, round_weight, write_folder

from quantkit.quality.unpacking import unpack
from quantkit.source import open_source
from quantkit.source.quantized import QuantizedCheckpoint, read_part
from quantkit.tensors import F32

NAME = "model.layers.0.mlp.up_proj"


def decoded(folder: Path, start: int, stop: int) -> F32:
    made = open_source(str(folder))
    assert isinstance(made, QuantizedCheckpoint)
    module = made.modules[f"{NAME}.weight"]

    def values(tensors: dict[str, object]) -> F32:
        found = unpack(NAME, tensors, module.layout.traits)  # type: ignore[arg-type]
        assert found is not None, "no decoder of its own"
        return found

    read = lambda part, first, last: read_part(made.folder.stored[part.name], part, first, last)  # noqa: E731
    try:
        return module.assembled(start, stop, read, values)
    finally:
        made.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_it_gives_the_numbers_that_were_packed(name: str, tmp_path: Path) -> None:
    w = (np.random.default_rng(1).standard_normal((160, 320)) * 0.05).astype(np.float32)
    if name == "native-fp8" or "block" in name:
        w = np.tile(w, (2, 2))[:256, :384].copy()
    rounded = round_weight(VARIANTS[name].layout, w)
    folder = write_folder(tmp_path / "m", VARIANTS[name], {NAME: rounded}, config={"dtype": "float16"})
    expected, rows = rounded.values(), len(w)
    assert np.array_equal(decoded(folder, 0, rows), expected)
    for start, stop in ((0, 1), (3, 70), (rows - 9, rows)):
        assert np.array_equal(decoded(folder, start, stop), expected[start:stop])
