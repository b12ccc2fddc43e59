"""What a person sees on stderr: stages, live progress, notes. Rich is loaded for a live terminal only."""

from __future__ import annotations

import os
import time
from typing import IO, TYPE_CHECKING

from quantkit.cli import streams
from quantkit.cli.redaction import printable
from quantkit.events import (
    BlockProgress,
    Event,
    Published,
    Resumed,
    RunStarted,
    StageFinished,
    StageStarted,
    TaskFinished,
    TensorProgress,
    Warned,
)
from quantkit.machine import peak_rss_bytes
from quantkit.report.text import duration, size
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.cli.progress import Live

INTERRUPTED = 130
LINE_EVERY_S = 30.0  # where there is no live line


def live_terminal(stream: IO[str], plain: bool) -> bool:
    """Whether a live, coloured line makes sense on this stream."""
    dumb = os.environ.get("TERM", "") in {"dumb", ""} or "NO_COLOR" in os.environ
    return not plain and not dumb and stream.isatty()


def lines_of(event: Event) -> list[str]:
    """What is said of an event, for all but progress."""
    match event:
        case StageStarted() if event.detail:
            return [f" {event.stage:<9} {event.detail}"]
        case StageFinished():
            took = f" · {duration(event.seconds)}" if event.seconds else ""
            return f" {event.stage:<9} {event.detail}{took}".split("\n")
        case Resumed():
            return [f" resumed   {event.tensors} finished tensors kept ({size(event.done_bytes)} of the source)"]
        case Warned():
            return [f"warning[{event.code}]: {event.message}"]
        case TaskFinished():
            state = "done" if event.exit == 0 else "stopped" if event.exit == INTERRUPTED else "FAILED"
            head = f" {state:<9} {event.number}/{event.count} {event.task} · {duration(event.seconds)}"
            return [head, *([f"           {event.message}"] if event.message else [])]
        case Published():
            return [f" wrote     {event.path}  {event.nbytes:,} bytes", f" sha256    {event.sha256}"]
    return []


class Talk:
    """Turns events into lines on a stream: live where the terminal can, else a line now and then."""

    def __init__(self, quiet: bool, verbose: bool, plain: bool, stream: IO[str] | None = None) -> None:
        self._stream = streams.talk(stream)
        self._quiet = quiet
        self._verbose = verbose
        self._live: Live | None = None
        if not quiet and live_terminal(self._stream, plain):
            from quantkit.cli.progress import Live

            self._live = Live(self._stream)
        self._last_line = self._stage_start = time.monotonic()
        self._last_tensor = ""

    def event(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, RunStarted | StageStarted):
            self._stage_start = self._last_line = time.monotonic()
        if self._live is not None:
            self._live.event(event)
        for line in lines_of(event):
            self.note(line)
        if isinstance(event, TensorProgress):
            self._advance(event)
        if isinstance(event, TensorProgress | BlockProgress) and self._live is None:
            self._now_and_then(event)

    def note(self, line: str) -> None:
        """A line of talk, above the live one if there is one."""
        if self._quiet:
            return
        text = "\n".join(printable(part) for part in line.split("\n"))
        if self._live is not None:
            self._live.print(text)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def stop(self) -> None:
        """Remove the live line."""
        if self._live is not None:
            self._live.stop()

    def _advance(self, event: TensorProgress) -> None:
        if self._verbose and event.tensor != self._last_tensor:
            self._last_tensor = event.tensor
            self.note(tensor_line(event))

    def _now_and_then(self, event: TensorProgress | BlockProgress) -> None:
        """A line of progress every LINE_EVERY_S."""
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.note(progress_line(event, now - self._stage_start))


def tensor_line(event: TensorProgress) -> str:
    """The line of a tensor that has its turn."""
    return f"   {event.index:>4}/{event.count} {event.tensor}  {event.qtype}"


def progress_line(event: TensorProgress | BlockProgress, seconds: float) -> str:
    """How far a stage is after `seconds`, in a line for logs and terminals that cannot rewrite one."""
    if isinstance(event, BlockProgress):
        where = f"   {event.index}/{event.count} {event.block}  {event.samples}/{counted(event.of_samples, 'sample')}"
        return f"{where}  after {duration(seconds)}  peak {size(peak_rss_bytes())}"
    if event.done_bytes == 0:  # no speed yet: any time left would be a guess
        where = f"   {event.index}/{event.count} {event.tensor}"
        return f"{where}  after {duration(seconds)}  peak {size(peak_rss_bytes())}"
    rate = event.done_bytes / max(seconds, 1e-9)
    left = (event.total_bytes - event.done_bytes) / max(rate, 1.0)
    return (
        f"   {event.index}/{event.count} {event.tensor}  {size(event.done_bytes)}/{size(event.total_bytes)}"
        f"  {size(rate)}/s  ETA {duration(left)}  peak {size(peak_rss_bytes())}"
    )
