"""Loops that are compiled once: their machine code is kept on the disk, and read from there without the compiler.

A loop is a function that fills arrays which it is given. What is kept is one function for each set of types of
arguments, an object file that needs nothing but C's own functions and a place for arrays of its own, and is called as
numba's own functions call each other: an array is where its numbers begin, how many they are, its shape and strides.
So a process that finds it needs neither numba, whose modules take a fifth of a second to import, nor pickle, in which
numba keeps code itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from threading import Lock
from typing import Any, Protocol

import numpy as np

from quantkit.records import record

NO_VALUE = -2  # what a function returns in the place of 0 where its result is None
ARRAY = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
SCALARS: dict[str, Any] = {
    "?": ctypes.c_uint8,
    "b": ctypes.c_int8,
    "B": ctypes.c_uint8,
    "h": ctypes.c_int16,
    "H": ctypes.c_uint16,
    "i": ctypes.c_int32,
    "I": ctypes.c_uint32,
    "l": ctypes.c_int64,
    "q": ctypes.c_int64,
    "L": ctypes.c_uint64,
    "Q": ctypes.c_uint64,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}

_loading = Lock()


class Compilable(Protocol):
    """What numba makes of a function: it compiles when it is called, for each process."""

    py_func: Callable[..., Any]

    def __call__(self, *args: Any) -> Any: ...


@record
class Entry:
    """Machine code that can be called: where it is, the types of its flat arguments and of its result ("" for none).

    `held` is what has to live as long.
    """

    call: Callable[..., int]
    result: str
    held: object

    def __call__(self, arguments: list[Any]) -> Any:
        """Call it with flat arguments. Raises MemoryError: there was none for an array that the loop wanted."""
        found = np.zeros(1, self.result or np.int64)
        status = self.call(found.ctypes.data, ctypes.byref(ctypes.c_void_p()), *arguments)
        if status not in (0, NO_VALUE):
            raise MemoryError("no memory for what a compiled loop keeps for itself")
        return found[0].item() if self.result else None


class Loop:
    """A function that is compiled when it is first called with arguments of some types, or read from the disk.

    It is named by its module and its own name; `make` gives what numba compiles, and is asked only then.
    """

    def __init__(self, module: str, name: str, make: Callable[[], Compilable]) -> None:
        self.module, self.name, self.make = module, name, make
        self._entries: dict[str, Entry | Callable[..., Any]] = {}

    @property
    def py_func(self) -> Callable[..., Any]:
        return self.make().py_func

    def __call__(self, *args: Any) -> Any:
        types = described(args)
        entry = self._entries.get(types) or self._found(types, args)
        return entry(flattened(args)) if isinstance(entry, Entry) else entry(*args)

    def _found(self, types: str, args: tuple[Any, ...]) -> Entry | Callable[..., Any]:
        with _loading:
            if types not in self._entries:
                from quantkit.qtypes.machine_code import read_or_compiled

                self._entries[types] = read_or_compiled(self, types, args)
            return self._entries[types]


def described(value: Any) -> str:
    """The types of arguments, as they decide which machine code serves them.

    Arrays say their numbers, dimensions, how they lie, and whether they may be written to.
    """
    if isinstance(value, np.ndarray):
        flags = value.flags
        layout = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
        return f"{value.dtype.char}{value.ndim}{layout}{'' if flags.writeable else 'r'}{'' if flags.aligned else 'u'}"
    if isinstance(value, tuple):
        return f"({' '.join(map(described, value))})"
    return scalar(value)


def scalar(value: Any) -> str:
    """The character of a number's type, as numpy has it. Raises TypeError for what is none."""
    if isinstance(value, np.generic):
        return value.dtype.char
    found = {bool: "?", int: "q", float: "d"}.get(type(value))
    if found is None:
        raise TypeError(f"a loop takes arrays, numbers and tuples of them, no {type(value).__name__}")
    return found


def flattened(value: Any) -> list[Any]:
    """Arguments as machine code takes them, one after the other."""
    if isinstance(value, np.ndarray):
        return [None, None, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    if isinstance(value, tuple):
        return [flat for part in value for flat in flattened(part)]
    return [value.item() if isinstance(value, np.generic) else value]


def flat_types(value: Any) -> list[Any]:
    """The ctypes of `flattened`."""
    if isinstance(value, np.ndarray):
        return [*ARRAY, *[ctypes.c_int64] * (2 * value.ndim)]
    if isinstance(value, tuple):
        return [flat for part in value for flat in flat_types(part)]
    return [SCALARS[scalar(value)]]


def kept(function: Callable[..., Any]) -> Loop:
    """A function of a module that does without numba, compiled as a loop. Division by zero is as in C."""

    def make() -> Compilable:
        from quantkit.qtypes.compiling import compilable

        return compilable(function)

    return Loop(function.__module__, function.__qualname__, make)


def loop(module: str, name: str) -> Loop:
    """The loop called `name` of a module that imports numba, which is imported where it has to be compiled."""
    return Loop(module, name, lambda: getattr(import_module(module), name))
