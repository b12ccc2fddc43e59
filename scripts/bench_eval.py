"""Tokens per second of `quantkit eval`, beside transformers' own forward of the same model on the same windows.

    python scripts/bench_eval.py MODEL [--data text.jsonl] [--tokens 20000] [--threads 2]

eval runs two models, the original and a Q8_0 of it, and compares whole distributions; transformers runs one, with all
weights in memory, and only the log-probabilities of the right tokens are taken. So the ratio counts both models of
eval: 1.0 means that eval costs what two forwards of transformers cost. CPU seconds are printed beside wall time, for
machines that others use, too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import quantkit
from quantkit.evaluation.artifacts import opened_artifact
from quantkit.evaluation.corpus import Corpus, Cutting, read_corpus
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side
from quantkit.machine import peak_rss_bytes
from quantkit.report.text import size
from quantkit.source import open_source

REPEATS = 2
MODEL = Path(__file__).parent.parent / "tests" / "data" / "docs-llama-tiny"
DATA = MODEL.parent / "held-out.jsonl"


@dataclass(frozen=True)
class Spent:
    """The shortest of some runs, in seconds."""

    wall: float
    cpu: float


def spent(work: Callable[[], object]) -> Spent:
    """Time some runs of `work` after one that is not counted."""
    work()
    found = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append(Spent(time.perf_counter() - wall, time.process_time() - cpu))
    return Spent(min(f.wall for f in found), min(f.cpu for f in found))


def by_transformers(model: Path, corpus: Corpus, threads: int) -> Callable[[], float]:
    """The perplexity of the windows, one window at a time on each thread, as eval runs them."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def run() -> float:
        total = 0.0
        with torch.no_grad():
            for batch in corpus.batches:
                for row, scored in zip(batch.tokens, batch.scored, strict=True):
                    ids = torch.from_numpy(row).long()[None]
                    logits = loaded(ids, use_cache=False).logits[0, :-1]
                    right = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                    total -= float(right[torch.from_numpy(scored[:-1])].sum())
        return total / corpus.tokens

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    source = open_source(str(options.model))
    corpus = read_corpus(source, (options.data,), Cutting(tokens=options.tokens))
    run = sum(batch.tokens.size for batch in corpus.batches)
    with tempfile.TemporaryDirectory() as folder:
        request = quantkit.Request(str(options.model), recipes="q8_0")
        [artifact] = quantkit.convert(request, quantkit.Output(Path(folder), verify=False))
        with opened_artifact(artifact.path, source) as opened:
            sides = (Side("original", source), [opened.side], corpus)
            ours = spent(lambda: measure(*sides, threads=options.threads))
        peak = peak_rss_bytes()
    theirs = spent(by_transformers(options.model, corpus, options.threads))
    for name, one, models in (("eval, two models", ours, 2), ("transformers, one model", theirs, 1)):
        rate = f"{run * models / one.wall:9,.0f} tokens/s wall  {run * models / one.cpu:9,.0f} tokens/s of CPU time"
        sys.stdout.write(f"{name:<24} {one.wall:7.2f} s wall  {one.cpu:7.2f} s CPU  {rate}\n")
    ratio = f"{2 * theirs.wall / ours.wall:.2f} wall, {2 * theirs.cpu / ours.cpu:.2f} CPU"
    sys.stdout.write(f"two forwards of transformers to one eval: {ratio}; peak of eval {size(peak)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
