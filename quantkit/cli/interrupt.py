"""Ctrl-C and SIGTERM: where a stage can stop in good order the first asks it to; else the command is interrupted."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from quantkit.platforms import interrupt

NUMBERS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 3.0  # for what runs on in native code and in threads after an interrupt; work on disk survives any end


class _Handlers:
    """A handler for SIGINT and SIGTERM while the context is open. Outside the main thread nothing can be handled."""

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        self._before = [signal.signal(number, self._handle) for number in NUMBERS] if self._main else []

    def __exit__(self, *exc: object) -> None:
        for number, before in zip(NUMBERS, self._before, strict=False):
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError


class Interrupts(_Handlers):
    """Turns the first signal into KeyboardInterrupt, once; a second, or PATIENCE_S without an end, calls `leave`.

    `asked` stays true whatever became of the exception: native code, imports and destructors swallow it or make
    another one of it. What a destructor swallowed is raised again.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self.asked = False
        self._raising = True
        self._leave = leave
        self._deadline: threading.Timer | None = None

    def __enter__(self) -> Interrupts:  # type: ignore[override]
        super().__enter__()
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, *exc: object) -> None:
        self.settle()
        sys.unraisablehook = self._hook
        super().__exit__(*exc)

    def settle(self) -> None:
        """The command is over: raise nothing any more, and stop waiting."""
        self._raising = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if not self._raising:
            return
        if not first:
            self._leave()
        self._raise()

    def _raise(self) -> None:
        with suppress(RuntimeError):  # no thread to be had: without a deadline, then
            self._deadline = threading.Timer(PATIENCE_S, self._leave)
            self._deadline.daemon = True
            self._deadline.start()
        raise KeyboardInterrupt

    def _unraisable(self, found: sys.UnraisableHookArgs) -> None:
        if not issubclass(found.exc_type, KeyboardInterrupt):
            self._hook(found)
        elif self._raising:
            self.asked = False
            again = threading.Timer(0.01, interrupt)
            again.daemon = True
            again.start()


class StopSignal(_Handlers):
    """A stop signal for the pipeline: the first signal sets it, the second goes to whoever handled it before."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> StopSignal:  # type: ignore[override]
        super().__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._asked and exc[0] is None:
            from quantkit.errors import InterruptedRunError

            hint = "run the same command again: it finds what is there"
            raise InterruptedRunError("interrupted, after the last piece of work was done", hint=hint)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            before = self._before[NUMBERS.index(signal.Signals(number))]
            if callable(before):
                before(number, frame)
                return
            raise KeyboardInterrupt
        self._asked = True
        # from a thread: the signal may have come while this one was writing to the same stream
        words = "stopping after the tensor or block at hand; Ctrl-C again stops at once"
        with suppress(RuntimeError):
            threading.Thread(target=self._say, args=(words,), daemon=True).start()
