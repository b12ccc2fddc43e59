"""Arguments of compiled loops: what types they are, and how machine code takes them.

An array is seven and more numbers: two pointers that are none here, how many elements it has and how long one is, where
they begin, its shape and its strides. That is how numba's functions call each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from quantkit.records import record

NO_VALUE = -2  # what a function returns in the place of 0 where its result is None
NOWHERE = ctypes.create_string_buffer(16)  # what a function without a result writes is read by nobody
ARRAY = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
SCALARS: dict[str, Any] = {
    "?": ctypes.c_uint8, "b": ctypes.c_int8, "B": ctypes.c_uint8, "h": ctypes.c_int16, "H": ctypes.c_uint16,
    "i": ctypes.c_int32, "I": ctypes.c_uint32, "l": ctypes.c_long, "L": ctypes.c_ulong, "q": ctypes.c_int64,
    "Q": ctypes.c_uint64, "f": ctypes.c_float, "d": ctypes.c_double,
}  # fmt: skip
NUMBERS = "biufc"  # kinds of numpy's types


@record
class Entry:
    """Machine code that can be called, and the type of what it returns ("" for none)."""

    call: Callable[..., int]
    result: str

    def __call__(self, *args: Any) -> Any:
        """Raises MemoryError: there was none for an array that the loop makes for itself."""
        found = np.empty(1, self.result) if self.result else None
        status = self.call(NOWHERE if found is None else found.ctypes.data, NOWHERE, *flattened(args))
        if status not in (0, NO_VALUE):
            raise MemoryError("no memory for what a compiled loop keeps for itself")
        return None if found is None else found[0].item()


def described(value: Any) -> str:
    """The types of arguments, as they decide which machine code serves them.

    Arrays say their numbers, dimensions, how they lie, and whether they may be written to. Raises TypeError for arrays
    of anything but numbers in this machine's order of bytes: the character does not tell them apart.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in NUMBERS or not value.dtype.isnative:
            raise TypeError(f"a loop takes arrays of numbers in this machine's order of bytes, none of {value.dtype}")
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
    if found == "q" and not -(1 << 63) <= value < 1 << 63:
        raise TypeError(f"a loop takes integers of 64 bits with a sign, which {value} is not")
    return found


def flattened(value: Any) -> list[Any]:
    """Arguments as machine code takes them, one after the other."""
    if isinstance(value, np.ndarray):
        where = value.__array_interface__["data"][0]
        return [None, None, value.size, value.itemsize, where, *value.shape, *value.strides]
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
