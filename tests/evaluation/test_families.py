"""Families whose weights lie otherwise in a file, and types that no other reader knows, are measured like any."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import build
from commands import TINY, quantkit

TEXT = Path(__file__).parent.parent.parent / "LICENSE"


def measured(source: Path, recipe: str, folder: Path) -> dict[str, float]:
    out = folder / "made.gguf"
    assert quantkit("convert", source, "--to", recipe, "-o", out, "--no-verify", "-q").status == 0
    few = ("--data", TEXT, "--window", 64, "--tokens", 256)
    found = quantkit("eval", out, "--against", source, *few, "--gate", "default", "--json")
    assert found.status == 0, found.stderr
    return found.json["artifacts"][0]["kl"]


@pytest.mark.parametrize("name", ["phi3", "qwen2-moe", "gemma2", "llama-biases"])
def test_a_file_of_8_bits_is_near_its_original(name: str, tmp_path: Path) -> None:
    assert 0 < measured(build(name, tmp_path / name), "q8_0", tmp_path)["value"] < 1e-3


def test_types_that_only_quantkit_decodes(tmp_path: Path) -> None:
    assert 0.01 < measured(TINY, "q2_0", tmp_path)["value"] < 20
