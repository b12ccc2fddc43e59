"""quantkit calibrate, killed or failed wherever it touches its output: the same bytes after a rerun, no half file."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import TINY
from forks import Forks, operations, spread

KILL_POINTS, OLDER_POINTS, FAULT_POINTS = 16, 6, 6

MODULES = (
    "torch", "transformers.models.llama.modeling_llama", "transformers.modeling_utils",
    "quantkit.pipeline.calibrate", "quantkit.calibration.saved", "quantkit.tokenizer.check",
)  # fmt: skip


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    warm = tmp_path_factory.mktemp("warm")
    server = Forks(["convert", str(TINY), "--to", "f32", "--quiet", "--no-verify", "-o", str(warm)], *MODULES)
    yield server
    server.close()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    data = tmp_path_factory.mktemp("data") / "data.txt"
    data.write_text("".join(f"{n}. Python has modules for files of every type. " for n in range(60)))
    small = ["--samples", "4", "--seqlen", "16", "--threads", "1", "--quiet"]
    return ["calibrate", str(TINY), "--data", str(data), *small]


@pytest.fixture(scope="module")
def golden(forks: Forks, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """File name -> hash of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("golden")
    for name in ("x.safetensors", "x.gguf"):
        assert forks.run([*arguments, "-o", str(folder / name)]) == 0
    return {path.name: sha256(path) for path in folder.iterdir()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def count(forks: Forks, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> int:
    """How often a whole run touches its output."""
    return operations(forks, tmp_path_factory.mktemp("count"), arguments, "x.safetensors")


def done(name: str) -> set[str]:
    return {name, f"{name}.manifest.json", "SHA256SUMS"}


@pytest.mark.slow
def test_killed_anywhere_it_resumes_to_the_same_bytes(
    forks: Forks, arguments: list[str], golden: dict[str, str], count: int, tmp_path: Path
) -> None:
    name = "x.safetensors"
    for number, n in enumerate(spread(count, KILL_POINTS)):
        target = tmp_path / f"killed-{n}" / name
        command = [*arguments, "-o", str(target)]
        assert forks.run(command, f"{('kill', 'tear')[number % 2]}:{n}") == -signal.SIGKILL
        assert not target.exists() or sha256(target) == golden[name], n
        assert forks.run(command) == 0, n
        assert sha256(target) == golden[name], n
        assert {p.name for p in target.parent.iterdir()} == done(name), n


@pytest.mark.slow
def test_an_older_file_is_whole_until_it_is_replaced(
    forks: Forks, arguments: list[str], golden: dict[str, str], count: int, tmp_path: Path
) -> None:
    for n in spread(count, OLDER_POINTS):
        target = tmp_path / f"older-{n}" / "x.gguf"
        assert forks.run([*arguments, "--seqlen", "8", "-o", str(target)]) == 0
        before = sha256(target)
        command = [*arguments, "-o", str(target), "--force"]
        assert forks.run(command, f"kill:{n}") in {-signal.SIGKILL, 0}
        assert sha256(target) in {before, golden["x.gguf"]}, n
        assert forks.run(command) == 0
        assert sha256(target) == golden["x.gguf"]
        assert {p.name for p in target.parent.iterdir()} == done("x.gguf"), n


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_a_failing_disk_loses_nothing(
    kind: str, forks: Forks, arguments: list[str], golden: dict[str, str], count: int, tmp_path: Path
) -> None:
    name = "x.safetensors"
    for n in spread(count, FAULT_POINTS):
        target = tmp_path / f"fault-{n}" / name
        command = [*arguments, "-o", str(target), "--activations", "disk"]
        status = forks.run(command, f"{kind}:{n}")
        assert status in {0, 5, 6}, (n, status)
        assert not target.exists() or sha256(target) == golden[name], n
        assert forks.run(command) == 0, n
        assert sha256(target) == golden[name], n
        assert {p.name for p in target.parent.iterdir()} == done(name), n


@pytest.mark.slow
def test_ctrl_c_keeps_finished_blocks(arguments: list[str], golden: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    events = tmp_path / "events"
    os.mkfifo(events)
    command = [sys.executable, "-c", "from quantkit.cli.main import run; run()", *arguments, "-o", str(target)]
    with subprocess.Popen([*command, "--events", str(events)], stderr=subprocess.PIPE, text=True) as process:
        with events.open() as lines:
            for line in lines:
                if '"TensorProgress"' in line:
                    process.send_signal(signal.SIGINT)
                    break
            lines.read()
        errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert "hint: run the same command again to resume" in errors
    [job] = tmp_path.glob(".quantkit-*")
    kept = {path: path.stat().st_mtime_ns for path in job.glob("blocks-*/*.safetensors")}
    assert 1 <= len(kept) <= 4
    command.remove("--quiet")
    resumed = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "finished tensors kept" in resumed.stderr
    assert sha256(target) == golden["x.safetensors"]


@pytest.mark.slow
def test_two_at_once_end_with_one_good_file(arguments: list[str], golden: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from quantkit.cli.main import run; run()", *arguments]
    runs = [subprocess.Popen([*command, "-o", str(tmp_path / "x.gguf")], stderr=subprocess.DEVNULL) for _ in range(2)]
    statuses = sorted(run.wait() for run in runs)
    assert statuses[0] == 0
    assert set(statuses) <= {0, 6}
    assert sha256(tmp_path / "x.gguf") == golden["x.gguf"]
    assert {p.name for p in tmp_path.iterdir()} == done("x.gguf")
