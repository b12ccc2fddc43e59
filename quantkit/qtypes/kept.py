"""Loops that are compiled when they are first called: until then nobody waits for the compiler to be imported."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

_compiling = Lock()


class Loop:
    """A function that numba compiles, or reads from its cache, when it is first called."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.py_func = function
        self._options = options
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        return (self._compiled or self._compile())(*args)

    def _compile(self) -> Callable[..., Any]:
        with _compiling:
            if self._compiled is None:
                from quantkit.qtypes.compiling import compile_kept  # a third of a second

                self._compiled = compile_kept(self.py_func, **self._options)
            return self._compiled


def kept(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with numba.njit(nogil=True, **options), and keep the machine code on disk."""
    return lambda function: Loop(function, options)
