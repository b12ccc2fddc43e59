"""The real command, killed or failed at every point where it touches its output."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import llama_folder
import pytest
from commands import TINY
from forks import Forks, operations, spread

ARGUMENTS = ["convert", str(TINY), "--to", "q8_0", "--quiet", "--no-verify", "--threads", "2"]
KILL_POINTS = 220
FAULT_POINTS = 40


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    warm = tmp_path_factory.mktemp("warm")
    server = Forks([*ARGUMENTS, "-o", str(warm / "model.gguf")])
    yield server
    server.close()


@pytest.fixture(scope="module")
def golden(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("golden")
    assert forks.run([*ARGUMENTS, "-o", str(folder / "model.gguf")]) == 0
    return sha256(folder / "model.gguf")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


DONE = {"model.gguf", "model.manifest.json", "SHA256SUMS"}


@pytest.mark.slow
def test_killed_anywhere_it_resumes_to_the_same_bytes(forks: Forks, golden: str, tmp_path: Path) -> None:
    count = operations(forks, tmp_path, ARGUMENTS)
    points = [(kind, n) for n in spread(count, KILL_POINTS // 2) for kind in ("kill", "tear")]
    assert len(points) >= 200
    for kind, n in points:
        folder = tmp_path / f"{kind}-{n}"
        folder.mkdir()
        target = folder / "model.gguf"
        command = [*ARGUMENTS, "-o", str(target)]
        assert forks.run(command, f"{kind}:{n}") == -signal.SIGKILL
        assert not target.exists() or sha256(target) == golden, n
        assert forks.run(command) == 0, n
        assert sha256(target) == golden, n
        assert leftovers(folder) == DONE, n


@pytest.mark.slow
def test_killed_anywhere_an_older_artifact_is_whole(forks: Forks, golden: str, tmp_path: Path) -> None:
    older = [*ARGUMENTS, "--embedding-type", "f16"]
    count = operations(forks, tmp_path, ARGUMENTS)
    for n in spread(count, 50):
        folder = tmp_path / f"older-{n}"
        folder.mkdir()
        target = folder / "model.gguf"
        assert forks.run([*older, "-o", str(target)]) == 0
        before = sha256(target)
        command = [*ARGUMENTS, "-o", str(target), "--force"]
        status = forks.run(command, f"kill:{n}")
        assert status in {-signal.SIGKILL, 0}
        assert sha256(target) in {before, golden}, n
        assert forks.run(command) == 0
        assert sha256(target) == golden
        assert leftovers(folder) == DONE, n


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["enospc", "eio", "edquot", "eintr", "short"])
def test_a_failing_disk_loses_nothing(kind: str, forks: Forks, golden: str, tmp_path: Path) -> None:
    count = operations(forks, tmp_path, ARGUMENTS)
    for n in spread(count, FAULT_POINTS):
        folder = tmp_path / f"fault-{n}"
        folder.mkdir()
        target = folder / "model.gguf"
        command = [*ARGUMENTS, "-o", str(target)]
        status = forks.run(command, f"{kind}:{n}")
        assert status in {0, 5, 6}, (n, status)
        assert not target.exists() or sha256(target) == golden, n
        assert forks.run(command) == 0, n
        assert sha256(target) == golden, n
        assert leftovers(folder) == DONE, n


@pytest.mark.slow
def test_killed_at_any_moment_as_a_user_would(golden: str, tmp_path: Path) -> None:
    quantkit = [sys.executable, "-c", "from quantkit.cli.main import run; run()"]
    target = tmp_path / "model.gguf"
    start = time.monotonic()
    subprocess.run([*quantkit, *ARGUMENTS, "-o", str(tmp_path / "whole" / "model.gguf")], check=True)
    whole = time.monotonic() - start
    for i in range(12):
        process = subprocess.Popen([*quantkit, *ARGUMENTS, "-o", str(target), "--force"])
        time.sleep(whole * (0.4 + 0.05 * i))
        process.kill()
        process.wait()
        assert not target.exists() or sha256(target) == golden
    subprocess.run([*quantkit, *ARGUMENTS, "-o", str(target)], check=True)
    assert sha256(target) == golden


def test_a_file_size_limit_is_a_resource_error(tmp_path: Path) -> None:
    code = "from quantkit.cli.main import run; run()"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    result = subprocess.run(
        [sys.executable, "-c", code, *ARGUMENTS, "-o", str(tmp_path / "out" / "model.gguf")],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 5, result.stderr
    assert os.strerror(errno.EFBIG) in result.stderr or "size" in result.stderr
    assert not list(tmp_path.rglob("*.gguf"))


def test_two_processes_on_one_output_end_with_one_good_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from quantkit.cli.main import run; run()", *ARGUMENTS]
    target = tmp_path / "model.gguf"
    runs = [subprocess.Popen([*command, "-o", str(target)]) for _ in range(3)]
    statuses = sorted(run.wait() for run in runs)
    assert statuses[0] == 0
    assert set(statuses) <= {0, 6}
    assert leftovers(tmp_path) == DONE


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    recipes = ["--to", "q4_k_m,q5_k_m,q6_k,q3_k_m", "--no-verify", "--threads", "1"]
    arguments = ["convert", str(TINY), *recipes, "-o", str(tmp_path / "out")]
    events = tmp_path / "events"
    os.mkfifo(events)
    command = [sys.executable, "-c", "from quantkit.cli.main import run; run()", *arguments, "--events", str(events)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with events.open() as lines:
            for line in lines:
                if '"TensorProgress"' in line:
                    process.send_signal(signal.SIGINT)
                    break
            rest = lines.read()
        errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert "hint: run the same command again to resume" in errors
    assert 0 < rest.count('"TensorProgress"') < 37
    assert not list((tmp_path / "out").glob("*.gguf"))
    resumed = subprocess.run(command[:-2], stderr=subprocess.PIPE, text=True)
    assert resumed.returncode == 0
    assert "finished tensors kept" in resumed.stderr
    fresh = subprocess.run([*command[:-3], str(tmp_path / "fresh")], stderr=subprocess.PIPE, text=True)
    assert fresh.returncode == 0
    for path in (tmp_path / "fresh").glob("*.gguf"):
        assert sha256(path) == sha256(tmp_path / "out" / path.name)


@pytest.mark.slow
def test_pack_killed_anywhere_goes_on_to_the_same_bytes(forks: Forks, tmp_path: Path) -> None:
    """Files of a split artifact get their names one after the other: those that have one are no obstacle."""
    source = llama_folder.write(tmp_path / "model")
    options = ["--to", "q8_0", "--split-max-size", "120K", "--quiet"]
    assert forks.run(["quantize", str(source), *options, "-o", str(tmp_path / "work")]) == 0
    command = ["pack", str(tmp_path / "work" / "Q8_0"), "--quiet"]
    assert forks.run([*command, "-o", str(tmp_path / "whole")]) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.gguf")}
    assert len(whole) > 1
    count = operations(forks, tmp_path, command, name="out")
    shared = 0
    for n in {*spread(count // 2, 8), *range(count // 2, count + 1)}:  # names are given in the second half
        folder = tmp_path / f"pack-{n}"
        assert forks.run([*command, "-o", str(folder)], f"kill:{n}") == -signal.SIGKILL
        shared += 0 < len(list(folder.glob("*.gguf"))) < len(whole)
        assert forks.run([*command, "-o", str(folder)]) == 0, n
        assert {path.name: path.read_bytes() for path in folder.glob("*.gguf")} == whole, n
        assert not list(folder.glob(".quantkit-*")), n
    assert shared, "never killed between two names"
