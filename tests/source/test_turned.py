"""Matrices that lie as (in, out) in plain files and as (out, in) where they are rounded: GPT-2's, there and back."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from commands import quantkit

from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.source import open_source

MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # the second is square


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build("gpt2", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("recipe", ["nf4", "int8", "gptq-w4g32", "w8a16", "nvfp4a16"])
def test_rounded_matrices_are_read_as_they_lie_in_the_source(recipe: str, gpt2: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    ran = quantkit("convert", gpt2, "--to", recipe, "--method", "rtn", "-o", made)
    assert ran.status == 0, ran.stderr
    with closing(open_source(str(gpt2))) as source, closing(open_source(str(made))) as found:
        assert {n: t.shape for n, t in found.tensors().items()} == {n: t.shape for n, t in source.tensors().items()}
        for name in MATRICES:
            wanted, ref = source.ref(f"transformer.h.1.{name}.weight"), found.ref(f"transformer.h.1.{name}.weight")
            assert ref.info.stored_as is not None
            values, rows = wanted.read(0, ref.info.rows), ref.read(0, ref.info.rows)
            assert np.square(rows - values).mean() < 0.02 * np.square(values).mean(), name
            assert np.array_equal(ref.read(5, 37), rows[5:37])
    assert quantkit("verify", made, "--against", gpt2).status == 0


def test_plain_checkpoints_keep_them_as_they_lie(gpt2: Path, tmp_path: Path) -> None:
    assert quantkit("convert", gpt2, "--to", "hf-f16", "-o", tmp_path / "made").status == 0
    made, given = (read_safetensors(f / "model.safetensors").tensors for f in (tmp_path / "made", gpt2))
    assert {n: t.shape for n, t in made.items()} == {n: t.shape for n, t in given.items()}
    assert quantkit("verify", tmp_path / "made", "--against", gpt2).status == 0
