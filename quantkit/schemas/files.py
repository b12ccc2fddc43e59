"""What several objects hold: files with their sizes and hashes, warnings."""

from __future__ import annotations

from typing import TypedDict

Sha256 = str
JsonScalar = str | int | float | bool | None


class NamedBytes(TypedDict):
    """A file that will be written."""

    name: str
    bytes: int


class File(NamedBytes):
    """A file with its hash."""

    sha256: Sha256


class Published(File):
    """A file at its place."""

    path: str


class Warned(TypedDict):
    code: str
    message: str
