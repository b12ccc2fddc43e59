"""The report stage: records of measurements, histories of runs and artifacts as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import InputError, UsageError
from quantkit.pipeline.given import coerce, given_optional, given_paths
from quantkit.pipeline.inspect import inspect
from quantkit.pipeline.outputs import refuse_inputs
from quantkit.pipeline.places import require_own_start, require_takes_file
from quantkit.records import record
from quantkit.report.html import START, Artifact, Page, render
from quantkit.report.kinds import stored_kinds
from quantkit.report.manifest import CHECKPOINT_MANIFEST, find_manifest, read_manifest
from quantkit.schemas.evaluation import Eval, HistoryLine
from quantkit.storage import require_small, write_small
from quantkit.untrusted import parse_json_object, read_bounded, require_path, shown

EVAL, HISTORY, ERROR = "quantkit.eval/1", "quantkit.eval-history/1", "quantkit.error/1"
MAX_BYTES, MAX_LINES, MAX_VALUES = 256 << 20, 100_000, 1 << 22
HINT = "give what quantkit eval --json or --append wrote, a .gguf file, or the folder of a checkpoint"


@record
class Written:
    """A report that was written, and how much it shows."""

    path: Path
    nbytes: int
    artifacts: int
    runs: int

    def as_json(self) -> dict[str, Any]:
        return {"file": str(self.path), "bytes": self.nbytes, "artifacts": self.artifacts, "runs": self.runs}


@record
class ReportRequest:
    """What to show, and where. `inputs` are records of eval, histories, artifacts, in any mixture; `title` is that of
    the page."""

    inputs: tuple[Path, ...]
    out: Path
    title: str | None = None

    def __post_init__(self) -> None:
        coerce(self, {"inputs": given_paths, "title": given_optional})
        object.__setattr__(self, "out", Path(self.out))


def write_report(request: ReportRequest, *, dry_run: bool = False) -> Written:
    """Write one HTML file that shows all inputs; with `dry_run` nothing is written.

    A report that is there is replaced, and nothing else: ExistsError. Raises UsageError without inputs, InputError for
    one that is neither a record nor an artifact, NotWritableError, ResourceError.
    """
    if not request.inputs:
        raise UsageError("nothing to show", key="input", hint=HINT)
    inputs = [file for path in request.inputs for file in (path.iterdir() if path.is_dir() else (path,))]
    require_takes_file(request.out, "--out")
    refuse_inputs([request.out], inputs, "choose another name with --out")
    require_own_start(request.out, "--out", START.encode(), "report of quantkit")
    if not dry_run:
        require_small(request.out)
    pages = [_page_of_input(path) for path in request.inputs]
    evaluations = tuple(body for page in pages for body in page.evaluations)
    history = tuple(line for page in pages for line in page.history)
    known = {each["identity"] for body in evaluations for each in body["artifacts"] if each.get("storage")} - {None}
    alone = tuple(each for page in pages for each in page.artifacts if each.identity not in known)
    page = replace(page_of(evaluations, history, request.title or _title(pages)), artifacts=alone)
    data = render(page)
    if not dry_run:
        write_small(request.out, data, overwrite=True)
    shown_artifacts = len(alone) + sum(len(body["artifacts"]) for body in evaluations)
    return Written(request.out, len(data), shown_artifacts, len(history))


def page_of(
    evaluations: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]] = (), title: str | None = None
) -> Page:
    """The page of measurements, as `Evaluation.as_json` has them, and runs; called after what was measured against."""
    names = dict.fromkeys(str(body["reference"]["name"]) for body in evaluations)
    return Page(title or ", ".join(names) or "history", tuple(evaluations), tuple(history))


def _title(pages: Sequence[Page]) -> str | None:
    """Of pages without measurements: what their artifacts are called."""
    names = dict.fromkeys(each.name for page in pages for each in page.artifacts)
    measured = any(page.evaluations for page in pages)
    return None if measured or not names else ", ".join(list(names)[:3]) + (" and more" if len(names) > 3 else "")


def _page_of_input(path: Path) -> Page:
    require_path(path)
    if not path.exists():
        raise InputError(f"{shown(path)} does not exist", path=str(path), hint="check the path")
    if path.is_dir() or path.suffix.lower() == ".gguf":
        return Page("", artifacts=(_artifact(path),))
    return read_records(path)


def _artifact(path: Path) -> Artifact:
    found = inspect(path)
    manifest = path / CHECKPOINT_MANIFEST if path.is_dir() else find_manifest(path)
    identity = None
    if manifest.is_file():
        identity = read_manifest(manifest).identity
    kinds = tuple(kind.as_json() for kind in stored_kinds(found.tensors))
    return Artifact(path.resolve().name, found.nbytes, identity, kinds)


def read_records(path: Path) -> Page:
    """The measurements and runs of a file: what eval printed as JSON, or lines that it appended.

    Raises InputError for a file that holds neither, naming the line.
    """
    evaluations, history = [], []
    for number, body in objects(path, read_bounded(path, MAX_BYTES)):
        schema = body.get("schema")
        try:
            if schema == EVAL:
                evaluations.append(msgspec.convert(body, Eval))
            elif schema == HISTORY:
                history.append(msgspec.convert(body, HistoryLine))
            elif schema != ERROR:  # which eval prints behind its figures where a gate does not hold
                raise InputError(f"{shown(path)}, line {number}: no record of eval", path=str(path), hint=HINT)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            what = f"{shown(path)}, line {number}: missing or malformed field: {shown(str(error))}"
            raise InputError(what, path=str(path), hint="the record is damaged or of another version") from error
    if not evaluations and not history:
        raise InputError(f"{shown(path)} holds no measurement", path=str(path), hint=HINT)
    return Page("", tuple(evaluations), tuple(history))


def objects(path: Path, raw: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with the number of their line: one a line, or one over all lines. Raises InputError for
    what is none."""
    lines = [(number, line) for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    if len(lines) > MAX_LINES:
        raise InputError(f"{shown(path)} has more than {MAX_LINES:,} lines", path=str(path), hint=HINT)
    whole = not lines or not lines[0][1].rstrip().endswith(b"}")
    for number, line in [(1, raw)] if whole else lines:
        try:
            yield number, parse_json_object(line, path, values=MAX_VALUES)
        except InputError as error:
            what = f"{shown(path)}, line {number}: no record of eval: {error.message.removeprefix(f'{shown(path)}: ')}"
            raise InputError(what, path=str(path), hint=HINT) from error
