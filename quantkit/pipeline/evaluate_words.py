"""An evaluation for people (lines as wide as the terminal, Markdown) and for programs that collect test results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from quantkit.errors import ResourceError, UsageError
from quantkit.evaluation.figures import Report
from quantkit.pipeline.columns import (
    NARROW,
    WIDE,
    beside,
    cut,
    figure,
    named,
    one_line,
    percent,
    plain,
    tail,
    width_of,
    with_error,
    wrapped,
)
from quantkit.pipeline.evaluate import EvalRequest, Evaluated, Evaluation
from quantkit.pipeline.evaluate_engine import InEngine
from quantkit.pipeline.given import coerce, given_path
from quantkit.pipeline.outputs import refuse_inputs
from quantkit.pipeline.places import require_own_start, require_takes_file
from quantkit.pipeline.prompt_words import (
    HEADER,
    TASK_HEADER,
    prompt_cells,
    prompt_history,
    prompt_lines,
    task_lines,
    task_rows,
)
from quantkit.pipeline.report import HISTORY, page_of, read_records
from quantkit.records import record
from quantkit.report.html import START, render
from quantkit.report.junit import Case
from quantkit.report.junit import junit as suite
from quantkit.report.text import size, table
from quantkit.storage import open_log, require_small, write_small
from quantkit.units import counted
from quantkit.untrusted import shown

HISTORY_START = f'{{"schema": "{HISTORY}"'.encode()  # of every line


def evaluation_lines(evaluation: Evaluation, width: int) -> list[str]:
    """All figures as lines of at most `width` columns (60 to 120)."""
    width = min(max(width, NARROW), WIDE)
    data, reference = evaluation.data, evaluation.reference
    head = (
        f"{counted(data['tokens'], 'token')} of {counted(data['documents'], 'document')} "
        f"({data['name']}), windows of {data['window']}"
    )
    out = wrapped(f"{head}, against {reference['name']} {reference['sha256'][:12]}", width)
    if len(evaluation.artifacts) > 1:
        out += ["", *_comparison(evaluation.artifacts, width)]
    for artifact in evaluation.artifacts:
        out += ["", *_artifact(artifact, width)]
    return out


def _comparison(artifacts: Sequence[Evaluated], width: int) -> list[str]:
    rows = [
        (size(a.nbytes), figure(a.report.kl.value), figure(a.report.ratio.value), f"{100 * a.report.top1.value:.2f}")
        for a in artifacts
    ]
    columns = table(rows, ("size", "KL", "ppl ratio", "top %"))
    return beside(["artifact", *(a.report.name for a in artifacts)], columns, width)


def _artifact(artifact: Evaluated, width: int) -> Iterator[str]:
    report = artifact.report
    yield cut(f"{artifact.report.name}  {size(artifact.nbytes)}", width)
    if artifact.engine is not None:
        yield from named("engine", _ran(artifact.engine, artifact), width)
    elif artifact.inputs != "float32":
        yield from named("inputs", artifact.inputs, width)
    yield from named("perplexity", with_error(report.perplexity), width)
    yield from named("of the original", with_error(report.reference_perplexity), width)
    yield from named("ratio", f"{with_error(report.ratio)} on the same tokens", width)
    yield from named("KL divergence", f"{with_error(report.kl)} nats", width)
    quantiles = (f"{name}{' %' if name[0].isdigit() else ''} {figure(q)}" for name, q in report.quantiles.items())
    yield from named("", " · ".join(quantiles), width)
    yield from named("same top token", percent(report.top1), width)
    yield from named("right token", f"probability changes by {percent(report.right_change)} (RMS)", width)
    yield from named("blocks", " ".join(figure(error) for _, error in report.errors), width)
    yield from named("weights", _weights(report), width)
    yield f"  errors over {counted(report.clusters, report.unit)}"
    yield ""
    rows = [(f"{s.tokens:,}", figure(s.kl.value), f"{100 * s.top1:.2f}", f"{s.ppl_ratio:.4f}") for s in report.slices]
    columns = table(rows, ("tokens", "KL", "top %", "ppl ratio"))
    yield from (f"  {line}" for line in beside(["slice", *(s.name for s in report.slices)], columns, width - 2))
    if report.worst:
        yield ""
        yield "  worst passages"
        yield from _passages(report, width)
    if artifact.prompts:
        yield ""
        yield from prompt_lines(artifact.prompts, width)
    if artifact.tasks:
        yield ""
        yield from task_lines(artifact.tasks, width)
    if artifact.verdicts:
        yield ""
    for verdict in artifact.verdicts:
        mark = "ok" if verdict.ok else "FAILED"
        yield from wrapped(f"  {mark:<8} {verdict.words}", width, 11)


def _ran(engine: InEngine, artifact: Evaluated) -> str:
    """The engine, and what of the figures is not of it."""
    return engine.words + ("; prompts and tasks are of our own run" if artifact.prompts or artifact.tasks else "")


def _weights(report: Report) -> str:
    if report.weights is None:
        return "differ on purpose: scales were moved between layers"
    if report.damaged:
        first, share = report.damaged[0], f"{len(report.damaged)} of {len(report.weights)}"
        return f"{share} are NOT the original's, first {first.tensor}: {first.wrong}"
    worst = max(report.weights, key=lambda e: e.relative)
    return f"all {len(report.weights)} as their types allow, worst {worst.tensor} {worst.type} {figure(worst.relative)}"


def _passages(report: Report, width: int) -> Iterator[str]:
    for passage in report.worst:
        told = f"  {figure(passage.kl):>8}  "
        before, inside = one_line(passage.before), one_line(passage.text)
        room = width - len(told) - 2
        left = tail(before, room // 3)
        yield f"{told}{left}[{cut(inside, room - width_of(left))}]"


def markdown(evaluation: Evaluation) -> str:
    """A summary in Markdown, as the page of a run in CI shows it."""
    data, reference = evaluation.data, evaluation.reference
    verdict = "all gates hold" if evaluation.ok else "**gates do not hold**"
    gated = any(artifact.verdicts for artifact in evaluation.artifacts)
    out = [
        f"### quantkit eval{f': {verdict}' if gated else ''}",
        "",
        f"{counted(data['tokens'], 'token')} of {counted(data['documents'], 'document')} ({plain(data['name'])}), "
        f"against {plain(reference['name'])} `{reference['sha256'][:12]}`",
        "",
        "| artifact | size | KL (nats) | KL 99 % | perplexity | ratio | same top token |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for artifact in evaluation.artifacts:
        report = artifact.report
        cells = (
            plain(artifact.report.name), size(artifact.nbytes), with_error(report.kl), figure(report.quantiles["99"]),
            with_error(report.perplexity), with_error(report.ratio), percent(report.top1),
        )  # fmt: skip
        out.append(f"| {' | '.join(cells)} |")
    for artifact in evaluation.artifacts:
        if artifact.engine is not None:
            out += ["", f"{plain(artifact.report.name)} in {plain(_ran(artifact.engine, artifact))}"]
    asked = [(a.report.name, a.prompts) for a in evaluation.artifacts if a.prompts]
    if asked:
        out += ["", f"| {' | '.join(HEADER)} |", f"|---|{'---:|' * (len(HEADER) - 1)}"]
        out += [f"| {' | '.join(prompt_cells(plain(name), report))} |" for name, report in asked]
    out += _task_table(evaluation)
    if gated:
        out += ["", "| gate | artifact | |", "|---|---|---|"]
    for artifact in evaluation.artifacts:
        for found in artifact.verdicts:
            mark = "ok" if found.ok else "**FAILED**"
            out.append(f"| {plain(found.words)} | {plain(artifact.report.name)} | {mark} |")
    return "\n".join([*out, "", ""])


def _task_table(evaluation: Evaluation) -> list[str]:
    """The tasks of a harness as a table in Markdown; nothing without."""
    found = [(a.report.name, *row) for a in evaluation.artifacts for row in task_rows(a.tasks or ())]
    if not found:
        return []
    rows = [f"| {' | '.join(map(plain, row))} |" for row in found]
    return ["", f"| artifact | {' | '.join(TASK_HEADER)} |", "|---|---|---|---:|---:|---:|", *rows]


def junit(evaluation: Evaluation) -> str:
    """The gates as test cases, in the XML that servers for CI read; an artifact without gates is one that passed."""
    cases = [
        Case(one.report.name, verdict.gate, said=verdict.words) if verdict.ok
        else Case(one.report.name, verdict.gate, failure=verdict.words, kind="gate")
        for one in evaluation.artifacts
        for verdict in one.verdicts
    ]  # fmt: skip
    unjudged = [one for one in evaluation.artifacts if not one.verdicts]
    cases += [Case(one.report.name, "measured", said=f"KL {with_error(one.report.kl)}") for one in unjudged]
    return suite("quantkit eval", cases, evaluation.seconds)


def history_line(evaluation: Evaluation, artifact: Evaluated) -> dict[str, Any]:
    """One measurement of one artifact, small: what a trend is drawn of."""
    report = artifact.report
    return {
        "schema": HISTORY,
        "time": evaluation.time,
        "version": evaluation.as_json()["version"],
        "name": report.name,
        "recipe": artifact.recipe,
        "identity": artifact.manifest_identity,
        "bytes": artifact.nbytes,
        "reference": evaluation.reference["sha256"],
        "data": evaluation.data["token_sha256"],
        "engine": artifact.engine.name if artifact.engine else None,
        "held_out": artifact.held_out,
        "tokens": report.tokens,
        "kl": report.kl.as_json(),
        "kl_quantiles": report.quantiles,
        "perplexity": report.perplexity.as_json(),
        "perplexity_ratio": report.ratio.as_json(),
        "top1_agreement": report.top1.as_json(),
        "prompts": artifact.prompts and prompt_history(artifact.prompts),
        "ok": artifact.ok,
    }


@record
class Records:
    """Files that an evaluation is written to, besides what is printed. `junit` and `html` are replaced; to `summary`
    (Markdown) and `history` (JSON Lines) it is appended, so that a file of CI keeps what other steps wrote. The HTML
    report shows the trend of the history, too."""

    junit: Path | None = None
    summary: Path | None = None
    history: Path | None = None
    html: Path | None = None

    def __post_init__(self) -> None:
        coerce(self, dict.fromkeys(("junit", "summary", "history", "html"), given_path))

    def require_writable(self, request: EvalRequest) -> None:
        """Raise, before hours of work, NotWritableError for places that take no file, ExistsError for what would harm
        one that is there: an input, a --junit that is no XML, an --append that holds something else than measurements,
        an --html that is no report.
        """
        places = {"--junit": self.junit, "--summary": self.summary, "--append": self.history, "--html": self.html}
        named = {option: path for option, path in places.items() if path is not None}
        for option, path in named.items():
            require_takes_file(path, option)
            refuse_inputs([path], _given_files(request), f"choose another name with {option}")
        if len({os.path.realpath(path) for path in named.values()}) < len(named):
            raise UsageError(f"{', '.join(named)}: two of them are one file", hint="give each a name of its own")
        if self.junit is not None:
            require_own_start(self.junit, "--junit", b"<", "XML")
        if self.history is not None:
            require_own_start(self.history, "--append", HISTORY_START, "history of eval")
        if self.html is not None:
            require_own_start(self.html, "--html", START.encode(), "report of quantkit")
        for whole in (self.junit, self.html):
            if whole is not None:
                require_small(whole)
        for log in (self.summary, self.history):
            if log is not None:
                open_log(log).close()

    def write(self, evaluation: Evaluation) -> None:
        """Write all of them. Raises NotWritableError, ResourceError."""
        if self.junit is not None:
            write_small(self.junit, junit(evaluation).encode(), overwrite=True)
        if self.summary is not None:
            _append(self.summary, markdown(evaluation))
        if self.history is not None:
            lines = [json.dumps(history_line(evaluation, one)) for one in evaluation.artifacts]
            _append(self.history, "".join(f"{line}\n" for line in lines))
        if self.html is not None:
            runs = read_records(self.history).history if self.history is not None else ()
            write_small(self.html, render(page_of((evaluation.as_json(),), runs)), overwrite=True)


def _given_files(request: EvalRequest) -> Iterator[Path]:
    """The files that a request names, and those of the folders that it names."""
    for name in (*request.artifacts, request.against, request.against_quantized, *request.data):
        path = os.path.expanduser(name or "")  # noqa: PTH111
        if os.path.isdir(path):  # noqa: PTH112 - names may be anything, too long for a file, too
            with suppress(OSError):
                yield from Path(path).iterdir()
        elif path:
            yield Path(path)


def _append(path: Path, text: str) -> None:
    """Append at once, so that lines of two runs at a time do not mix."""
    try:
        with open_log(path) as file:
            file.write(text)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        hint = "free some space, or choose another file"
        raise ResourceError(f"cannot write {shown(path)}: {why}", path=str(path), hint=hint) from error
