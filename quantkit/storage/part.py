"""The files of a job: open while they are made, and at their final names."""

from __future__ import annotations

from pathlib import Path

from quantkit.records import record
from quantkit.storage.disk import File


@record
class PublishedFile:
    """A file at its final name."""

    path: Path
    nbytes: int
    sha256: str


@record
class Part:
    """An open file of the job.

    `written` are the ranges written in this run, kept where an earlier run may have left other bytes in between.
    `published` is set once the file has its final name: it is not written any more.
    """

    file: File
    nbytes: int
    written: list[tuple[int, int]] | None = None
    published: PublishedFile | None = None
