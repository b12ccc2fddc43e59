"""A .gitlab-ci.yml: a job for each task, by parallel:matrix of at most 200."""

from __future__ import annotations

from typing import Any

import yaml

from quantkit.batch.emit import Job, chunks, require_plain

MOST = 200  # jobs that parallel:matrix may make
IMAGE = "python:3.12"


def emit(job: Job) -> str:
    """The pipeline. Nothing that a matrix names is put into a shell's text: it goes by variables."""
    matrix, out = require_plain(job.matrix, "the matrix"), require_plain(job.out, "the folder of the batch")
    threads = f" --threads {job.threads}" if job.threads else ""
    body: dict[str, Any] = {
        ".quantkit": {
            "image": job.image or IMAGE,
            "variables": {"MATRIX": matrix},
            "script": [f"pip install '{job.package}'", f'quantkit batch run "$MATRIX" --task "$TASK"{threads}'],
            "artifacts": {"when": "always", "expire_in": "1 week", "paths": [out]},
        }
    }
    for suffix, tasks in chunks(job.tasks, MOST):
        body[f"convert{suffix}"] = {
            "extends": ".quantkit",
            "parallel": {"matrix": [{"TASK": [task.id for task in tasks]}]},
        }
    head = "# made by: quantkit batch emit --for gitlab\n"
    text: str = yaml.safe_dump(body, sort_keys=False, allow_unicode=False, width=1000)
    return head + text
