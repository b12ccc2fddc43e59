"""GGUF files of encoders turned back: transformers computes what it computed with the original, to the last bit."""

from __future__ import annotations

from pathlib import Path

import encoder_table
import family_table
import pytest
import torch
from commands import quantkit

MORE = ("distilbert", "roberta", "xlm-roberta", "modernbert", "embedding-gemma")


@pytest.mark.parametrize("name", ["bert-mean", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_encoders_are_turned_back(name: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    base = encoder_table.build(name, tmp_path)
    for arguments in ((base, "--to", "f32"), (tmp_path / "out" / f"{base.name}-F32.gguf", "--to", "hf-f32")):
        seen = quantkit("convert", *arguments, "-o", tmp_path / ("out" if arguments[0] == base else "back"))
        assert seen.status == 0, seen.stderr
    ids = torch.tensor([[5, 77, 130, 9, 200, 44]])
    with torch.no_grad():
        made = [
            AutoModel.from_pretrained(path, dtype=torch.float32).eval()(input_ids=ids).last_hidden_state
            for path in (base, tmp_path / "back")
        ]
    assert torch.equal(*made)


@pytest.mark.parametrize("name", ["t5", "chameleon"])
def test_what_stands_in_no_key_is_refused(name: str, tmp_path: Path) -> None:
    base = (family_table if name in family_table.TABLE else encoder_table).build(name, tmp_path)
    assert quantkit("convert", base, "--to", "f32", "-o", tmp_path / "out", "--no-verify").status == 0
    [file] = (tmp_path / "out").glob("*.gguf")
    seen = quantkit("convert", file, "--to", "hf-f32", "-o", tmp_path / "back")
    assert seen.status == 4 and "not read backwards" in seen.stderr
