"""What puts kept machine code into memory: llvmlite's library, called as its own modules call it or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantkit.qtypes import llvm

# A loop that is on the disk already, in a process that looks at llvmlite as one line of it says.
ENCODE = """
import sys
import numpy as np
from quantkit.qtypes import base, llvm
{said}
loaded, load = [], llvm.load
llvm.load = lambda obj, symbol: loaded.append(load(obj, symbol)) or loaded[-1]
w = np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128)
digits = base.get("q8_0").encode(w, None).tobytes().hex()
print(digits, any(loaded), "numba" in sys.modules, "llvmlite.binding" in sys.modules)
"""
OTHER = "llvm.FUNCTIONS['FinalizeObject'] = (None, ())"  # as if llvmlite had changed it
NEWER = "llvm.version = lambda: '0.99.0'"
BROKEN = "llvm.PathFinder = type('Nowhere', (), {'find_spec': staticmethod(lambda name: None)})"


def encoded(said: str, folder: Path) -> tuple[str, bool, bool, bool]:
    """The bytes, whether code was loaded from object files, and whether numba and LLVM's modules are imported."""
    run = subprocess.run(
        [sys.executable, "-c", ENCODE.format(said=said)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
    )
    digits, *said_of_it = run.stdout.split()
    loaded, numba, modules = (each == "True" for each in said_of_it)
    return digits, loaded, numba, modules


def test_functions_are_declared_as_in_llvmlite() -> None:
    assert llvm.declared_otherwise() == []


def test_what_this_llvmlite_is_called_is_known() -> None:
    """Else every start takes its modules: compare FUNCTIONS with them, and widen SAME."""
    assert llvm.is_same()


@pytest.mark.parametrize(
    ("version", "same"),
    [
        ("0.43.0", False),
        ("0.44.0", True),
        ("0.50.1", True),
        ("0.51.0rc1", False),
        ("1.45.0", False),
        ("0+unknown", False),
        ("0.51rc1", False),
    ],
)
def test_versions_are_numbers(version: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "version", lambda: version)
    assert llvm.is_same() == same


@pytest.mark.parametrize(
    "change", [(None, ()), (llvm.c_void_p, (llvm.c_void_p, llvm.c_int)), (llvm.c_int, (llvm.c_void_p, llvm.c_char_p))]
)
def test_other_declarations_are_seen(
    change: tuple[object, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(llvm.FUNCTIONS, "GetFunctionAddress", change)
    monkeypatch.setitem(llvm.FUNCTIONS, "NoSuchFunction", (None, ()))
    assert llvm.declared_otherwise() == ["GetFunctionAddress", "NoSuchFunction"]


def test_llvm_names_the_processor_as_llvmlite_does() -> None:
    from llvmlite import binding  # type: ignore[import-untyped]

    triple, name = binding.get_process_triple(), binding.get_host_cpu_name()
    assert llvm.processor() == f"{triple} {name} {binding.get_host_cpu_features().flatten()}"


def test_no_module_of_the_compiler_is_imported_for_code_that_is_kept(tmp_path: Path) -> None:
    first = encoded("", tmp_path)
    assert first[1:] == (True, True, True)
    assert encoded("", tmp_path) == (first[0], True, False, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "loaded", "numba"),
    [
        pytest.param(NEWER, True, False, id="newer and the same"),
        pytest.param(f"{NEWER}\n{OTHER}", False, True, id="newer and otherwise"),
        pytest.param(BROKEN, False, True, id="not found"),
    ],
)
def test_an_llvm_that_is_not_known_is_not_called(said: str, loaded: bool, numba: bool, tmp_path: Path) -> None:
    """Numba compiles then, in every process, and the bytes are the same."""
    known = encoded("", tmp_path / "known")
    encoded(said, tmp_path)
    assert encoded(said, tmp_path) == (known[0], loaded, numba, True)
