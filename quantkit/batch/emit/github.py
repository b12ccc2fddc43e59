"""A workflow of GitHub Actions: a job for each task, by a matrix of at most 256."""

from __future__ import annotations

from typing import Any

import yaml

from quantkit.batch.emit import Job, chunks, require_plain

MOST = 256  # jobs that a matrix may make
DAYS = 7  # that artifacts are kept


def emit(job: Job) -> str:
    """The workflow. Nothing that a matrix names is put into a shell's text: it goes by variables."""
    matrix, out = require_plain(job.matrix, "the matrix"), require_plain(job.out, "the folder of the batch")
    body = {
        "name": "quantkit batch",
        "on": {"workflow_dispatch": None},
        "permissions": {"contents": "read"},
        "jobs": {f"convert{suffix}": _job([task.id for task in tasks], (matrix, out), job)
                 for suffix, tasks in chunks(job.tasks, MOST)},
    }  # fmt: skip
    head = "# made by: quantkit batch emit --for github\n"
    text: str = yaml.safe_dump(body, sort_keys=False, allow_unicode=False, width=1000)
    return head + text


def _job(names: list[str], paths: tuple[str, str], job: Job) -> dict[str, Any]:
    matrix, out = paths
    strategy: dict[str, Any] = {"fail-fast": False, "matrix": {"task": names}}
    if job.jobs:
        strategy["max-parallel"] = job.jobs
    threads = f" --threads {job.threads}" if job.threads else ""
    return {
        "runs-on": "ubuntu-latest",
        "strategy": strategy,
        "env": {"MATRIX": matrix, "TASK": "${{ matrix.task }}"},
        "steps": [
            {"uses": "actions/checkout@v4"},
            {"uses": "actions/setup-python@v5", "with": {"python-version": "3.12"}},
            {"run": f"pip install '{job.package}'"},
            {"run": f'quantkit batch run "$MATRIX" --task "$TASK"{threads}'},
            {
                "uses": "actions/upload-artifact@v4",
                "with": {"name": "${{ matrix.task }}", "path": out, "retention-days": DAYS},
            },
        ],
    }
