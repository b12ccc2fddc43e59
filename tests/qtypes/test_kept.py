"""Compiled loops without a folder to keep them in: the same bytes, only later; and caches that are damaged."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.pipeline import doctor

# What numba does to see whether it may write, failing as for a user who owns nothing.
NOWHERE = """
import errno, os, sys
from numba.core import caching
def refuse(self):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
if sys.argv.pop(1) == "nowhere":
    caching._CacheLocator.ensure_cache_path = refuse
else:  # there is a folder when it is looked for, and no space when it is used
    def full(self, overloads):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    caching.IndexDataCacheFile._save_index = full
    caching.IndexDataCacheFile._load_index = lambda self: {}
from quantkit.cli.main import run
run()
"""


@pytest.mark.parametrize("how", ["nowhere", pytest.param("full", marks=pytest.mark.slow)])
def test_conversions_need_no_folder_for_compiled_code(how: str, tmp_path: Path) -> None:
    for recipe in ("q8_0", "q4_k_m") if how == "full" else ("q8_0",):
        mine, kept = tmp_path / "mine.gguf", tmp_path / "kept.gguf"
        command = ["convert", TINY, "--to", recipe, "--no-verify", "--force", "-o"]
        done = subprocess.run(
            [sys.executable, "-c", NOWHERE, how, *map(str, [*command, mine])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert quantkit(*command, kept).status == 0
        assert hashlib.sha256(mine.read_bytes()).digest() == hashlib.sha256(kept.read_bytes()).digest()


READ = """
import sys
import numpy as np
from numba.core.runtime import rtsys
from quantkit.qtypes.floats import FEW, to_float32
out = np.empty(FEW + 1, np.float32)
to_float32(np.resize(np.arange(61, dtype=np.uint8), 2 * out.size), "F16", out)
print(out.sum(), "numba.misc.cffiimpl" in sys.modules or hasattr(rtsys, "_library"))
"""


def test_code_that_is_read_back_needs_nothing_of_what_compiling_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hundred modules that the compiler imports, a tenth of a second, and a library that it compiles first."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compiled, read = widened(), widened()
    assert compiled[0] == read[0]
    assert (compiled[1], read[1]) == ("True", "False")


def test_code_that_names_unknown_functions_of_the_runtime_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compiled = widened()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert widened("from quantkit.qtypes import compiling; compiling.OF_A_LOOP = frozenset()\n") == compiled
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}


def widened(before: str = "") -> list[str]:
    """The sum of some widened numbers, and whether anything was compiled for it, by a program that runs `before`."""
    run = [sys.executable, "-c", before + READ]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()


ALLOCATING = """
import sys
import numpy as np
from quantkit.qtypes.kept import kept
@kept()
def last(values):
    copy = np.empty(values.size, np.float32)
    for i in range(values.size):
        copy[i] = values.reshape(-1)[i]
    return copy[-1]
print(last(np.float32([[1, 2], [3, 4]])), "numba.np.arrayobj" in sys.modules)
"""


def test_code_that_is_read_back_needs_no_module_of_a_function_that_it_calls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Twenty modules for an array that a loop makes for itself: a twentieth of a second."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    path = tmp_path / "last.py"
    path.write_text(ALLOCATING)
    compiled, read = (
        subprocess.run([sys.executable, path], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(2)
    )
    assert (compiled, read) == (["4.0", "True"], ["4.0", "False"])


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda kept: b"",
    "zeros": lambda kept: bytes(len(kept)),  # after a power cut
    "a-half": lambda kept: kept[: len(kept) // 2],
    "a-name-of-no-module": lambda kept: b"cno_such_module\nname\n.",
}


@pytest.mark.parametrize(("suffix", "how"), [
    ("nbi", "zeros"), ("nbc", "a-half"),
    *(pytest.param(suffix, how, marks=pytest.mark.slow) for suffix in ("nbi", "nbc") for how in DAMAGED),
])  # fmt: skip
def test_code_in_a_damaged_file_is_compiled_and_kept_again(
    suffix: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    expected = widened()[0]
    [path] = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(DAMAGED[how](path.read_bytes()))
    assert widened() == [expected, "True"]
    assert widened() == [expected, "False"]


def test_doctor_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new"))
    [found] = [f for f in doctor.doctor(tmp_path) if f.area == "compiled"]
    assert (found.ok, str(tmp_path / "new") in found.what) == (True, True)
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    [found] = [f for f in doctor.doctor(tmp_path) if f.area == "compiled"]
    assert not found.ok
    assert "NUMBA_CACHE_DIR" in found.what
