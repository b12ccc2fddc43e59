"""What a person sees on stderr: stages, one live line, notes, errors. Rich is loaded for a live terminal only."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from quantkit.errors import QuantkitError
from quantkit.events import Event, Published, Resumed, StageFinished, StageStarted, TensorProgress, Warned
from quantkit.report.text import duration, size
from quantkit.storage import open_log

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
LINE_EVERY_S = 30.0  # where there is no live line


def printable(text: str) -> str:
    """Text with every control character but tab shown as an escape: names from files cannot drive the terminal."""
    text = redact(text)
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def redact(text: str) -> str:
    """Text without anything that looks like a Hub token."""
    return TOKEN.sub("hf_***", text)


def live_terminal(stream: IO[str], plain: bool) -> bool:
    """Whether a live, coloured line makes sense on this stream."""
    dumb = os.environ.get("TERM", "") in {"dumb", ""} or "NO_COLOR" in os.environ
    return not plain and not dumb and stream.isatty()


def events_file(path: Path) -> IO[str]:
    """Open a log or events file for appending."""
    return open_log(path)


def error_lines(error: QuantkitError) -> list[str]:
    """An error as a person reads it: what, where, why, and the next step."""
    places = [p for p in (error.path, error.tensor, error.key) if p and p not in error.message]
    where = f" ({', '.join(places)})" if places else ""
    lines = [f"error[{error.code}]: {error.message}{where}"]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return [printable(line) for line in lines]


class Talk:
    """Turns events into lines on a stream: live where the terminal can, else a line now and then."""

    def __init__(self, quiet: bool, verbose: bool, plain: bool, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._verbose = verbose
        self._live = not quiet and live_terminal(self._stream, plain)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = self._stage_start = time.monotonic()
        self._last_tensor = ""

    def event(self, event: Event) -> None:
        """Show one event."""
        match event:
            case StageStarted():
                self._start(event)
            case TensorProgress():
                self._advance(event)
            case StageFinished():
                self.stop()
                self.note(
                    f" {event.stage:<9} {event.detail}" + (f" · {duration(event.seconds)}" if event.seconds else "")
                )
            case Resumed():
                self.note(f" resumed   {event.tensors} finished tensors kept ({size(event.done_bytes)} of the source)")
            case Warned():
                self.note(f"warning[{event.code}]: {event.message}")
            case Published():
                self.note(f" wrote     {event.path}  {event.nbytes:,} bytes\n sha256    {event.sha256}")

    def note(self, line: str) -> None:
        """A line of talk, above the live line if there is one."""
        if self._quiet:
            return
        text = "\n".join(printable(part) for part in line.split("\n"))
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def stop(self) -> None:
        """Remove the live line."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None

    def _start(self, event: StageStarted) -> None:
        self.stop()
        self._stage_start = self._last_line = time.monotonic()
        if event.detail:
            self.note(f" {event.stage:<9} {event.detail}")
        if self._live and event.total_bytes:
            self._progress = _progress_bar(self._stream)
            self._task = self._progress.add_task(event.stage, total=event.total_bytes, tensor="", peak="")
            self._progress.start()

    def _advance(self, event: TensorProgress) -> None:
        if self._verbose and event.tensor != self._last_tensor:
            self._last_tensor = event.tensor
            self.note(f"   {event.index:>4}/{event.count} {event.tensor}  {event.qtype}")
        if self._progress is not None and self._task is not None:
            name = f"{event.tensor} {event.qtype} {event.index}/{event.count}"
            peak = f"peak {size(peak_rss_bytes())}"
            self._progress.update(self._task, completed=event.done_bytes, tensor=printable(name), peak=peak)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            rate = event.done_bytes / max(now - self._stage_start, 1e-9)
            left = (event.total_bytes - event.done_bytes) / max(rate, 1.0)
            self.note(
                f"   {event.index}/{event.count} {event.tensor}  {size(event.done_bytes)}/{size(event.total_bytes)}"
                f"  {size(rate)}/s  ETA {duration(left)}  peak {size(peak_rss_bytes())}"
            )


def _progress_bar(stream: IO[str]) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(file=stream)
    wide = console.width >= 110
    columns = [TextColumn(" {task.description}"), BarColumn(bar_width=20 if wide else 10)]
    if wide:
        columns += [TextColumn("{task.fields[tensor]}", markup=False), DownloadColumn()]
    columns += [TransferSpeedColumn(), TimeRemainingColumn(compact=True)]
    if wide:
        columns.append(TextColumn("{task.fields[peak]}", markup=False))
    return Progress(*columns, console=console, transient=True, refresh_per_second=8)


def peak_rss_bytes() -> int:
    """Peak resident memory of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
