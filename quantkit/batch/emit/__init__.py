"""Files that make others run the tasks of a batch: clusters, servers of CI, make. A kind is a module of its name, with
a function `emit(job) -> str`.

Each runs `quantkit batch run MATRIX --task ID`, once for each task. Names of tasks are slugs; all else that comes
from a matrix or a path is quoted by the rules of the language that it is written in, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module

from quantkit.batch.task import Task
from quantkit.discovery import modules
from quantkit.errors import UsageError
from quantkit.records import record
from quantkit.untrusted import shown
from quantkit.version import __version__

LLAMACPP = "llama.cpp"
NEED_TEXT = ("--calib", "--gate", "--target-size", "--target-bpw", "--max-kld", "--engine")
PLAIN = re.compile(r"[\w./@+,= -]+", re.ASCII)


@record
class Job:
    """What is to be emitted. `matrix` and `out` are paths as those who run it see them; `image` is that of a container,
    `claim` names the volume that all of its instances share. None: as the kind thinks best."""

    tasks: tuple[Task, ...]
    matrix: str
    out: str
    name: str = "quantkit"
    jobs: int | None = None
    threads: int | None = None
    image: str | None = None
    claim: str | None = None

    @property
    def package(self) -> str:
        """What pip is asked for, with the extras that tasks need."""
        extras = sorted({extra for task in self.tasks for word in task.argv for extra in _extras(word)})
        named = f"[{','.join(extras)}]" if extras else ""
        return f"quantkit-cli{named}=={__version__}"


def _extras(word: str) -> Iterator[str]:
    """The extras that an argument of convert needs."""
    option, _, value = word.partition("=")
    if option in NEED_TEXT:
        yield "calibrate"
    if option == "--engine" and value == LLAMACPP:
        yield "llamacpp"
    if option in ("--calib", "--eval-data") and (value.startswith("hf://") or value.endswith(".parquet")):
        yield "data"


def kinds() -> tuple[str, ...]:
    """What can be emitted."""
    return tuple(modules("quantkit.batch.emit"))


def emit(kind: str, job: Job) -> str:
    """The text of the file. Raises UsageError for what that kind of file cannot say."""
    text: str = import_module(f"quantkit.batch.emit.{kind}").emit(job)
    return text


def chunks(tasks: Sequence[Task], most: int) -> Iterator[tuple[str, tuple[Task, ...]]]:
    """Tasks in groups of at most `most`, each with a suffix for names: "" where there is one group."""
    count = -(-len(tasks) // most)
    for number in range(count):
        yield f"-{number + 1}" if count > 1 else "", tuple(tasks[number * most : (number + 1) * most])


def require_plain(path: str, what: str) -> str:
    """A path that means itself wherever a server of CI puts it: relative, and no characters that anything expands."""
    if path.startswith(("/", "-")) or ".." in path.split("/"):
        problem = "does not lie below the folder that this is run in"
    elif not PLAIN.fullmatch(path):
        problem = "has characters that such a file would expand"
    else:
        return path
    hint = "run it at the root of the repository; letters, digits, spaces and . / _ @ + , = - are safe"
    raise UsageError(f"{what} {shown(path)} {problem}", hint=hint, path=path)
