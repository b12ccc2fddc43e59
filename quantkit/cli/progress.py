"""The live lines of a terminal: one on a wide one, two on a narrow one; never more columns than there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from quantkit.cli.redaction import printable
from quantkit.events import (
    BlockProgress,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TensorProgress,
)
from quantkit.machine import peak_rss_bytes
from quantkit.report.text import duration
from quantkit.units import counted

ONE_LINE = 110  # columns from which everything fits beside the bar
SHOWN_NAME = 34
REFRESH = 8


class Live:
    """A bar while a stage counts bytes, a clock while it does not: something moves from the first second on."""

    def __init__(self, stream: IO[str]) -> None:
        self._console = Console(file=stream)
        self._progress: Progress | None = None
        self._block = _Block()

    def event(self, event: Event) -> None:
        """Follow one event."""
        match event:
            case RunStarted():
                self._clock(event.command)
            case StageStarted():
                self._bar(event.stage, event.total_bytes) if event.total_bytes else self._clock(event.stage)
            case TensorProgress():
                self._advance(event)
            case BlockProgress():
                self._within(event)
            case StageFinished():
                self._clock(f"after {event.stage}")
            case RunFinished() | RunFailed():
                self.stop()

    def print(self, text: str) -> None:
        """Print lines above the live ones."""
        console = self._console if self._progress is None else self._progress.console
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the live lines."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _clock(self, what: str) -> None:
        words = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn("line", style="none"), words, TimeElapsedColumn())
        self._show(Progress(*columns, console=self._console, transient=True, refresh_per_second=REFRESH), what, None)

    def _bar(self, stage: str, total: int) -> None:
        self._show(_Bar(console=self._console, transient=True, refresh_per_second=REFRESH), stage, total)

    def _show(self, progress: Progress, what: str, total: int | None) -> None:
        self.stop()
        self._progress, self._block = progress, _Block()
        progress.add_task(what, total=total, tensor="", place="")
        progress.start()

    def _advance(self, event: TensorProgress) -> None:
        if not isinstance(self._progress, _Bar):
            self._bar(event.stage, event.total_bytes)
        assert self._progress is not None
        [task] = self._progress.task_ids
        name, place = printable(f"{event.tensor} {event.qtype}".rstrip()), f"{event.index}/{event.count}"
        total = max(event.total_bytes, event.done_bytes)
        self._block.end(event.done_bytes)
        self._progress.update(task, completed=event.done_bytes, total=total, tensor=name, place=place)

    def _within(self, event: BlockProgress) -> None:
        """Show how far a block is, beside the bar of the whole."""
        if isinstance(self._progress, _Bar):
            [task] = self._progress.task_ids
            name = printable(f"{event.block} {event.samples}/{counted(event.of_samples, 'sample')}")
            self._progress.update(task, completed=self._block.beat(), tensor=name, place=f"{event.index}/{event.count}")


class _Block:
    """Bytes within a block, by the one before: blocks of a model take about the same number of beats."""

    def __init__(self) -> None:
        self._done = self._step = 0
        self._beats = self._of_beats = 0

    def end(self, done_bytes: int) -> None:
        """A block has ended, at `done_bytes` of the stage."""
        self._step, self._done = done_bytes - self._done, done_bytes
        self._of_beats, self._beats = self._beats, 0

    def beat(self) -> int:
        """Something of a block was done: the bytes of the stage that this amounts to."""
        self._beats += 1
        share = min(self._beats / self._of_beats, 1.0) if self._of_beats else 0.0
        return self._done + int(share * self._step)


class _Bar(Progress):
    """A bar with figures, cut to the width of the terminal."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """A line, or two where one does not hold everything."""
        for task in self.tasks:
            yield from bar_lines(task, self.console.width)


def bar_lines(task: Task, width: int) -> list[RenderableType]:
    """Stage, bar, share, bytes, speed, time left; then tensor, place among them and peak memory."""
    speed = task.speed or (task.completed / task.elapsed if task.elapsed else 0.0)
    left = (task.remaining or 0.0) / speed if speed else None
    share = f"{task.percentage:3.0f}%"
    done = f"{short(task.completed)}/{short(task.total or 0)}"
    rate = f"{short(speed)}/s" if speed else ""
    eta = f"ETA {clock(left)}" if left is not None else f"after {clock(task.elapsed)}"
    peak = f"mem {short(peak_rss_bytes())}"
    place, name = task.fields["place"], task.fields["tensor"]
    one = width >= ONE_LINE
    table = Table.grid(padding=(0, 1), pad_edge=False)
    bar = BarColumn(bar_width=20 if width >= 80 else 8).render(task)
    cells: list[RenderableType] = [f" {task.description}", bar, share, done, rate, eta]
    if one:
        cells += [f"{shortened(name, SHOWN_NAME)} {place}".strip(), peak]
    for _ in cells:
        table.add_column(no_wrap=True)
    table.add_row(*(Text(c, overflow="ellipsis", no_wrap=True) if isinstance(c, str) else c for c in cells))
    if one:
        return [table]
    room = width - len(place) - len(peak) - 6
    return [table, Text(f"   {shortened(name, room)} {place} {peak}", overflow="ellipsis", no_wrap=True)]


def short(nbytes: float) -> str:
    """Bytes in at most six characters: "12.1GB", "410MB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            value = nbytes / scale
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return f"{nbytes:.0f}B"


def clock(seconds: float | None) -> str:
    """Time as 0:09, 12:01 or 3:07:41."""
    seconds = seconds or 0.0
    return f"0:{seconds:02.0f}" if seconds < 59.5 else duration(seconds)


def shortened(name: str, room: int) -> str:
    """A name without its middle where there is no room: the ends tell tensors apart. `room` is in columns."""
    if cell_len(name) <= room:
        return name
    keep = max(room - 1, 2)
    head, tail = set_cell_size(name, keep // 2), set_cell_size(name[::-1], keep - keep // 2)[::-1]
    return f"{head.rstrip()}…{tail.lstrip()}"
