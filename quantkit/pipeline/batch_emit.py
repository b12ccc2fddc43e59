"""batch emit: a matrix as a file that makes others run its tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from quantkit.batch.emit import Job, emit, kinds
from quantkit.batch.faults import Faults
from quantkit.batch.task import Task
from quantkit.errors import UsageError, require_choice
from quantkit.pipeline.batch import BatchRequest, expand, plan_batch
from quantkit.records import record
from quantkit.storage import exists, write_small

KUBERNETES = "kubernetes"
IMAGES, CLAIMS = (KUBERNETES, "gitlab"), (KUBERNETES,)
ABSOLUTE = (KUBERNETES, "make")  # those that run on this machine, or with its paths


@record
class Emitted:
    """The text of the file, and where it was written."""

    kind: str
    tasks: int
    text: str
    file: Path | None = None

    def as_json(self) -> dict[str, Any]:
        file = None if self.file is None else str(self.file)
        return {"kind": self.kind, "tasks": self.tasks, "file": file, "text": self.text}


def emit_batch(
    request: BatchRequest, kind: str, out: Path | None = None, *, image: str | None = None, claim: str | None = None
) -> Emitted:
    """Write a matrix as a file of a kind: a text, and the file `out` where it is given.

    Only a Job of Kubernetes says how much memory a task needs, so only for one the models are looked at. Raises
    UsageError for what the kind cannot say, ExistsError where something else has the name `out`.
    """
    require_choice("--for", kind, kinds())
    for option, value, users in (("image", image, IMAGES), ("claim", claim, CLAIMS)):
        if value is not None and kind not in users:
            what = f"--{option} is of {' and '.join(users)}, not of {kind}"
            raise UsageError(what, hint=f"leave --{option} out", key=option)
    faults = Faults()
    found = expand(request, faults)
    faults.require_none()
    tasks: tuple[Task, ...] = tuple(wish.task for wish in found.wishes)
    if kind == KUBERNETES:
        tasks = tuple(row.planned.task for row in plan_batch(request).rows)
    matrix, folder = _path(found.matrix.path, kind), _path(found.matrix.out, kind)
    job = Job(tasks, matrix, folder, found.matrix.path.stem, request.jobs, request.threads, image, claim)
    text = emit(kind, job)
    if out is not None:
        if os.path.lexists(out) and not request.force and not _holds(out, text):
            raise exists(out)
        write_small(out, text.encode(), overwrite=True)
    return Emitted(kind, len(tasks), text, out)


def _path(path: Path, kind: str) -> str:
    """A path as those see it who run the file."""
    return str(path) if kind in ABSOLUTE else os.path.relpath(path).replace(os.sep, "/")


def _holds(out: Path, text: str) -> bool:
    try:
        return out.is_file() and out.read_bytes() == text.encode()
    except OSError:
        return False
