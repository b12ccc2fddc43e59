"""A Makefile: a target for each task, so that `make -j4` runs four at a time and `make -k` goes on after a failure."""

from __future__ import annotations

import shlex

from quantkit.batch.emit import Job
from quantkit.errors import UsageError
from quantkit.untrusted import shown

TAB = "\t"


def emit(job: Job) -> str:
    """The Makefile. Targets are always run: a task that is done says so at once."""
    targets = [f"task-{task.id}" for task in job.tasks]
    matrix = quoted(job.matrix)
    threads = str(job.threads or 1)
    lines = [
        "# made by: quantkit batch emit --for make",
        "# make -j4 -k: four tasks at a time, going on after a failure; make status: what became of each",
        "QUANTKIT ?= quantkit",
        f"THREADS ?= {threads}",
        "",
        f".PHONY: all status {' '.join(targets)}",
        f"all: {' '.join(targets)}",
        "",
        "status:",
        f"{TAB}$(QUANTKIT) batch status {matrix}",
        "",
        f"{' '.join(targets)}: task-%:",
        f'{TAB}$(QUANTKIT) batch run {matrix} --task "$*" --threads $(THREADS)',
        "",
    ]
    return "\n".join(lines)


def quoted(path: str) -> str:
    """A path as one word of a recipe: for the shell, and then for make, which takes dollars and ends of lines."""
    if any(not c.isprintable() for c in path):
        raise UsageError(f"a Makefile cannot name {shown(path)}", hint="rename it", path=path)
    return shlex.quote(path if not path.startswith("-") else f"./{path}").replace("$", "$$")
