"""Indexed Jobs of Kubernetes: an index for each task; tasks that need about the same memory are one Job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from quantkit.batch.emit import Job
from quantkit.batch.slurm_script import DEFAULT_CPUS, ladder_gib, picked
from quantkit.batch.task import Task
from quantkit.batch.worker import PASSING
from quantkit.errors import UsageError
from quantkit.untrusted import shown
from quantkit.version import __version__

MOST_BYTES = 100_000  # of names in one Job: an argument of a program ends at 128 KiB
RETRIES = 3  # of one index: each goes on where the one before was
AT_ONCE = 8
FOR_GOOD = tuple(code for code in range(1, 10) if code not in PASSING)  # another pod would end with the same
SAVE_S = 90  # between being asked to end and being killed: to save the work
# The first rule that fits counts. A pod that lost its node, or gave it to another, is no try of its index.
_NOT_ITS_FAULT = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
_FAILS_FOR_GOOD = {
    "action": "FailIndex",
    "onExitCodes": {"containerName": "quantkit", "operator": "In", "values": list(FOR_GOOD)},
}
IMAGE = re.compile(r"[a-z0-9][\w.:/@-]{0,254}", re.ASCII)
CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def emit(job: Job) -> str:
    """The Jobs, as documents of one YAML file. The folder of the matrix is a volume, at the same path as here."""
    image, claim = job.image or f"quantkit:{__version__}", job.claim or "quantkit"
    for what, value, form in (("--image", image, IMAGE), ("--claim", claim, CLAIM)):
        if not form.fullmatch(value):
            hint = "for example --image registry.example/quantkit:1 --claim models"
            raise UsageError(f"{what}: {shown(value)!r} is no name of that kind", hint=hint, key=what[2:])
    matrix = PurePosixPath(job.matrix)
    if not matrix.is_absolute() or not job.matrix.isprintable() or ":" in str(matrix.parent):
        what = f"a Job cannot mount the folder of {shown(job.matrix)}"
        raise UsageError(what, hint="move the matrix to a path without : and control characters", path=job.matrix)
    if matrix.parent not in PurePosixPath(job.out).parents:
        what = f"a Job sees the folder of the matrix alone, and {shown(job.out)} is not in it"
        raise UsageError(what, hint="give batch.out a folder below the matrix", path=job.out, key="batch.out")
    documents = [
        _document(number, gib, tasks, (job, image, claim)) for number, (gib, tasks) in enumerate(_groups(job.tasks), 1)
    ]
    head = "# made by: quantkit batch emit --for kubernetes\n"
    text: str = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=False, width=1000)
    return head + text


def _groups(tasks: Sequence[Task]) -> Iterator[tuple[int, list[Task]]]:
    """Tasks by the GiB that they need, as many as one Job can name."""
    classes: dict[int, list[Task]] = {}
    for task in tasks:
        classes.setdefault(ladder_gib(task.needs.memory_bytes), []).append(task)
    for gib, alike in sorted(classes.items()):
        some: list[Task] = []
        nbytes = 0
        for task in alike:
            nbytes += len(task.id) + 1
            if some and nbytes > MOST_BYTES:
                yield gib, some
                some, nbytes = [], len(task.id) + 1
            some.append(task)
        yield gib, some


def _document(number: int, gib: int, tasks: Sequence[Task], asked: tuple[Job, str, str]) -> dict[str, Any]:
    job, image, claim = asked
    cpus = job.threads or DEFAULT_CPUS
    command = shlex.join(["quantkit", "batch", "run", job.matrix, "--threads", str(cpus)])
    script = picked([task.id for task in tasks], "JOB_COMPLETION_INDEX", command)
    folder = str(PurePosixPath(job.matrix).parent)
    container = {
        "name": "quantkit",
        "image": image,
        "command": ["/bin/sh", "-c", _literal(script)],
        "workingDir": folder,
        "resources": {"requests": {"cpu": str(cpus), "memory": f"{gib}Gi"}, "limits": {"memory": f"{gib}Gi"}},
        "volumeMounts": [{"name": "batch", "mountPath": folder}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{_name(job.name)}-{number}", "labels": {"app.kubernetes.io/name": "quantkit"}},
        "spec": {
            "completionMode": "Indexed",
            "completions": len(tasks),
            "parallelism": min(job.jobs or AT_ONCE, len(tasks)),
            "backoffLimitPerIndex": RETRIES,
            "podFailurePolicy": {"rules": [_NOT_ITS_FAULT, _FAILS_FOR_GOOD]},
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": SAVE_S,
                    "automountServiceAccountToken": False,
                    "containers": [container],
                    "volumes": [{"name": "batch", "persistentVolumeClaim": {"claimName": claim}}],
                }
            },
        },
    }


def _literal(text: str) -> str:
    """Text of a command, in which Kubernetes would expand $(NAME)."""
    return text.replace("$(", "$$(")


def _name(name: str) -> str:
    """A name as a label of the DNS: at most 63 characters with the number behind it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-") or "quantkit"
