"""A test hook: QUANTKIT_FAULT makes the n-th system call of the process that touches an output fail.

`QUANTKIT_FAULT=kill:37` ends the process (SIGKILL) before call 37, `tear:37` in the middle of it when it writes;
`short:37` lets it read or write only half; `enospc:37`, `eio:37` or any other errno name makes it fail. Calls are
counted from 1 over the whole process. Nothing is read unless the variable is set.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from quantkit.errors import UsageError
from quantkit.platforms import FATAL
from quantkit.storage.disk import Args, Ops, Result, direct

VARIABLE = "QUANTKIT_FAULT"


class Fault:
    """An `Ops` that makes call number `at` go wrong in the way that `kind` names. Safe to use from threads."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind = kind
        self.at = at
        self._calls = itertools.count(1)

    def __call__(self, call: Callable[[*Args], Result], *args: *Args) -> Result:
        if next(self._calls) != self.at:
            return call(*args)
        if self.kind == "short":
            return call(*_halved(call, args))
        if self.kind == "tear" and call.__name__ in ("pwrite", "write"):
            call(*_halved(call, args))
        if self.kind in ("kill", "tear"):
            os.kill(os.getpid(), FATAL)
        number = getattr(errno, self.kind.upper())
        raise OSError(number, os.strerror(number))


def _halved(call: Callable[..., object], args: tuple[Any, ...]) -> tuple[Any, ...]:
    if call.__name__ in ("pwrite", "write"):
        return (args[0], args[1][: (len(args[1]) + 1) // 2], *args[2:])
    if call.__name__ == "preadv":
        return (args[0], [args[1][0][: (len(args[1][0]) + 1) // 2]], *args[2:])
    return args


def from_environment() -> Ops:
    """The `Ops` of this process: direct calls, or the fault that QUANTKIT_FAULT asks for."""
    spec = os.environ.get(VARIABLE)
    return _parse(spec) if spec else direct


@cache  # one counter for all files and jobs of a process
def _parse(spec: str) -> Ops:
    kind, _, at = spec.partition(":")
    if not at.isdecimal() or not (kind in ("kill", "tear", "short") or hasattr(errno, kind.upper())):
        raise UsageError(f'{VARIABLE}: "{spec}" is not KIND:N', hint="unset it: it injects faults for tests")
    return Fault(kind, int(at))
