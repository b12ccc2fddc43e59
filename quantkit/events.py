"""What happens during a run, as data. Stages emit events; the CLI renders them; tests collect them in a list."""

from __future__ import annotations

from collections.abc import Callable

from quantkit.records import record


@record
class RunStarted:
    """A command begins, on the command line alone: its name, and its arguments without secrets."""

    command: str
    version: str
    arguments: tuple[str, ...] = ()


@record
class RunFinished:
    """A command ended well, after `seconds`."""

    command: str
    seconds: float


@record
class RunFailed:
    """A command failed: the fields of the error object, and the exit code that follows."""

    command: str
    seconds: float
    code: str
    exit: int
    message: str
    hint: str | None = None
    tensor: str | None = None
    path: str | None = None
    key: str | None = None


@record
class StageStarted:
    """A stage begins. `total_bytes` is the source bytes it will read, 0 when unknown."""

    stage: str
    total_bytes: int = 0
    detail: str = ""


@record
class StageFinished:
    """A stage ended well. `detail` is its one-line result."""

    stage: str
    seconds: float
    detail: str = ""


@record
class TensorProgress:
    """Some rows of a tensor were finished. `done_bytes` counts source bytes of the whole stage."""

    stage: str
    tensor: str
    qtype: str
    index: int
    count: int
    done_bytes: int
    total_bytes: int


@record
class BlockProgress:
    """Some samples went through a block: one of the passes that its statistics, its rounding and the next block need.

    `index` counts blocks from 1, and is 0 for the embedding; `samples` of `of_samples` are through this pass.
    """

    stage: str
    block: str
    index: int
    count: int
    samples: int
    of_samples: int


@record
class Resumed:
    """Work of an earlier run was found, checked and kept."""

    tensors: int
    done_bytes: int


@record
class Warned:
    """Something a user should know: a fallback, a low-bit type, a skipped check. `code` is stable."""

    code: str
    message: str


@record
class Published:
    """A file reached its final name."""

    path: str
    nbytes: int
    sha256: str


@record
class TaskFinished:
    """A task of a batch ended: its exit code, where it ran, and what is done of the batch. `message` says what it made,
    or why it failed."""

    task: str
    exit: int
    seconds: float
    where: str
    number: int
    count: int
    message: str = ""


Event = (
    RunStarted
    | RunFinished
    | RunFailed
    | StageStarted
    | StageFinished
    | TensorProgress
    | BlockProgress
    | Resumed
    | Warned
    | Published
    | TaskFinished
)
Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default sink: drop the event."""


def never() -> bool:
    """The default stop signal: run to the end."""
    return False
