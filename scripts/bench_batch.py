"""How long batches take besides the work itself: planning many tasks, and what the scheduler adds to each.

    python scripts/bench_batch.py [--models 40] [--recipes 10] [--texts 25] [--run 300]

Models are folders of links to tests/data/docs-llama-tiny; recipes need text, so that every pair is a task of its own,
`texts` differ in the number of samples. Nothing is converted: children of the measured scheduler end at once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from quantkit.batch import worker
from quantkit.batch.budget import Budget
from quantkit.batch.faults import Faults
from quantkit.batch.ledger import Ledger
from quantkit.batch.local import Local
from quantkit.batch.task import Task
from quantkit.pipeline.batch import BatchRequest, batch_status, expand, plan_batch

TINY = Path(__file__).parents[1] / "tests" / "data" / "docs-llama-tiny"
RECIPES = ("w4a16", "w4a16-awq", "gptq-w4g128", "q4_k_s", "q4_k_m", "q5_k_m", "q6_k", "q3_k_m", "q8_0", "q2_k")


def timed(what: str, count: int, work: Callable[[], object]) -> object:
    """Run something; print seconds of the clock and of the processor, and what that is for each task."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    seconds, used = time.perf_counter() - clock, time.process_time() - processor
    print(f"{what:<28} {seconds:8.2f} s  {used:8.2f} s of processor  {1000 * used / count:8.3f} ms a task")
    return found


def matrix(folder: Path, models: int, recipes: int, texts: int) -> Path:
    (folder / "t.jsonl").write_text('{"text": "All work and no play."}\n')
    for number in range(models):
        (folder / f"m{number:04}").mkdir()
        for file in TINY.resolve().iterdir():
            (folder / f"m{number:04}" / file.name).symlink_to(file)
    lines = ["[batch]", 'calib = "t.jsonl"']
    lines += [f'[[models]]\nsource = "m{number:04}"' for number in range(models)]
    lines += [
        f'[[recipes]]\nto = "{name}"\nname = "{name}-{text}"\nfolder = "{name}-{text}"\nsamples = {16 + text}'
        for name in RECIPES[:recipes]
        for text in range(texts)
    ]
    path = folder / "matrix.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def overhead(folder: Path, tasks: int) -> None:
    """What the scheduler adds to each task: two records, a process, its end."""
    worker.command = lambda work: [sys.executable, "-S", "-c", ""]  # type: ignore[assignment]
    some = [Task(f"t{n}", "m", ("r",), (), folder) for n in range(tasks)]
    place = Local(Ledger(folder / "out"), {task.id: "" for task in some}, Budget(2, 1 << 40), 1)
    alone = []
    for _ in range(20):
        start = time.perf_counter()
        os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", ""], os.environ), 0)
        alone.append(time.perf_counter() - start)
    timed(f"{tasks} empty tasks, 2 at a time", tasks, lambda: place.run(some, lambda outcome: None, lambda: False))
    print(f"an empty process alone       {1000 * statistics.median(alone):8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("models", 40), ("recipes", 10), ("texts", 25), ("run", 300)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = matrix(Path(name), given.models, given.recipes, given.texts)
        request, count = BatchRequest(path, keep_going=True), given.models * given.recipes * given.texts
        print(f"{count:,} tasks: {given.models} models, {given.recipes} recipes, {given.texts} texts")
        timed("matrix to tasks", count, lambda: expand(request, Faults()))
        plan = timed("plan, sizes to the byte", count, lambda: plan_batch(request))
        assert len(plan.rows) == count  # type: ignore[attr-defined]
        assert all(row.planned.artifacts for row in plan.rows)  # type: ignore[attr-defined]
        timed("status", count, lambda: batch_status(request))
        overhead(Path(name), given.run)


if __name__ == "__main__":
    main()
