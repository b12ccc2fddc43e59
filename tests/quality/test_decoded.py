"""A GGUF file decoded into the places of its source: every tensor comes back, whatever the family does to it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import checkpoints
import family_table
import numpy as np
import pytest

import quantkit
from quantkit.quality.decoded import open_decoded

# Rows regrouped and columns moved, -exp of them, numbers multiplied into weights, and stacks that are turned.
PRODUCTS = {"falcon-h1": 2.0**-22}  # numbers that are multiplied into weights, two of them, in float32
NAMES = ("qwen3.5", "granite-4-h-dense", "falcon-h1", "nemotron-3", "lfm2", "llama4", "qwen3-vl-moe")


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_source_comes_back(name: str, tmp_path: Path) -> None:
    build = family_table.build if name in family_table.TABLE else checkpoints.build
    request = quantkit.Request(str(build(name, tmp_path)), ("f32",), pre=checkpoints.PRE)
    quantkit.convert(request, quantkit.Output(tmp_path / "out.gguf", threads=1))
    prepared = quantkit.prepare(request)
    source, model = prepared.checkpoint, prepared.model
    assert model is not None
    with closing(source), closing(open_decoded([tmp_path / "out.gguf"], source, model)) as made:
        assert made.tensors().keys() == source.tensors().keys() - model.dropped.keys()
        for tensor, info in made.tensors().items():
            found, expected = (side.ref(tensor).read(0, info.rows) for side in (made, source))
            assert np.allclose(found, expected, rtol=PRODUCTS.get(name, 0), atol=0), tensor
