"""Which source this is: what its files look like from outside, and their hashes."""

from __future__ import annotations

from pathlib import Path

from quantkit.jsontext import utf8
from quantkit.source import Checkpoint


def source_stat(checkpoint: Checkpoint) -> str:
    """What the files of a source look like from outside: names, sizes, places and times of change.

    The time of modification can be put back, that of the last change cannot.
    """
    stats = [(f.name, Path(f.path).stat()) for f in checkpoint.files()]
    lines = (f"{name} {s.st_size} {s.st_dev} {s.st_ino} {s.st_mtime_ns} {s.st_ctime_ns}" for name, s in stats)
    return utf8("\n".join(lines)).decode()
