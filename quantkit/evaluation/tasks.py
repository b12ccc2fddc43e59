"""Tasks of an evaluation harness: how they are run, and what comes out. Imports neither the harness nor torch."""

from __future__ import annotations

from typing import Any

from quantkit.errors import UsageError, require_choice
from quantkit.records import record

LM_EVAL = "lm-eval"


@record
class TaskOptions:
    """How tasks are run: a folder with more of them, how many documents of each (None: all), how many examples before
    each (None: the task's own number), whether tasks may run what models write as code, and whether data may be
    fetched."""

    folder: str | None = None
    limit: int | None = None
    fewshot: int | None = None
    run_code: bool = False
    fetch: bool = False


@record
class TaskFigure:
    """A metric of a task, of an artifact and of the original, with the harness's standard errors."""

    task: str
    metric: str
    documents: int
    value: float
    error: float | None
    reference: float
    reference_error: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "metric": self.metric,
            "documents": self.documents,
            "value": self.value,
            "standard_error": self.error,
            "reference": self.reference,
            "reference_standard_error": self.reference_error,
        }


NO_TASKS = TaskOptions()
HARNESS_MODULES = ("lm_eval",)


def require_harness(name: str | None, tasks: tuple[str, ...], options: TaskOptions) -> None:
    """Raise UsageError for another harness than there is, and for options that do not go together."""
    if name is not None:
        require_choice("--harness", name, (LM_EVAL,))
    if name is not None and not tasks:
        raise UsageError("no task for the harness to run", key="tasks", hint="for example --tasks hellaswag,arc_easy")
    if name is None and (tasks or options != NO_TASKS):
        raise UsageError("tasks are those of a harness", key="harness", hint=f"--harness {LM_EVAL} --tasks ...")
    for option, value, least in (("task-limit", options.limit, 1), ("fewshot", options.fewshot, 0)):
        if value is not None and value < least:
            raise UsageError(f"--{option} {value}", key=option.replace("-", "_"), hint=f"{least} or more")
