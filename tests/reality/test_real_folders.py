"""Every real folder of a claimed family, cut down: converted, checked in llama.cpp, and converted with text."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import quantkit
from real_folders import claimed, make_small, needs_reality

pytestmark = [needs_reality, pytest.mark.slow]

TEXT = Path(__file__).parents[1] / "data" / "calibration.jsonl"


@pytest.mark.parametrize("name", claimed())
def test_a_real_folder_becomes_a_file_that_llama_cpp_loads(name: str, tmp_path: Path) -> None:
    more = ("--engine", "llama.cpp", "--mmproj", "none")  # encoders of small copies have sizes of our own
    made = quantkit("convert", make_small(name, tmp_path), "--to", "q8_0", "-o", tmp_path / "out", *more)
    assert made.status == 0, made.stderr
    assert [path.suffix for path in sorted((tmp_path / "out").iterdir()) if "Q8_0" in path.name] == [".gguf", ".json"]


@pytest.mark.parametrize("name", claimed())
def test_a_real_folder_is_converted_with_text(name: str, tmp_path: Path) -> None:
    source = make_small(name, tmp_path)
    text = ("--calib", TEXT, "--samples", 2, "--seqlen", 16)
    made = quantkit("convert", source, "--to", "gptq-w4g32", *text, "-o", tmp_path / "out")
    assert made.status == 0, made.stderr
    assert (tmp_path / "out" / "config.json").is_file()
