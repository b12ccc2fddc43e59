"""Bytes of several files on their way, added up from whichever thread they move on."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from quantkit.events import Sink, TensorProgress


class StoppedError(Exception):
    """Another file failed, or the user stopped the run."""


class Meter:
    """Adds up the bytes of all files of a stage and reports them."""

    def __init__(self, stage: str, emit: Sink, names: Sequence[str], total: int) -> None:
        self._stage, self._emit, self._total = stage, emit, total
        self._done = dict.fromkeys(names, 0)
        self._lock = threading.Lock()
        self._stopped = False

    def report(self, name: str, nbytes: int) -> None:
        """`nbytes` of the file have moved. Raises to end the way of a file that is no longer wanted."""
        with self._lock:
            if self._stopped:
                raise StoppedError
            if nbytes <= self._done[name]:
                return
            self._done[name] = nbytes
            index = list(self._done).index(name)
            done = sum(self._done.values())
            self._emit(TensorProgress(self._stage, name, "", index, len(self._done), done, self._total))

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
