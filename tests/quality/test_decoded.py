"""A GGUF file decoded into the places of its source: every tensor comes back, whatever the family does to it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import checkpoints
import family_table
import numpy as np
import pytest
from walks import logits_after, windows

import quantkit
from quantkit.calibration.walk.model import open_model
from quantkit.quality.decoded import open_decoded
from quantkit.tensors import WHOLE_DTYPES

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


@pytest.mark.parametrize("name", ["apertus", "qwen-3.8"])
def test_numbers_among_the_keys_of_a_file_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    """A model that computes with tensors of them runs on what the file holds."""
    request = quantkit.Request(str(family_table.build(name, tmp_path)), ("q8_0",), pre=checkpoints.PRE)
    quantkit.convert(request, quantkit.Output(tmp_path / "out.gguf", threads=1, verify=False))
    prepared = quantkit.prepare(request)
    source, model = prepared.checkpoint, prepared.model
    assert model is not None
    with closing(source), closing(open_decoded([tmp_path / "out.gguf"], source, model)) as made:
        told = made.tensors().keys() & model.dropped.keys()
        assert told
        assert not any(made.holds(tensor) for tensor in told)
        for tensor in told:
            rows = source.tensors()[tensor].rows
            assert np.array_equal(made.ref(tensor).read_packed(0, rows), source.ref(tensor).read_packed(0, rows))
        found, _ = logits_after(open_model(made, threads=1), windows(390, count=1, seqlen=20))
        assert found.isfinite().all()


def test_tables_of_whole_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    """Experts by token (DeepSeek V4): a model on what the file holds is described and runs."""
    request = quantkit.Request(str(family_table.build("deepseek-v4", tmp_path)), ("q8_0",), pre=checkpoints.PRE)
    quantkit.convert(request, quantkit.Output(tmp_path / "out.gguf", threads=1, verify=False))
    prepared = quantkit.prepare(request)
    source, model = prepared.checkpoint, prepared.model
    assert model is not None
    with closing(source), closing(open_decoded([tmp_path / "out.gguf"], source, model)) as made:
        tables = {name: info for name, info in source.tensors().items() if info.dtype in WHOLE_DTYPES}
        assert tables
        for name, info in tables.items():
            assert made.holds(name)
            assert made.tensors()[name] == info
            assert np.array_equal(made.ref(name).read_packed(0, info.rows), source.ref(name).read_packed(0, info.rows))
        found, _ = logits_after(open_model(made, threads=1), windows(390, count=1, seqlen=20))
        assert found.isfinite().all()
