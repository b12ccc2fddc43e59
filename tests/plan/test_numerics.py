"""There is one version of the numerics, and raising it makes every artifact another one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit import qtypes

ROOT = Path(qtypes.__file__).parent.parent


@pytest.mark.parametrize("recipe", ["q4_k_m", "w4a16 --method rtn"])
def test_raising_the_numerics_changes_the_digest_of_every_plan(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest() -> str:
        outcome = quantkit("plan", TINY, "--to", *recipe.split(), "--json")
        assert outcome.status == 0, outcome.stderr
        return str(outcome.json["plans"][0]["digest"])

    before = digest()
    assert digest() == before
    monkeypatch.setattr(qtypes, "NUMERICS", qtypes.NUMERICS + 1)
    assert digest() != before


def test_a_file_of_other_numerics_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*more: str) -> tuple[int, str]:
        outcome = quantkit("convert", TINY, "--to", "f16", "-o", tmp_path / "m.gguf", "--no-verify", *more)
        return outcome.status, outcome.stderr

    assert convert()[0] == 0
    monkeypatch.setattr(qtypes, "NUMERICS", qtypes.NUMERICS + 1)
    status, said = convert()
    assert status != 0
    assert re.search(r"numerics", said), said
    assert convert("--force")[0] == 0


def test_there_is_one() -> None:
    found = [
        p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if re.search(r"^NUMERICS = ", p.read_text(), re.M)
    ]
    assert found == ["qtypes/__init__.py"]
