"""Machine code of loops on the disk, and from there into memory, by LLVM and without numba.

A file is a line of JSON and an object file. The line says what the code is for (versions, processor, sources) and has
the digest of the rest, so that a damaged file or one of another version is compiled again and not run. Files are beside
the modules, or where those cannot be written to, in NUMBA_CACHE_DIR or the user's cache folder; a help and no more.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
from llvmlite import binding

from quantkit.errors import QuantkitError
from quantkit.extras import installed_version
from quantkit.qtypes.kept import Entry, Loop, flat_types
from quantkit.records import record
from quantkit.storage import write_small

FORM = 1
SEARCH = Path(__file__).parent / "search"
MOST_BYTES = 64 << 20
# Functions of Python that machine code is given for arrays of its own; both may be called without its lock.
ALLOCATION = {"quantkit_allocate": "PyMem_RawMalloc", "quantkit_free": "PyMem_RawFree"}


@record
class Code:
    """An object file, the name of its function, the type of its result ("" for none), and what it needs to be linked
    with."""

    obj: bytes
    symbol: str
    result: str
    externals: tuple[str, ...]


def read_or_compiled(loop: Loop, types: str, args: tuple[Any, ...]) -> Entry | Callable[..., Any]:
    """The machine code of a loop for arguments of these types; where none can be kept, numba's own function."""
    key = _key(loop, types)
    name = f"{loop.module.rpartition('.')[2]}.{loop.name}-{_digest([types, _processor()])[:16]}.loop"
    folders = tuple(_folders(loop.module))
    for folder in folders:
        code = _read(folder / name, key)
        if code is not None and (entry := _entry(code, args)) is not None:
            return entry
    from quantkit.qtypes.compiling import compiled_code

    made = compiled_code(loop.make(), args)
    if made is None:
        return loop.make()
    for folder in folders:
        with suppress(OSError, QuantkitError):
            write_small(folder / name, _file(made, key), overwrite=True)
            break
    return _entry(made, args) or loop.make()


def _key(loop: Loop, types: str) -> str:
    """Everything that machine code depends on."""
    versions = installed_version("numba"), llvmlite.__version__, FORM
    return _digest([loop.module, loop.name, types, *versions, _processor(), _sources(loop.module)])


@cache
def _processor() -> str:
    """The system, the processor and what it can do."""
    triple, name = binding.get_process_triple(), binding.get_host_cpu_name()
    return f"{triple} {name} {binding.get_host_cpu_features().flatten()}"


@cache
def _sources(module: str) -> str:
    """Digest of the file of a module and of all that the searches are made of: most of what is compiled into a loop
    comes from other files than its own."""
    digest = hashlib.sha256()
    own = Path(str(sys.modules[module].__file__)) if module in sys.modules else None
    searches = sorted(SEARCH.glob("*.py"))
    for path in searches if own is None or own in searches else [own, *searches]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _folders(module: str) -> Iterator[Path]:
    """Where code may be kept, the best place first."""
    package = Path(__file__).parent
    place = _digest([str(package), module])[:16]
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given) / f"quantkit-{place}"
        return
    yield package / "__pycache__"
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "quantkit" / "loops" / place


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _file(code: Code, key: str) -> bytes:
    facts = {"key": key, "sha256": hashlib.sha256(code.obj).hexdigest(), "symbol": code.symbol, "result": code.result}
    return json.dumps({**facts, "externals": code.externals}).encode() + b"\n" + code.obj


def _read(path: Path, key: str) -> Code | None:
    """What is kept in a file, None where it is for something else, damaged or not there."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        head, _, obj = file.read(MOST_BYTES).partition(b"\n")
        facts = json.loads(head)
        if facts["key"] == key and facts["sha256"] == hashlib.sha256(obj).hexdigest():
            return Code(obj, facts["symbol"], facts["result"], tuple(facts["externals"]))
    return None


def _entry(code: Code, args: tuple[Any, ...]) -> Entry | None:
    """Machine code in memory, None where something that it needs is nowhere."""
    machine = target_machine()
    if not all(map(_known, code.externals)):
        return None
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code.obj))
    engine.finalize_object()
    address = engine.get_function_address(code.symbol)
    made = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *flat_types(args))
    return Entry(made(address), code.result, engine)


@cache
def target_machine() -> Any:
    """LLVM, ready for this processor."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    for name, function in ALLOCATION.items():
        address = ctypes.cast(getattr(ctypes.pythonapi, function), ctypes.c_void_p).value
        binding.add_symbol(name, address)
    return binding.Target.from_triple(binding.get_process_triple()).create_target_machine()


def _known(name: str) -> bool:
    """Whether machine code that calls a function by this name can be linked."""
    if name.startswith("numba_"):
        from numba import _helperlib  # all of numba: few loops need it

        helpers: dict[str, int] = vars(_helperlib)["c_helpers"]
        address = helpers.get(name.removeprefix("numba_"))
        if address is not None:
            binding.add_symbol(name, address)
    return binding.address_of_symbol(name) is not None
