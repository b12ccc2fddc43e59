"""Checkpoints and calibrated GGUF files, killed or failed anywhere in a run, resume to the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import TINY
from forks import Forks, operations, spread

TEXT = TINY.parent / "calibration.jsonl"
REST = ["--quiet", "--no-verify", "--threads", "2"]
COMMON = ["convert", str(TINY), *REST]
PLAIN = [*COMMON, "--to", "fp8"]
CALIBRATED = [*COMMON, "--to", "w4a16-awq", "--calib", str(TEXT), "--samples", "2", "--seqlen", "32"]
FED_BACK = [*COMMON, "--to", "q4_0", "--calib", str(TEXT), "--samples", "2", "--seqlen", "32"]
CACHED = [*COMMON, "--to", "fp8-kv", "--calib", str(TEXT), "--samples", "2", "--seqlen", "32"]
MODULES = ("torch", "transformers", "quantkit.calibration.walk.walk", "quantkit.filling.rounding")
PLAIN_POINTS, CALIBRATED_POINTS, FED_BACK_POINTS, FAULT_POINTS = 30, 6, 4, 10


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    server = Forks([*PLAIN, "-o", str(tmp_path_factory.mktemp("warm"))], *MODULES)
    yield server
    server.close()


TOLD = (".manifest.json", "SHA256SUMS")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file with a name that a loader sees: not of what says how long it took."""
    seen = [p for p in folder.rglob("*") if p.is_file()]
    names = {p.relative_to(folder).as_posix(): p for p in seen if not p.name.endswith(TOLD)}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in names.items() if not n.startswith(".")}


@pytest.fixture(scope="module")
def count(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many times a run touches its output; with calibration about as often, for the tensors are as many."""
    return operations(forks, tmp_path_factory.mktemp("count"), PLAIN, "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "points"),
    [
        (PLAIN, PLAIN_POINTS),
        (CALIBRATED, CALIBRATED_POINTS),
        (CACHED, CALIBRATED_POINTS),
        (FED_BACK, FED_BACK_POINTS),
    ],
    ids=["plain", "calibrated", "cached", "gguf"],
)
def test_killed_anywhere_it_resumes_to_the_same_bytes(
    command: list[str], points: int, count: int, forks: Forks, tmp_path: Path
) -> None:
    golden = tmp_path / "golden"
    assert forks.run([*command, "-o", str(golden)]) == 0
    expected = hashes(golden)
    count = count // 2 if command is FED_BACK else count  # a tensor where checkpoints have several
    for number, n in enumerate(spread(count, points)):
        out = tmp_path / f"{n}"
        kind = ("kill", "tear")[number % 2]
        assert forks.run([*command, "-o", str(out)], f"{kind}:{n}") == -signal.SIGKILL, n
        found = hashes(out) if out.exists() else {}
        assert found.items() <= expected.items(), (n, "whatever has a name is whole")
        assert forks.run([*command, "-o", str(out)]) == 0, n
        assert hashes(out) == expected, n
        assert {p.name for p in out.iterdir()} == {p.name for p in golden.iterdir()}, n


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["enospc", "eio", "short"])
def test_a_failing_disk_loses_nothing(kind: str, count: int, forks: Forks, tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    assert forks.run([*PLAIN, "-o", str(golden)]) == 0
    expected = hashes(golden)
    for n in spread(count, FAULT_POINTS):
        out = tmp_path / f"{n}"
        assert forks.run([*PLAIN, "-o", str(out)], f"{kind}:{n}") in {0, 5, 6}, n
        assert (hashes(out) if out.exists() else {}).items() <= expected.items(), n
        assert forks.run([*PLAIN, "-o", str(out)]) == 0, n
        assert hashes(out) == expected, n


@pytest.mark.slow
def test_killed_while_it_replaces_no_folder_is_of_two_models(count: int, forks: Forks, tmp_path: Path) -> None:
    """What has a config.json is all old or all new; the same command ends with the new and nothing else."""
    sources = [Path(shutil.copytree(TINY, tmp_path / name)) for name in ("older", "newer")]
    for source, files in zip(sources, ("xy", "yz"), strict=True):
        for name in files:  # one file goes, one is replaced, one comes, and a folder goes
            path = source / f"additional_chat_templates/{name}.jinja"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{source.name} {name}")
    (sources[0] / "1_Pooling").mkdir()
    (sources[0] / "1_Pooling" / "config.json").write_text("{}")
    older = ["convert", str(sources[0]), *REST, "--to", "w8a16", "--max-shard-size", "900K"]
    newer = ["convert", str(sources[1]), *REST, "--to", "fp8"]
    old, new = tmp_path / "old", tmp_path / "new"
    assert forks.run([*older, "-o", str(old)]) == 0
    assert forks.run([*newer, "-o", str(new)]) == 0
    states = hashes(old), hashes(new)
    killed = 0
    for n in range(max(count - 60, 1), count + 60, 6):
        out = tmp_path / f"{n}"
        shutil.copytree(old, out)
        command = [*newer, "-o", str(out), "--force"]
        killed += forks.run(command, f"kill:{n}") == -signal.SIGKILL
        found = hashes(out)
        assert found in states or "config.json" not in found, n
        manifest = out / "model.manifest.json"
        if manifest.exists():
            said = {f["name"]: f["sha256"] for f in json.loads(manifest.read_text())["artifact"]}
            assert said == found, n
        assert forks.run(command) == 0, n
        assert hashes(out) == states[1], n
        assert {p.name for p in out.iterdir()} == {p.name for p in new.iterdir()}, n
    assert killed > 6
