"""What the start of a conversion takes: the interpreter, imports, reading compiled loops; and the rest of a small one.

    python scripts/bench_start.py [--model CHECKPOINT] [--recipes bf16,q8_0,q4_k_m] [--runs 9] [--tree TREE ...]

Every run is a process of its own, after one that compiles what has to be compiled. Printed are medians of processor
time in milliseconds: of the interpreter until the first line of Python; of the outermost imports of every thread, those
of the conversion and those of its check, which has a thread of its own; of reading machine code from the disk; of the
whole process. With several --tree, which are other versions of this repository, their runs are made in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Runs the command line with every import, and every reading of a loop, timed by the clock of the thread that does it.
TIMED = """
import time
begun = time.process_time()
import builtins, importlib, json, sys, threading
took = {"imports": 0.0, "of the check": 0.0, "loops": 0.0}
inside = threading.local()
def timed(function, what):
    def call(*args, **named):
        if getattr(inside, "it", False):
            return function(*args, **named)
        inside.it, start = True, time.thread_time()
        try:
            return function(*args, **named)
        finally:
            inside.it = False
            of_check = what == "imports" and threading.current_thread().name.startswith("ThreadPoolExecutor")
            found = "of the check" if of_check else what
            took[found] += time.thread_time() - start
    return call
builtins.__import__ = timed(builtins.__import__, "imports")
importlib.import_module = timed(importlib.import_module, "imports")
from quantkit.cli.main import run
try:
    from quantkit.qtypes import kept
    kept.Loop._found = timed(kept.Loop._found, "loops")
except (ImportError, AttributeError):
    pass
import os
def told():
    with open(os.environ["TIMES"], "w") as file:
        json.dump({"interpreter": begun, **took, "all": time.process_time()}, file)
end = os._exit
os._exit = lambda status: (told(), end(status))
run()
told()
"""


def measured(tree: Path, model: Path, recipe: str, work: Path) -> dict[str, float]:
    """Seconds of processor time of one conversion, by what took them."""
    out, times = work / "out", work / "times"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", TIMED, "convert", str(model), "--to", recipe, "-o", str(out), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "TIMES": str(times), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(command, check=True, env=environment, cwd=work, stdout=subprocess.DEVNULL)
    found: dict[str, float] = json.loads(times.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "tests/data/docs-llama-tiny")
    parser.add_argument("--recipes", default="bf16,q8_0,q4_k_m")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--tree", type=Path, action="append", default=[])
    options = parser.parse_args()
    trees = [tree.resolve() for tree in options.tree] or [ROOT]
    with tempfile.TemporaryDirectory() as folder:
        work, model = Path(folder), options.model.resolve()
        for recipe in options.recipes.split(","):
            runs: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
            for tree in trees:
                measured(tree, model, recipe, work)
            for _ in range(options.runs):
                for tree in trees:
                    runs[tree].append(measured(tree, model, recipe, work))
            for tree, found in runs.items():
                medians = {what: statistics.median(run[what] for run in found) * 1e3 for what in found[0]}
                start = statistics.median(r["interpreter"] + r["imports"] + r["loops"] for r in found) * 1e3
                said = ", ".join(f"{what} {value:.0f}" for what, value in medians.items())
                print(f"{recipe:8} {tree.name}: start {start:.0f} ms ({said})", flush=True)


if __name__ == "__main__":
    main()
