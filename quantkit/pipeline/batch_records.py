"""What a batch leaves in its folder: an index of all artifacts, their checksums, and a page; and what CI reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from quantkit.batch.matrix import Matrix
from quantkit.errors import InputError
from quantkit.events import Sink, Warned
from quantkit.jsontext import dump_json
from quantkit.pipeline.batch_result import BatchResult, counts, made_json
from quantkit.pipeline.batch_words import batch_junit, batch_markdown
from quantkit.pipeline.places import require_own_start, require_takes_file
from quantkit.pipeline.step_summary import append
from quantkit.report.html.batch import ArtifactLine, BatchPage, TaskLine, render_batch
from quantkit.report.html.page import START
from quantkit.storage import require_small, require_sums, update_sums, write_small
from quantkit.units import counted
from quantkit.untrusted import parse_json_object, read_bounded
from quantkit.version import __version__

SCHEMA = "quantkit.batch_index/1"
INDEX, PAGE = "index.json", "index.html"
INDEX_START = b'{\n "schema": "quantkit.batch_index/1"'
MAX_INDEX_BYTES, MAX_INDEX_VALUES = 256 << 20, 1 << 23


def require_places(matrix: Matrix, junit: Path | None) -> None:
    """Raise, before any work, NotWritableError for a folder that takes no records, ExistsError for files in their
    places that are none of them. Makes the folder."""
    look_at_places(matrix, junit)
    require_small(matrix.out / INDEX)
    require_sums(matrix.out)
    if junit is not None:
        require_small(junit)


def look_at_places(matrix: Matrix, junit: Path | None) -> None:
    """The same, as far as it can be told without writing."""
    index, page = matrix.out / INDEX, matrix.out / PAGE
    for path, start, kind in ((index, INDEX_START, "index of a batch"), (page, START.encode(), "report of quantkit")):
        require_takes_file(path, "out")
        require_own_start(path, "out", start, kind)
    if junit is not None:
        require_takes_file(junit, "--junit")
        require_own_start(junit, "--junit", b"<", "XML")


def write_records(result: BatchResult, junit: Path | None, summary: bool, emit: Sink) -> None:
    """Write index, checksums and page of a batch into its folder, and what CI asked for. What earlier runs listed and
    is no more goes from the checksums."""
    out = result.matrix.out
    for why in result.unread:
        emit(Warned("not-read", f"{why}: the index and the page are without it"))
    index = index_of(result)
    before, now = _sums(_read_index(out / INDEX)), _sums(index)
    write_small(out / INDEX, (dump_json(index, indent=1) + "\n").encode(), overwrite=True)
    update_sums(out, now, drop=before.keys() - now.keys())
    write_small(out / PAGE, render_batch(page_of(result)), overwrite=True)
    tell(result, junit, summary, emit)


def tell(result: BatchResult, junit: Path | None, summary: bool, emit: Sink) -> None:
    """Write what CI asked for: of all tasks, or of the one that was run."""
    if junit is not None:
        write_small(junit, batch_junit(result).encode(), overwrite=True)
    if summary:
        append(batch_markdown(result), None, emit)


def index_of(result: BatchResult) -> dict[str, Any]:
    """All artifacts of a batch with their hashes, and the tasks that made none. Paths are relative to its folder."""
    return {
        "schema": SCHEMA,
        "matrix": result.matrix.path.name,
        "tool": {"name": "quantkit", "version": __version__},
        "states": counts([row.state for row in result.rows]),
        "artifacts": [
            {"task": row.task.id, "model": row.task.model, **made_json(each)}
            for row in result.rows
            for each in row.made
        ],
        "failed": [
            {"task": row.task.id, "model": row.task.model, **each.as_json()}
            for row in result.failed
            for each in row.failures
        ],
    }


def page_of(result: BatchResult) -> BatchPage:
    """The page of a batch."""
    tasks = tuple(
        TaskLine(
            row.task.id, row.task.model, ", ".join(row.task.recipes), row.state,
            row.record.seconds if row.record else 0.0, row.record.where if row.record else "-",
            "; ".join(f"{each.recipe}: {each.message}".removeprefix(": ") for each in row.failures),
        )
        for row in result.rows
    )  # fmt: skip
    artifacts = tuple(
        ArtifactLine(
            row.task.model, each.recipe, os.path.dirname(each.manifest) or "." if len(each.files) > 3  # noqa: PTH120
            else each.files[0][0], each.nbytes, each.bits_per_weight, each.kl, each.kl_error, ", ".join(each.gates),
            each.data or "",
        )
        for row in result.rows
        for each in row.made
    )  # fmt: skip
    title = f"{result.matrix.path.stem}: {counted(len(result.rows), 'task')}"
    return BatchPage(title, counts([row.state for row in result.rows]), tasks, artifacts)


def _read_index(path: Path) -> dict[str, Any]:
    """The index that is there; an empty one where none can be read."""
    try:
        return parse_json_object(read_bounded(path, MAX_INDEX_BYTES), path, values=MAX_INDEX_VALUES)
    except InputError:
        return {}


def _sums(index: dict[str, Any]) -> dict[str, str]:
    """The hashes of all files that an index lists."""
    found = {}
    for artifact in _entries(index, "artifacts"):
        for file in _entries(artifact, "files"):
            if isinstance(file, dict) and isinstance(file.get("path"), str) and isinstance(file.get("sha256"), str):
                found[file["path"]] = file["sha256"]
    return found


def _entries(body: object, key: str) -> list[Any]:
    """An array of an object that may be damaged; an empty one for anything else."""
    found = body.get(key) if isinstance(body, dict) else None
    return found if isinstance(found, list) else []
