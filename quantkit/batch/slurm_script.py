"""Job scripts for Slurm: which tasks go into one array, and what the script of an array says.

A script holds names of tasks, paths and options, no code: each element of the array runs `quantkit batch run MATRIX
--task ID`. submitit, the usual library, lays pickled functions into the shared folder that the jobs load; what can be
written there could then run as whoever submitted.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from quantkit.batch.place import Setup
from quantkit.batch.task import Task
from quantkit.errors import UsageError, did_you_mean
from quantkit.records import record

JOB_NAME = "quantkit"  # what is submitted has a name of its own behind it
ARRAY = 1000  # elements: MaxArraySize is 1001 unless somebody has changed it
GIB = 1 << 30
OVERHEAD_BYTES = 1 << 29  # of the process that waits for the task's own
GRACE_S = 90  # before the time is over: to save the work
VALUE = re.compile(r"[\w.,:@/+=*&|()\[\]!-]{1,200}", re.ASCII)
DEFAULT_CPUS = 4

# Keys of the table [slurm] of a matrix, and the options of sbatch that they are.
KEYS: Mapping[str, str] = {
    key: f"--{key.replace('_', '-')}"
    for key in (
        "account", "comment", "constraint", "cpus_per_task", "exclude", "gres", "mem", "nice", "nodelist",
        "partition", "qos", "reservation", "time", "wckey",
    )
}  # fmt: skip


@record
class Array:
    """Tasks that are one array of jobs, and its script."""

    tasks: tuple[Task, ...]
    script: str


def require_options(options: Mapping[str, str], where: str = "[slurm]") -> None:
    """Raise UsageError for a key that is none of `KEYS`, or a value that a job script cannot hold as it is."""
    for key, value in options.items():
        if key not in KEYS:
            what = f"{where}: unknown key {key!r}{did_you_mean(key, KEYS)}"
            raise UsageError(what, hint=f"known: {', '.join(KEYS)}", key=f"slurm.{key}")
        if not VALUE.fullmatch(value):
            what = f"{where}.{key}: {value!r} is not a value of sbatch {KEYS[key]}"
            raise UsageError(
                what, hint="letters, digits and . , : @ / + = - and the like, no spaces", key=f"slurm.{key}"
            )


def arrays(tasks: Sequence[Task], setup: Setup) -> Iterator[Array]:
    """Tasks that need about the same memory, in arrays of at most 1,000, with their scripts."""
    given = dict(setup.options)
    require_options(given)
    classes: dict[str, list[Task]] = {}
    for task in tasks:
        classes.setdefault(given.get("mem") or f"{ladder_gib(task.needs.memory_bytes)}G", []).append(task)
    for mem, alike in classes.items():
        for start in range(0, len(alike), ARRAY):
            some = tuple(alike[start : start + ARRAY])
            yield Array(some, _script(some, mem, given, setup))


def job_scripts(tasks: Sequence[Task], setup: Setup) -> tuple[str, ...]:
    """The scripts of all arrays that tasks make."""
    return tuple(array.script for array in arrays(tasks, setup))


def ladder_gib(nbytes: int) -> int:
    """What a task needs with its parent, in the next of 1, 2, 3, 4, 6, 8, 12, 16... GiB."""
    needed, step = nbytes + OVERHEAD_BYTES, GIB
    while step < needed:
        if step * 3 // 2 >= needed and step > GIB:
            return step * 3 // 2 // GIB
        step *= 2
    return step // GIB


def picked(names: Sequence[str], variable: str, command: str) -> str:
    """Lines of a shell that run a command with the task whose number a variable of the environment holds."""
    words = " ".join(map(shlex.quote, names))
    return f'set -- {words}\nshift "${variable}"\nexec {command} --task "$1"\n'


def _script(tasks: Sequence[Task], mem: str, given: Mapping[str, str], setup: Setup) -> str:
    limit = f"%{setup.jobs}" if setup.jobs else ""
    cpus = given.get("cpus_per_task") or str(setup.threads or DEFAULT_CPUS)
    directives = {
        "--job-name": JOB_NAME,
        "--array": f"0-{len(tasks) - 1}{limit}",
        "--nodes": "1",
        "--ntasks": "1",
        "--cpus-per-task": cpus,
        "--mem": mem,
        "--signal": f"B:TERM@{GRACE_S}",
        "--open-mode": "append",
        **{KEYS[key]: value for key, value in given.items() if key not in ("mem", "cpus_per_task")},
    }
    options = [
        "--threads",
        f"{setup.threads or cpus}",
        *(["--force"] if setup.force else []),
        "--json",
        "--quiet",
        "--no-step-summary",
    ]
    command = [sys.executable, "-m", "quantkit", "batch", "run", str(setup.matrix.absolute()), *options]
    lines = ["#!/bin/sh", *(f"#SBATCH {name}={value}" for name, value in directives.items()), "#SBATCH --requeue", ""]
    return "\n".join(lines) + picked([task.id for task in tasks], "SLURM_ARRAY_TASK_ID", shlex.join(command))


def log_pattern(folder: Path) -> str:
    """The value of sbatch's --output: a file for each element of an array. A % in the folder stands for itself."""
    return f"{str(folder).replace('%', '%%')}/%A_%a.log"
