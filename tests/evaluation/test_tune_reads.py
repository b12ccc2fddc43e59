"""A step of tune reads each byte of the source's weights once at most, whoever needs it; and room is no matter."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import build
from commands import TINY, quantkit

from quantkit.evaluation.memory import Memory
from quantkit.formats.gguf.reader import read_gguf
from quantkit.pipeline import ladder
from quantkit.untrusted import InputFile

OPENED_BYTES = 64 << 10  # what is read of a file when it is opened: its header, and what lies behind that
GATES = ("--gate", "kld<1e-9")  # no step passes: all are made


def few(path: Path, count: int, first: int = 0) -> Path:
    rows = [json.loads(line) for line in (TINY.parent / "held-out.jsonl").read_text().splitlines()]
    path.write_text("".join(json.dumps({"text": row["text"][:200]}) + "\n" for row in rows[first : first + count]))
    return path


class Reads:
    """How often each byte of the files of weights was read from the disk, in each step; not by whoever hashes."""

    def __init__(self) -> None:
        self.steps: list[dict[Path, Any]] = []

    def count(self, file: InputFile, start: int, stop: int) -> None:
        weights = file.path.suffix in {".safetensors", ".gguf"} and not any(
            part.startswith("out") for part in file.path.parts
        )
        hashing = threading.current_thread().name.startswith("hash")
        opening = file.watched.kept is None and stop <= OPENED_BYTES
        if self.steps and weights and not hashing and not opening:
            counts = self.steps[-1].setdefault(file.path, np.zeros(file.nbytes, np.uint8))
            counts[start:stop] += 1

    def most(self, step: int) -> int:
        """How often the byte of the weights that was read most often was."""
        return max(int(counts[first_weight(path) :].max()) for path, counts in self.steps[step].items())

    def share(self, step: int) -> float:
        """How much of the weights was read."""
        parts = [counts[first_weight(path) :] for path, counts in self.steps[step].items()]
        return sum(int((part > 0).sum()) for part in parts) / sum(map(len, parts))


def first_weight(path: Path) -> int:
    if path.suffix == ".gguf":
        return int(read_gguf(path).data_start)
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    found = Reads()
    plain, convert = InputFile._read, ladder.convert

    def counting(self: InputFile, start: int, stop: int) -> Any:
        found.count(self, start, stop)
        return plain(self, start, stop)

    def step(*arguments: Any, **options: Any) -> Any:
        found.steps.append({})
        return convert(*arguments, **options)

    monkeypatch.setattr(InputFile, "_read", counting)
    monkeypatch.setattr(ladder, "convert", step)
    yield found


def tune(source: Path, recipes: str, folder: Path, *more: object) -> None:
    """A ladder of which nothing passes."""
    text = few(folder / "text.jsonl", 2)
    found = quantkit("tune", source, "--to", recipes, "--eval-data", text, "-o", folder / "out", *GATES, *more)
    assert found.status == 8, found.stderr


def as_gguf(folder: Path) -> Path:
    path = folder / "source" / "tiny.gguf"
    assert quantkit("convert", TINY, "--to", "bf16", "-o", path, "-q").status == 0
    return path


SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tied": (lambda folder: TINY, "q4_0,q8_0"),
    "untied": (lambda folder: build("llama-untied-gqa", folder), "q4_0,q8_0"),
    "experts": (lambda folder: build("mixtral-4x1M", folder), "q4_0,q8_0"),
    "sharded": (lambda folder: build("llama-sharded", folder), "q4_0,q8_0"),
    "served": (lambda folder: TINY, "int8,fp8"),
    "from-gguf": (as_gguf, "int8,fp8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_a_step_reads_each_byte_once(kind: str, tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no room in memory, so that whatever is kept but a layer lies in files; a tied model with room, too."""
    make, recipes = SOURCES[kind]
    source = make(tmp_path / "source")
    for room in (0, 1 << 30) if kind == "tied" else (0,):
        monkeypatch.setattr(ladder, "Memory", lambda room=room, **how: Memory(room, **how))
        reads.steps.clear()
        folder = tmp_path / f"{room}"
        folder.mkdir()
        tune(source, recipes, folder)
        assert [(reads.most(step), reads.share(step)) for step in range(2)] == [(1, 1.0)] * 2
        assert not list((folder / "out").glob("*.scratch"))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "room", "most"), [("w4a16", 0, 1), ("q4_0", 1 << 30, 1), ("q4_0", 0, 3)])
def test_text_is_run_with_the_same_reads(
    recipe: str, room: int, most: int, tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GGUF file with feedback the text goes there, back and there again: what memory holds is read once. Of this
    small model all is kept that tells how far apart its columns are."""
    monkeypatch.setattr(ladder, "Memory", lambda **how: Memory(room, **how))
    calib = ("--calib", few(tmp_path / "calib.jsonl", 2, 3), "--seqlen", 32, "--samples", 2)
    tune(TINY, recipe, tmp_path, *calib)
    assert reads.share(0) == 1.0 and reads.most(0) <= most
