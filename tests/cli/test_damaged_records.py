"""Manifests and work descriptions that were changed: verify, convert and pack refuse or ignore them, never crash."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_folder
import pytest
from commands import quantkit

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**63, 2**70, 1.5, float("inf"), float("nan"), "", "..", "../x", "a/b", "\0", "x" * 300, [],
    {}, [[]], {"name": "x"}, "\x1b[31m",
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value could be changed: every key and item, of long lists the first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from places(child, (*path, key))


def damaged(body: dict[str, Any], count: int) -> Iterator[bytes]:
    """Documents with one value replaced or removed, and text that is no document."""
    rng = random.Random(1)
    where = list(places(body))
    for place in rng.sample(where, min(count, len(where))):
        changed = json.loads(json.dumps(body))
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        if rng.random() < 0.2:
            del parent[place[-1]]
        else:
            parent[place[-1]] = rng.choice(VALUES)
        yield json.dumps(changed).encode()
    yield from (b"", b"{", b"[]", b"null", b"[" * 10**5, b"\xff", b'{"schema": "quantkit.manifest/9"}', b"9" * 5000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder.write(tmp_path_factory.mktemp("records") / "model")


def test_damaged_manifests(folder: Path, tmp_path: Path) -> None:
    command = ["convert", folder, "--to", "q8_0", "-o", tmp_path / "model.gguf", "--no-verify", "--quiet"]
    assert quantkit(*command).status == 0
    path = tmp_path / "model.manifest.json"
    statuses = set()
    for text in damaged(json.loads(path.read_bytes()), 60):
        path.write_bytes(text)
        for arguments in (["verify", tmp_path / "model.gguf"], command):
            outcome = quantkit(*arguments)
            assert outcome.status in {0, 3, 6, 7}, (text[:300], outcome.stderr)
            assert outcome.status == 0 or "hint: " in outcome.stderr, text[:300]
            statuses.add(outcome.status)
    assert {0, 3, 6, 7} <= statuses


def _parsed(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def test_damaged_work_descriptions(folder: Path, tmp_path: Path) -> None:
    [work] = quantkit("quantize", folder, "--to", "q8_0", "-o", tmp_path / "work", "--json").json["work"]
    path = Path(work) / "work.json"
    original = path.read_bytes()
    for text in damaged(json.loads(original), 60):
        path.write_bytes(text)
        outcome = quantkit("pack", work, "-o", tmp_path / "out")
        assert outcome.status == (0 if json.loads(original) == _parsed(text) else 3), (text[:300], outcome.stderr)
        assert outcome.status == 0 or "hint: " in outcome.stderr, text[:300]
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    path.write_bytes(original)  # and the work is still there
    assert quantkit("pack", work, "-o", tmp_path / "out").status == 0
