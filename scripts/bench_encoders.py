"""Encoders of quantkit against ggml: time per weight on one core, in one process, alternating.

    python scripts/bench_encoders.py --types q4_k,q6_k --weights 2097152 --importance

ggml is called through the xllamacpp wheel (`ggml_quantize_chunk`), so both sides quantize the same array in memory
without reading or writing files. The ratio is the median over the rounds of ggml's time by quantkit's, measured one
after the other. Every run also checks that the bytes are equal, and times the first compilation of all encoders
into an empty cache in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from oracles import ggml

from quantkit.qtypes import base

COMPILE = """
import sys, time
import numpy as np
from quantkit.qtypes import base
w = np.linspace(-1, 1, 1024, dtype=np.float32).reshape(1, 1024)
start = time.process_time()
for name in sys.argv[1].split(","):
    for importance in (None, np.ones(1024, np.float32)):
        base.get(name).encode(w, importance)
print(time.process_time() - start)
"""


@dataclass(frozen=True)
class Result:
    """Nanoseconds per weight of both, medians over the rounds; `ratio` is the median of the rounds' ratios."""

    qtype: str
    importance: bool
    quantkit_ns: float
    ggml_ns: float
    ratio: float
    source_mb_per_s: float
    equal: bool


def seconds(run: Callable[[], object]) -> float:
    """Time of this thread on the processor: other programs on a shared machine do not count, or hardly."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def measure(name: str, w: np.ndarray, importance: np.ndarray | None, rounds: int) -> Result:
    """Run both encoders `rounds` times in turns, after one untimed call each."""
    qtype = base.get(name)
    assert qtype.gguf is not None
    number = qtype.gguf
    out = np.zeros((w.shape[0], qtype.row_bytes(w.shape[1])), np.uint8)
    given = np.ones(w.shape[1], np.float32) if importance is None and number in ggml.NEED_IMPORTANCE else importance
    weights = None if given is None else given.ctypes.data
    call = (number, w.ctypes.data, out.ctypes.data, 0, *w.shape, weights)
    reference = ggml.library().so.ggml_quantize_chunk
    reference(*call)
    equal = np.array_equal(qtype.encode(w, importance), out)
    pairs = []
    for _ in range(rounds):
        ours = seconds(lambda: qtype.encode(w, importance))
        pairs.append((ours, seconds(lambda: reference(*call))))
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Result(
        qtype=name,
        importance=importance is not None,
        quantkit_ns=ours / w.size * 1e9,
        ggml_ns=theirs / w.size * 1e9,
        ratio=statistics.median(g / q for q, g in pairs),
        source_mb_per_s=w.nbytes / ours / 1e6,
        equal=equal,
    )


def compile_seconds(names: list[str], cache: str) -> float:
    """Seconds for the first block of every type in a new process whose compiled code lives in folder `cache`."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-c", COMPILE, ",".join(names)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def parse_arguments() -> argparse.Namespace:
    known = [name for name in base.names() if base.get(name).gguf is not None]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(known), help="comma-separated type names")
    parser.add_argument("--weights", type=int, default=1 << 20, help="how many weights to encode")
    parser.add_argument("--importance", action="store_true", help="with importance weights, where the type uses them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    names = arguments.types.split(",")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cols = 4096
    rng = np.random.default_rng(0)
    w = rng.standard_normal((max(1, arguments.weights // cols), cols), np.float32) * np.float32(0.02)
    importance = rng.random(cols, np.float32) + np.float32(0.1) if arguments.importance else None
    results = [
        measure(name, w, importance, arguments.rounds)
        for name in names
        if importance is None or base.get(name).uses_importance
    ]
    with tempfile.TemporaryDirectory() as cache:
        first, cached = compile_seconds(names, cache), compile_seconds(names, cache)
    if arguments.json:
        print(json.dumps({"compile_s": first, "cached_s": cached, "results": [asdict(r) for r in results]}, indent=2))
        return
    print(f"{'type':8}{'quantkit':>10}{'ggml':>10}{'ratio':>8}{'MB/s':>8}  bytes     (ns per weight, one core)")
    for r in results:
        equal = "equal" if r.equal else "DIFFER"
        print(f"{r.qtype:8}{r.quantkit_ns:10.2f}{r.ggml_ns:10.2f}{r.ratio:8.2f}{r.source_mb_per_s:8.0f}  {equal}")
    print(f"first use of all these types: {first:.1f} s compiling, {cached:.2f} s from the cache")


if __name__ == "__main__":
    main()
