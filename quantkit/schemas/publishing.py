"""What is printed of artifacts on their way to a repository."""

from __future__ import annotations

from typing import Literal, TypedDict


class PushedFile(TypedDict):
    """A file; the repository had none of the name, other bytes under it, or these."""

    name: str
    bytes: int
    sha256: str
    state: Literal["new", "other", "there"]


class Push(TypedDict):
    """Of push. `commit` is null before anything was committed; `bytes` are those of files that are not there,
    `sent_bytes` what of them went over the line."""

    repo: str
    revision: str
    url: str
    commit: str | None
    created: bool
    dry_run: bool
    up_to_date: bool
    bytes: int
    sent_bytes: int
    files: list[PushedFile]
    left_out: list[str]
