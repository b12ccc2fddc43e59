"""Events on files: JSON Lines for programs, and a log for people, both with times and without secrets."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from quantkit.cli.redaction import printable, redact
from quantkit.cli.render import lines_of, tensor_line
from quantkit.errors import ResourceError
from quantkit.events import Event, RunFailed, RunFinished, RunStarted, StageStarted, TensorProgress, Warned
from quantkit.storage import open_log

EVENT_SCHEMA = "quantkit.event/1"


class _File:
    """A file that is written line by line. What cannot be written ends the command: somebody counts on it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] = open_log(path)

    def line(self, text: str) -> None:
        try:
            self._file.write(text + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            hint = "free some space, or choose another file"
            raise ResourceError(f"cannot write {self._path}: {why}", path=str(self._path), hint=hint) from error

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._file.close()


class EventsFile(_File):
    """One JSON object a line: schema, time (UTC), event, and the fields of the event."""

    def note(self, line: str) -> None:
        """What is no event is not here."""

    def __call__(self, event: Event) -> None:
        body = {"schema": EVENT_SCHEMA, "time": _now(), "event": type(event).__name__, **asdict(event)}
        self.line(redact(json.dumps(body)))


class LogFile(_File):
    """The notes as a log of the standard kind: time (UTC), level, words."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._logger = logging.Logger("quantkit", logging.DEBUG)  # of nobody else: not in the tree of loggers
        self._logger.addHandler(_Lines(self.line))
        self._last_tensor = ""

    def __call__(self, event: Event) -> None:
        level = logging.WARNING if isinstance(event, Warned) else logging.INFO
        match event:
            case RunStarted():
                self._logger.info("quantkit %s %s", event.version, " ".join(event.arguments))
            case RunFinished():
                self._logger.info("%s finished after %.3f s", event.command, event.seconds)
            case RunFailed():
                self._logger.error("%s failed with exit %d: [%s] %s", event.command, event.exit, event.code,
                                   event.message)  # fmt: skip
                if event.hint:
                    self._logger.error("hint: %s", event.hint)
            case StageStarted() if not event.detail:
                self._logger.info("%s begins", event.stage)
            case TensorProgress() if event.tensor != self._last_tensor:
                self._last_tensor = event.tensor
                self._logger.debug("%s", tensor_line(event).strip())
            case _:
                for words in lines_of(event):
                    self._logger.log(level, "%s", words.strip())

    def note(self, line: str) -> None:
        """A line that is not an event."""
        for part in line.split("\n"):
            self._logger.info("%s", part.strip())


class _Lines(logging.Handler):
    """Hands formatted records on. Unlike logging's own handlers it lets errors through."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self._write(printable(self.format(record)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
