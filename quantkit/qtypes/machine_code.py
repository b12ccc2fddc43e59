"""Machine code of loops on the disk, and from there into memory, by LLVM and without numba.

A file is a line of JSON and an object file. The line says what the code is for (versions, processor, sources) and has
the digest of the rest, so that a damaged file or one of another version is compiled again and not run. Files are beside
the modules, or where those cannot be written to in the user's cache folder, or where NUMBA_CACHE_DIR says: a help and
no more.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.extras import installed_version
from quantkit.platforms import is_mine
from quantkit.qtypes import llvm
from quantkit.qtypes.calls import Entry, flat_types
from quantkit.records import record
from quantkit.storage import direct, write_small

FORM = 1
PACKAGE = Path(__file__).parent
SEARCHES = f"{__package__}.search."
MOST_BYTES = 64 << 20
# Functions of Python that machine code is given for arrays of its own; both may be called without its lock.
ALLOCATION = {"quantkit_allocate": "PyMem_RawMalloc", "quantkit_free": "PyMem_RawFree"}


@record
class Code:
    """An object file, the type of what its function returns ("" for none), and the names of what it calls."""

    obj: bytes
    result: str
    externals: tuple[str, ...]


@record
class Place:
    """Where the code of a loop may be, best first, and the digest of all that it depends on."""

    files: tuple[Path, ...]
    key: str

    @property
    def symbol(self) -> str:
        """The name of its function: all are in one engine, and what they call has no names outside."""
        return f"quantkit_{self.key}"


def place(module: str, name: str, types: str) -> Place:
    """The place of a loop of a module, for arguments of these types."""
    try:
        processor = llvm.processor()
        key = _digest([module, name, types, *_versions(), _settings(), processor, _sources(module)])
    except (OSError, ImportError):  # installed without sources or names, or another LLVM: code is not kept
        return Place((), _digest([module, name, types]))
    file = f"{module.rpartition('.')[2]}.{name}-{_digest([types, processor])[:16]}.loop"
    return Place(tuple(folder / file for folder in folders()), key)


def read(found: Place, args: tuple[Any, ...]) -> Entry | None:
    """The code that is kept at a place, in memory; None where there is none for it, or it is damaged."""
    for file in found.files:
        code = _read(file, found.key)
        if code is not None and (entry := linked(found, code, args)) is not None:
            return entry
    return None


def keep(found: Place, code: Code) -> None:
    """Write code to the first place that can be written to."""
    facts = {"key": found.key, "sha256": hashlib.sha256(code.obj).hexdigest(), "result": code.result}
    data = json.dumps({**facts, "externals": code.externals}).encode() + b"\n" + code.obj
    for file in found.files:
        with suppress(OSError, QuantkitError):
            write_small(file, data, overwrite=True, ops=direct)  # faults are for artifacts
            return


def linked(found: Place, code: Code, args: tuple[Any, ...]) -> Entry | None:
    """Code in memory, to be called with arguments of these types; None where something that it calls is nowhere, or
    LLVM is another."""
    try:
        _allocates()
        address = llvm.load(code.obj, found.symbol) if all(map(_known, code.externals)) else None
    except ImportError:
        return None
    made = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *flat_types(args))
    return Entry(made(address), code.result) if address else None


def folders() -> Iterator[Path]:
    """Where code may be kept, the best place first."""
    own = _digest(str(PACKAGE))[:16]
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given) / own
        return
    yield PACKAGE / "__pycache__"
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "quantkit" / "loops" / own


@cache
def _versions() -> tuple[str, str, int]:
    return installed_version("numba"), llvm.version(), FORM


def _settings() -> list[tuple[str, str]]:
    """What numba's variables say, but where it keeps what: some change what is compiled."""
    return sorted((k, v) for k, v in os.environ.items() if k.startswith("NUMBA_") and k != "NUMBA_CACHE_DIR")


def _sources(module: str) -> str:
    """Digest of the file of a module, of all that searches are made of, and of how they are compiled: most of what is
    compiled into a loop comes from other files than its own."""
    if module.startswith(SEARCHES):
        return _searches()
    return _searches() + hashlib.sha256(Path(str(sys.modules[module].__file__)).read_bytes()).hexdigest()


@cache
def _searches() -> str:
    digest, searches = hashlib.sha256(), sorted((PACKAGE / "search").glob("*.py"))
    if not searches:
        raise FileNotFoundError(PACKAGE / "search")
    for path in (PACKAGE / "calls.py", PACKAGE / "compiling.py", *searches):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read(path: Path, key: str) -> Code | None:
    """What is kept in a file; None where it is for something else, damaged or not there, or where it belongs neither to
    this user nor to the one who installed this package: code is run."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        facts_of_file = os.fstat(file.fileno())
        if not is_mine(facts_of_file) and facts_of_file.st_uid != PACKAGE.stat().st_uid:
            return None
        head, _, obj = file.read(MOST_BYTES).partition(b"\n")
        facts = json.loads(head)
        if facts["key"] == key and facts["sha256"] == hashlib.sha256(obj).hexdigest():
            return Code(obj, facts["result"], tuple(facts["externals"]))
    return None


@cache
def _allocates() -> None:
    """Give machine code what it is to call for memory."""
    for name, function in ALLOCATION.items():
        address = ctypes.cast(getattr(ctypes.pythonapi, function), ctypes.c_void_p).value
        assert address is not None
        llvm.add_symbol(name, address)


def _known(name: str) -> bool:
    """Whether machine code that calls a function by this name can be linked."""
    if name.startswith("numba_"):
        from numba import _helperlib  # all of numba: few loops need it

        helpers: dict[str, int] = vars(_helperlib)["c_helpers"]
        address = helpers.get(name.removeprefix("numba_"))
        if address is not None:
            llvm.add_symbol(name, address)
    return llvm.is_known(name)
