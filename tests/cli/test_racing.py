"""Real conversions of several processes to one output, half of them killed, where locks always succeed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import signal
import subprocess
from pathlib import Path

import pytest
from commands import TINY, quantkit
from racing import PRELOADED, convert

PROCESSES, ROUNDS = 4, 3


@pytest.mark.slow
def test_processes_race_for_one_artifact(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    dice = random.Random(0)
    done = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path / "alone", "--no-verify", "--quiet")
    assert done.status == 0, done.stderr
    [alone] = (tmp_path / "alone").glob("*.gguf")
    for number in range(ROUNDS):
        out = tmp_path / str(number)
        faults = [f"kill:{dice.randrange(5, 160)}" if n % 2 == 0 else "" for n in range(PROCESSES)]
        processes = [context.Process(target=convert, args=(TINY, out, fault)) for fault in faults]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        ends = [process.exitcode for process in processes]
        assert set(ends) <= {0, 6, -signal.SIGKILL}, ends
        rerun = quantkit("convert", TINY, "--to", "q8_0", "-o", out, "--no-verify", "--json", "--quiet")
        assert rerun.status == 0, rerun.stderr
        [made] = out.glob("*.gguf")
        assert made.read_bytes() == alone.read_bytes(), "the same bytes, whoever made them"
        [manifest] = out.glob("*.json")
        artifact = json.loads(manifest.read_text())["artifact"]
        assert [each["sha256"] for each in artifact] == [hashlib.sha256(made.read_bytes()).hexdigest()]
        assert not list(out.glob(".quantkit*")), "nothing is left over"
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True)
