"""Numbers as people read them: decimal sizes, durations, ratios."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from textwrap import wrap

NARROW, WIDE = 60, 120


def terminal_width() -> int:
    """Columns that lines may take: those of the terminal, from 60 to 120."""
    return min(max(shutil.get_terminal_size().columns, NARROW), WIDE)


def wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """Text in lines of at most `width`, those after the first indented. Names stay whole where they can: hyphens are
    no place to break."""
    return wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def cut(text: str, room: int) -> str:
    """Text in at most `room` characters, its end left out."""
    return text if len(text) <= room else f"{text[: max(room - 1, 0)]}…"


def cut_inside(text: str, room: int) -> str:
    """Text in at most `room` characters, its middle left out: names whose ends tell them apart."""
    if len(text) <= room:
        return text
    end = max(room - 1, 0) // 2
    return f"{text[: max(room - 1, 0) - end]}…{text[len(text) - end :]}"


def size(nbytes: float) -> str:
    """Bytes with a decimal unit: 4920739232 -> "4.92 GB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(nbytes) >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes:.0f} B"


def count(number: float) -> str:
    """A count with a unit: 8030261248 -> "8.03 B"."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds as "0.42 s", "41 s", "3:07" or "2:03:09"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> list[str]:
    """Rows as aligned lines; columns whose cells are all numbers are aligned right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [bool(rows) and all(_number(row[i]) for row in rows) for i in range(len(header))]
    return [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in cells
    ]


def _number(cell: str) -> bool:
    return cell[:1].isdigit() or cell in {"", "-"} or (cell[:1] == "-" and cell[1:2].isdigit())
