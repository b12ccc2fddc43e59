"""The three standard streams as they are found: closed, full, or read by somebody who went away."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, Any, TextIO, cast


class Talk:
    """A text stream for talk. What cannot be written is dropped: a lost line is no reason to lose hours of work."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is not None:
            with suppress(OSError, ValueError):  # full, without a reader; closed
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding or "ascii"
                    self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def talk(stream: IO[str] | None = None) -> IO[str]:
    """`stream`, by default stderr as it is now, for talk."""
    return cast("IO[str]", Talk(cast("TextIO", stream) or sys.stderr))


def occupy_standard_descriptors() -> None:
    """Give a closed descriptor 0, 1 or 2 something harmless, before a file of ours gets that number.

    Native libraries write their messages to descriptor 2 whatever it is.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number


def write_result(text: str) -> None:
    """Write text to stdout, all of it. Raises OSError; nothing happens where stdout is closed."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # a locale that cannot say it; surrogates of names that are not UTF-8
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
