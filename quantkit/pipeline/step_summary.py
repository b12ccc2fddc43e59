"""The verdict of gates on the page of a GitHub run: Markdown, appended to the file that $GITHUB_STEP_SUMMARY names.

A run of CI sets the variable for every step. What cannot be written there is a warning: the verdict itself is on
stdout and in the exit code.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.evaluation.gates import Verdict
from quantkit.events import Sink, Warned, ignore
from quantkit.pipeline.columns import plain
from quantkit.pipeline.evaluate import Evaluation
from quantkit.pipeline.evaluate_words import markdown
from quantkit.pipeline.outputs import Artifact
from quantkit.report.text import size
from quantkit.storage import open_log
from quantkit.untrusted import shown

VARIABLE = "GITHUB_STEP_SUMMARY"
FAILED = "step-summary"


def summarize_evaluation(found: Evaluation, besides: Path | None = None, emit: Sink = ignore) -> None:
    """Append an evaluation with gates. `besides` is a file that already has it: not twice into the same one."""
    if any(artifact.verdicts for artifact in found.artifacts):
        append(markdown(found), besides, emit)


def summarize_conversion(built: Sequence[object], errors: Sequence[QuantkitError], emit: Sink = ignore) -> None:
    """Append what gates said of artifacts that convert made, and of those that it did not publish."""
    manifests = [artifact.manifest for artifact in built if isinstance(artifact, Artifact)]
    checks = [check for manifest in manifests for check in manifest.facts["checks"] if check.get("gates")]
    failed = [judged for judged in (getattr(error, "judged", None) for error in errors) if judged]
    if checks or failed:
        append(gates_markdown("quantkit convert", [*checks, *failed]), None, emit)


def gates_markdown(title: str, judged: Sequence[Mapping[str, Any]]) -> str:
    """A table of gates. `judged` are artifacts by `name`, with `bytes` and `gates`."""
    failed = sum(not gate["ok"] for one in judged for gate in one["gates"])
    verdict = "**gates do not hold**" if failed else "all gates hold"
    out = [f"### {title}: {verdict}", "", "| artifact | size | gate | |", "|---|---:|---|---|"]
    for one in judged:
        for gate in one["gates"]:
            words = Verdict(**gate).words
            mark = "ok" if gate["ok"] else "**FAILED**"
            out.append(f"| {plain(one['name'])} | {size(one['bytes'])} | {plain(words)} | {mark} |")
    return "\n".join([*out, "", ""])


def append(text: str, besides: Path | None, emit: Sink) -> None:
    """Append text to the file of the variable, if it is set; a file that does not take it is a warning."""
    named = os.environ.get(VARIABLE)
    if not named:
        return
    path = Path(named)
    try:
        _require_file(path)
        if besides is not None and besides.exists() and path.exists() and besides.samefile(path):
            return
        with open_log(path) as file:
            file.write(text)
    except (OSError, ValueError, QuantkitError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
        emit(Warned(FAILED, f"${VARIABLE} ({shown(named)}) does not take the verdict: {why}"))


def _require_file(path: Path) -> None:
    """Raise OSError for what is there and is no file: a pipe would wait for its reader."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is no regular file")
