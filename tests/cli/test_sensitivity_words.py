"""quantkit sensitivity: a table for every width, and what would be measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import TINY, quantkit
from published import require

FEW = ("--calib", "default", "--samples", 2, "--seqlen", 16)


@pytest.fixture(scope="module")
def told() -> dict[int, list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        found = {}
        for columns in (60, 80, 120):
            patch.setenv("COLUMNS", str(columns))
            outcome = quantkit("sensitivity", TINY, *FEW, "--tensors")
            assert outcome.status == 0, outcome.stderr
            found[columns] = outcome.stdout.splitlines()
        return found


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_cost_is_there_at_every_width(told: dict[int, list[str]], columns: int) -> None:
    lines = told[columns]
    assert max(map(len, lines)) <= columns
    words = [word for line in lines for word in line.split() if "e-" in word]
    assert sorted(words) == sorted(word for line in told[120] for word in line.split() if "e-" in word)
    assert sum(line.startswith("blk.") for line in lines) == 28


def test_a_dry_run_says_what_would_be_measured_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "below" / "costs.json"
    found = quantkit("sensitivity", TINY, *FEW, "-o", out, "--dry-run", "--json")
    assert found.status == 0, found.stderr
    require(found.json)
    assert (found.json["tensors"], found.json["would_write"]) == (29, str(out))
    assert (found.json["learned_tokens"], found.json["judged_tokens"]) == (16, 16)
    assert found.json["elsewhere_tokens"] == 0, "the text is the shipped one"
    assert not list(tmp_path.iterdir())
    out.parent.mkdir()
    out.write_text("else")
    assert quantkit("sensitivity", TINY, *FEW, "-o", out, "--dry-run").status == 6
