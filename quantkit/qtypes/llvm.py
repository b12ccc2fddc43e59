"""Object code put into memory by LLVM: the few functions of llvmlite's library that do so, called without its modules.

Those modules bring all that writes code: tens of milliseconds for what LLVM itself does in one. What the functions take
is stated here for versions of llvmlite that declare it the same; of any other its modules are asked first, and
where they say otherwise nothing is called. Functions are called by one thread at a time (`kept`), with a context and an
engine of their own; what LLVM shares with code that numba writes meanwhile is begun under numba's own lock.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import nullcontext
from ctypes import byref, c_bool, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from quantkit.extras import installed_version

PREFIX = "LLVMPY_"
# What functions return and take; pointers to whatever LLVM calls its own are addresses.
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "InitializeNativeTarget": (None, ()),
    "InitializeNativeAsmPrinter": (None, ()),
    "GetProcessTriple": (None, (c_void_p,)),
    "GetHostCPUName": (None, (c_void_p,)),
    "GetHostCPUFeatures": (c_int, (c_void_p,)),
    "GetTargetFromTriple": (c_void_p, (c_char_p, c_void_p)),
    "CreateTargetMachine": (
        c_void_p,
        (c_void_p, c_char_p, c_char_p, c_char_p, c_int, c_char_p, c_char_p, c_int, c_int, c_char_p),
    ),
    "ContextCreate": (c_void_p, ()),
    "ParseAssembly": (c_void_p, (c_void_p, c_char_p, c_void_p)),
    "CreateMCJITCompiler": (c_void_p, (c_void_p, c_void_p, c_bool, c_void_p)),
    "CreateObjectFile": (c_void_p, (c_char_p, c_size_t)),
    "MCJITAddObjectFile": (None, (c_void_p, c_void_p)),
    "DisposeObjectFile": (None, (c_void_p,)),
    "FinalizeObject": (None, (c_void_p,)),
    "GetFunctionAddress": (c_uint64, (c_void_p, c_char_p)),
    "AddSymbol": (None, (c_char_p, c_void_p)),
    "SearchAddressOfSymbol": (c_void_p, (c_char_p,)),
}
SAME = (0, 44), (0, 50)  # versions of llvmlite, first and last, whose declarations are those above
TAKES_NOTHING = (0, 45)  # before, ContextCreate took whether pointers have types


def version() -> str:
    """The version of llvmlite. Raises ImportError where it is not installed."""
    return installed_version("llvmlite")


@cache
def processor() -> str:
    """The system, the processor and what it can do, as LLVM calls them."""
    features = sorted((_said("GetHostCPUFeatures") or "").split(","), key=lambda said: said[1:])  # +avx, -avx2
    return f"{_triple()} {_said('GetHostCPUName')} {','.join(features)}"


def add_symbol(name: str, address: int) -> None:
    """Let machine code call a function by this name."""
    _function("AddSymbol")(name.encode(), address)


def is_known(name: str) -> bool:
    """Whether there is a function by this name, of this process or added to it."""
    _engine()  # LLVM looks through the process from then on
    return _function("SearchAddressOfSymbol")(name.encode()) is not None


def load(obj: bytes, symbol: str) -> int | None:
    """The address of a function of an object file that is put into memory, for good; None where it has none by that
    name. All that it calls must be known."""
    engine, file = _engine(), _function("CreateObjectFile")(obj, len(obj))
    if file is None:
        return None
    _function("MCJITAddObjectFile")(engine, file)
    _function("FinalizeObject")(engine)
    _function("DisposeObjectFile")(file)
    return _function("GetFunctionAddress")(engine, symbol.encode()) or None


def declared_otherwise() -> list[str]:
    """Functions that the modules of the llvmlite that is installed declare otherwise than they are here."""
    theirs = import_module("llvmlite.binding").ffi.lib
    return [
        name
        for name, declared in FUNCTIONS.items()
        if not _is_declared(getattr(theirs, PREFIX + name, None), *declared)
    ]


def _is_declared(function: Any, result: Any, takes: tuple[Any, ...]) -> bool:
    """Whether a function takes just that, and returns it, if anything is made of what it returns."""
    if function is None or [*map(_kind, function.argtypes or ())] != [*map(_kind, takes)]:
        return False
    return result is None or _kind(function.restype) == _kind(result)


def _kind(declared: Any) -> str:
    """What a type is to a call: any pointer is an address."""
    pointer = declared in (c_void_p, c_char_p) or issubclass(declared, ctypes._Pointer)
    return "address" if pointer else str(declared.__name__)


@cache
def _library() -> ctypes.CDLL:
    """llvmlite's library. Raises ImportError where there is none whose functions are known."""
    if not is_same() and (other := declared_otherwise()):
        raise ImportError(f"llvmlite {version()} declares {', '.join(other)} otherwise")
    spec = PathFinder.find_spec("llvmlite")
    if spec is None or spec.origin is None:
        raise ImportError("llvmlite is not installed")
    unix = "libllvmlite.dylib" if sys.platform == "darwin" else "libllvmlite.so"
    file = Path(spec.origin).parent / "binding" / ("llvmlite.dll" if os.name == "nt" else unix)
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise ImportError(f"{file}: {error}") from None
    for name, (result, takes) in FUNCTIONS.items():
        function = getattr(library, PREFIX + name)
        function.restype, function.argtypes = result, takes
    return library


def is_same() -> bool:
    """Whether this is a version of llvmlite that was compared with what is stated here."""
    first, last = SAME
    return first <= _release() <= last


def _release() -> tuple[int, int]:
    """The first two numbers of the version, zeros where it does not begin with such."""
    found = re.match(r"(\d+)\.(\d+)\b", version())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _function(name: str) -> Any:
    return getattr(_library(), PREFIX + name)


def _said(name: str) -> str | None:
    """What a function writes where it is told to."""
    text = c_char_p()
    _function(name)(byref(text))
    return None if text.value is None else text.value.decode()


@cache
def _triple() -> str:
    return _said("GetProcessTriple") or ""


@cache
def _engine() -> int:
    """What puts object files into memory, for good. Raises ImportError where LLVM knows no such processor."""
    theirs = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    with getattr(theirs, "_lock", None) or nullcontext():
        _function("InitializeNativeTarget")()
        _function("InitializeNativeAsmPrinter")()
    wrong = c_char_p()
    target = _function("GetTargetFromTriple")(_triple().encode(), byref(wrong))
    # MCJIT under Windows takes ELF objects alone, and on ARM of 64 bits needs code to be near what it calls
    triple = f"{_triple()}-elf" if os.name == "nt" else _triple()
    near = _triple().startswith(("aarch64", "arm64"))
    machine = target and _function("CreateTargetMachine")(
        target, triple.encode(), b"", b"", 2, b"default", b"jitdefault", 0, 0, b""
    )
    untyped = [True] if SAME[0] <= _release() < TAKES_NOTHING else []  # pointers
    module = _function("ParseAssembly")(_function("ContextCreate")(*untyped), b"", byref(wrong))
    engine: int | None = machine and module and _function("CreateMCJITCompiler")(module, machine, near, byref(wrong))
    if not engine:
        raise ImportError(f"LLVM: {(wrong.value or b'no code for this processor').decode(errors='replace')}")
    return engine
