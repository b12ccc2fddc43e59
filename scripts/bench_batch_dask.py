"""Many small real conversions on Dask whose workers are killed by chance: nothing lost, nothing made twice; what a task
costs as a child of its worker, and inside of it.

    python scripts/bench_batch_dask.py --models 1000 --workers 10 --kills 30 --inside

`--inside` runs conversions in the process of the worker itself, to make thousands of them where a child for each would
take an hour; `quantkit batch run --on dask` always starts children.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import distributed
from dask import config

from quantkit.batch import dask, dask_task
from quantkit.batch.faults import Faults
from quantkit.batch.ledger import FOLDER, Ledger, where
from quantkit.batch.place import Outcome
from quantkit.pipeline.batch import BatchRequest, expand, setup_of

BUSY = 6  # exit code
TINY = Path(__file__).parents[1] / "tests" / "data" / "docs-llama-tiny"


def run_inside(text: str) -> str:
    """Run an order in this process, with the command line's own function. Appends what it made to a log."""
    from quantkit.cli.main import main

    order = dask_task.msgspec.json.decode(text, type=dask_task.Order)
    ledger = Ledger(Path(order.batch))
    known = ledger.read(order.task)
    if known is not None and ledger.state(known, order.key) == "done":
        return dask_task.encode(known.outcome())
    ledger.begin(order.task, order.key)
    start, out = time.monotonic(), io.StringIO()
    arguments = [*order.argv, "--threads=1", "--json", "--quiet", "--no-step-summary"]
    with contextlib.redirect_stdout(out):
        while (code := main(arguments)) == BUSY:  # Dask took a slow worker for a lost one, which is still at it
            out.truncate(out.seek(0))
            time.sleep(1.0)
    body = json.loads(out.getvalue())
    outcome = Outcome(order.task, code, time.monotonic() - start, where())
    if code == 0:
        with (Path(order.batch) / FOLDER / "made.log").open("a") as log:
            log.write(f"{order.task} {body['artifacts'][0]['built']}\n")
    ledger.settle(outcome, order.key, ledger.made(body.get("artifacts", ())))
    return dask_task.encode(outcome)


def kill_workers(cluster: distributed.LocalCluster, most: int, over_s: float, ended: threading.Event) -> list[int]:
    """SIGKILL to workers, by chance, until `ended`; the pids."""
    dice, killed = random.Random(0), []
    while len(killed) < most and not ended.wait(dice.uniform(0.2, 1.8) * over_s / most):
        alive = [nanny.pid for nanny in cluster.workers.values() if nanny.pid]
        if alive:
            pid = dice.choice(alive)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--over", type=float, default=60.0, help="seconds that the kills are spread over")
    parser.add_argument("--inside", action="store_true", help="in the worker's process")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(measure(asked, Path(folder)))


def measure(asked: argparse.Namespace, folder: Path) -> int:
    matrix = folder / "matrix.toml"
    models = "".join(f'[[models]]\nname = "m{n}"\nsource = "{TINY}"\n' for n in range(asked.models))
    matrix.write_text(f'{models}[[recipes]]\nto = "q8_0"\n[batch]\nverify = false\n')
    faults = Faults()
    patience = {"distributed.scheduler.allowed-failures": 100, "distributed.deploy.lost-worker-timeout": "600s"}
    with config.set(patience), distributed.LocalCluster(
        n_workers=asked.workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:  # fmt: skip
        request = BatchRequest(matrix, place="dask", threads=1, address=cluster.scheduler_address)
        found = expand(request, faults)
        faults.require_none()
        tasks, setup = [wish.task for wish in found.wishes], setup_of(request, found)
        heard: list[Outcome] = []
        killed: list[int] = []
        ended = threading.Event()
        killer = threading.Thread(
            target=lambda: killed.extend(kill_workers(cluster, asked.kills, asked.over, ended)), daemon=True
        )
        start = time.monotonic()
        killer.start()
        place = dask.Dask(setup, work=run_inside if asked.inside else dask_task.run_order)
        place.run(tasks, heard.append, lambda: False)
        seconds = time.monotonic() - start
        ended.set()
        killer.join()
    return told(asked, folder / "out", (heard, setup.keys, len(killed), seconds))


def told(asked: argparse.Namespace, out: Path, seen: tuple[list[Outcome], dict[str, str], int, float]) -> int:
    """Print what became of it; the exit code."""
    heard, keys, killed, seconds = seen
    ledger = Ledger(out)
    files = [path for path in out.rglob("*.gguf") if FOLDER not in path.parts]
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    left = [path for path in out.rglob(".quantkit-*") if path.name != FOLDER]
    done = sum(ledger.state(ledger.read(task), key) == "done" for task, key in keys.items())
    log = out / FOLDER / "made.log"
    built = (
        Counter(line.split()[0] for line in log.read_text().splitlines() if line.endswith("True"))
        if asked.inside
        else {}
    )
    twice = sum(count > 1 for count in built.values())
    again = sum(outcome.attempts > 1 for outcome in heard)
    print(f"{asked.models} conversions, {asked.workers} workers, {killed} killed, {seconds:.0f} s,"
          f" {seconds / asked.models * 1000:.0f} ms each, {'inside' if asked.inside else 'as children'}")  # fmt: skip
    failed = sum(not outcome.ok for outcome in heard)
    print(f"done {done}, failed {failed}, reported {len(heard)}, files {len(files)}, different bytes {len(hashes)},"
          f" published twice {twice}, tried again {again}, left over {len(left)}")  # fmt: skip
    good = (
        done == len(heard) == len(files) == asked.models and not failed and len(hashes) == 1 and not twice and not left
    )
    print("nothing lost, nothing twice" if good else "NOT as promised")
    return 0 if good else 1


if __name__ == "__main__":
    main()
