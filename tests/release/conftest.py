"""Folders of artifacts that releases are made of: made once, copied by whoever changes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import TINY, quantkit
from released import RECIPES, SOURCE_CARD, Made


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Nobody writes into these."""
    folder = tmp_path_factory.mktemp("release")
    made = Made(folder / "src", folder / "out", folder / "measured.json")
    shutil.copytree(TINY, made.source)
    (made.source / "README.md").write_text(SOURCE_CARD)
    found = quantkit("convert", made.source, "--to", ",".join(RECIPES), "-o", made.out, "-q")
    assert found.status == 0, found.stderr
    few = ("--against", made.source, "--data", TINY.parent / "held-out.jsonl", "--window", 64, "--tokens", 300)
    small = [made.out / f"{RECIPES[name]}.gguf" for name in ("q4_0", "q8_0")]
    found = quantkit("eval", *small, *few, "--gate", "kld<0.9", "--gate", "ppl_ratio<3", "--json")
    assert found.status == 0, found.stderr
    made.record.write_text(found.stdout)
    return made


@pytest.fixture
def made(kept: Made, tmp_path: Path) -> Made:
    """A copy that may be changed."""
    shutil.copytree(kept.out, tmp_path / "out")
    return Made(kept.source, tmp_path / "out", kept.record)


@pytest.fixture
def failing(kept: Made, tmp_path: Path) -> Callable[[str], Path]:
    """The record of a measurement in which the first gate of an artifact did not hold."""

    def write(label: str) -> Path:
        body = json.loads(kept.record.read_text())
        for each in body["artifacts"]:
            if each["name"].startswith(label):
                each["gates"][0]["ok"] = each["ok"] = body["ok"] = False
        path = tmp_path / "failing.json"
        path.write_text(json.dumps(body))
        return path

    return write
