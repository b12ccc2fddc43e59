"""Loops that are compiled once: their machine code is kept on the disk, and read from there without the compiler.

A loop is a function of arrays and numbers. What is kept is one function for each set of types of arguments: an object
file that needs nothing but C's own functions and a place for arrays of its own (and few some functions of numba's C
library, for which numba is imported). So a process that finds it needs neither numba, whose modules take a fifth of a
second to import, nor pickle, in which numba keeps code.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from threading import Lock
from typing import Any

from quantkit.qtypes.calls import described

_loading = Lock()


class Loop:
    """A function that is compiled when it is first called with arguments of some types, or read from the disk.

    It is named by its module and its own name; `make` gives what numba compiles, and is asked only then.
    """

    def __init__(self, module: str, name: str, make: Callable[[], Any]) -> None:
        self.module, self.name, self.make = module, name, make
        self._entries: dict[str, Callable[..., Any]] = {}

    @property
    def py_func(self) -> Callable[..., Any]:
        found: Callable[..., Any] = self.make().py_func
        return found

    def __call__(self, *args: Any) -> Any:
        types = described(args)
        return (self._entries.get(types) or self._found(types, args))(*args)

    def _found(self, types: str, args: tuple[Any, ...]) -> Callable[..., Any]:
        with _loading:
            if types not in self._entries:
                self._entries[types] = self._read(types, args)
            return self._entries[types]

    def _read(self, types: str, args: tuple[Any, ...]) -> Callable[..., Any]:
        """Machine code, or numba's own function where no code can be kept: it compiles in every process."""
        from quantkit.qtypes import machine_code

        place = machine_code.place(self.module, self.name, types)
        found = machine_code.read(place, args)
        if found is not None:
            return found
        from quantkit.qtypes.compiling import compiled_code

        made: Callable[..., Any] = self.make()
        code = compiled_code(made, args, place.symbol)
        if code is None:
            return made
        machine_code.keep(place, code)
        return machine_code.linked(place, code, args) or made


def kept(function: Callable[..., Any]) -> Loop:
    """A function of a module that does without numba, compiled as a loop. Division by zero is as in C."""

    def make() -> Any:
        from quantkit.qtypes.search.compilation import compiled

        return compiled(function)

    return Loop(function.__module__, function.__qualname__, make)


def loop(module: str, name: str) -> Loop:
    """The loop called `name` of a module that imports numba, which is imported where it has to be compiled."""
    return Loop(module, name, lambda: getattr(import_module(module), name))
