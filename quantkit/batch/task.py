"""A task: one command line of this program, what it writes, and what it needs."""

from __future__ import annotations

from pathlib import Path

from quantkit.records import record


@record
class Needs:
    """What a task takes while it runs: memory, what it adds to the disk of its output, and what it fetches."""

    memory_bytes: int = 0
    disk_bytes: int = 0
    download_bytes: int = 0


@record
class Task:
    """One `quantkit` command line. `id` is a slug, fit for a file name, and the same in every run of the matrix.

    `argv` are the arguments behind `quantkit`, without those that a place adds (`--json`, `--events`, `--threads`).
    `outputs` are the files that it makes, and `needs` what it takes: both are known once it is planned. `out` is the
    folder that it writes into.
    """

    id: str
    model: str
    recipes: tuple[str, ...]
    argv: tuple[str, ...]
    out: Path
    outputs: tuple[Path, ...] = ()
    needs: Needs = Needs()
