"""One is singular in all that is printed: what commands say of one document, one prompt, one window, one tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.units import counted

PLURAL = re.compile(r"(?<![\w.,/:·<>=-])1 ([a-z]+s)\b")
SINGULAR = {"is", "has", "was", "this", "pass", "loss", "less", "times", "does", "as"}  # words that end in s


def plurals(text: str) -> list[str]:
    return [match[0] for match in PLURAL.finditer(text) if match[1] not in SINGULAR]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, and files that hold one document and one prompt each."""
    folder = tmp_path_factory.mktemp("one")
    assert quantkit("convert", TINY, "--to", "q4_0", "-o", folder / "m.gguf", "--no-verify", "-q").status == 0
    (folder / "t.txt").write_text(
        "The harbour was quiet in the morning, and nobody spoke of the storm that had passed."
    )
    row = {"text": "The harbour", "expect": {"contains": "zebra"}}
    (folder / "p.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def commands(one: Path) -> dict[str, list[object]]:
    file, text = one / "m.gguf", one / "t.txt"
    few = ("--against", TINY, "--window", 64, "--threads", 1)
    return {
        "doctor": ["doctor"],
        "recipes": ["recipes", "gptq-w4g128"],
        "schemes": ["schemes"],
        "plan": ["plan", TINY, "--to", "q4_k_m,fp8"],
        "plan calib": ["plan", TINY, "--to", "q4_k_m", "--calib", text, "--samples", 1, "--seqlen", 8],
        "recommend": ["recommend", TINY, "--slots", 1, "--memory", "24GB"],
        "tune": ["tune", TINY, "--dry-run", "--to", "q8_0"],
        "inspect": ["inspect", file],
        "verify": ["verify", file, "--threads", 1],
        "compare": ["compare", file, file, "--threads", 1],
        "card": ["card", file],
        "eval": ["eval", file, *few, "--data", text, "--prompts", one / "p.jsonl", "--prompt-tokens", 1,
                 "--summary", one / "s.md", "--html", one / "r.html", "--gate", "lost<=0"],
        "no bound": ["eval", file, *few, "--data", text, "--gate", "kld<1"],
        "no proof": ["eval", file, *few, "--prompts", one / "p.jsonl", "--gate", "expect_pass>=0.9"],
        "convert": ["convert", TINY, "--to", "q8_0", "-o", one / "c.gguf", "--threads", 1],
    }  # fmt: skip


NAMES = tuple(commands(Path()))


@pytest.mark.parametrize("name", NAMES)
def test_one_is_singular(name: str, one: Path) -> None:
    found = quantkit(*commands(one)[name])
    assert found.stdout or found.stderr
    written = [path.read_text() for path in (one / "s.md", one / "r.html") if name == "eval"]
    assert [wrong for text in (found.stdout, found.stderr, *written) for wrong in plurals(text)] == []


def test_the_search_finds_what_it_is_for() -> None:
    assert plurals("1 documents of 1 prompts, 11 tokens, 1,001 rows, 0.1 tokens, 1 pass") == [
        "1 documents",
        "1 prompts",
    ]
    assert [counted(n, "row") for n in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert [counted(n, "batch", "is", "are") for n in (1, 2)] == ["1 batch is", "2 batches are"]
