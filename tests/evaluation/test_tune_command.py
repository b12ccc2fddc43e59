"""quantkit tune: the first that passes is published, nothing is measured twice, and none is exit 8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY, quantkit
from published import require


@pytest.mark.slow
def test_the_smallest_that_passes_is_published_and_nothing_measured_twice(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (TINY.parent / "held-out.jsonl").read_text().splitlines()[:10]]
    text = tmp_path / "few.jsonl"
    text.write_text("".join(json.dumps({"text": row["text"][:400]}) + "\n" for row in rows))
    out = tmp_path / "out"
    tune = ("tune", TINY, "--to", "q8_0,q4_0", "--eval-data", text, "-o", out, "--json")
    for again in (False, True):
        found = quantkit(*tune, "--gate", "kld<0.001")
        assert found.status == 0, found.stderr
        require(found.json)
        steps = found.json["steps"]
        assert [(s["recipe"], s["ok"], s["measured_before"]) for s in steps] == [
            ("q4_0", False, again), ("q8_0", True, again),
        ]  # fmt: skip
        assert [path.name for path in out.glob("*.gguf")] == ["docs-llama-tiny-Q8_0.gguf"]
        assert not [path for path in out.glob(".quantkit-*") if path.is_dir()]
    assert quantkit("tune", TINY, "--to", "q8_0", "--max-size", "1MB", "--dry-run").status == 5
    assert quantkit("tune", TINY, "--to", "q8_0").status == 2


def test_two_ladders_are_one_too_many() -> None:
    found = quantkit("tune", TINY, "--to", "q8_0", "--servers", "--dry-run")
    assert (found.status, "--servers names the recipes" in found.stderr) == (2, True), found.stderr
