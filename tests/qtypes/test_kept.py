"""Loops as machine code on the disk: read without the compiler, without a folder, damaged, of other versions."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TINY, quantkit

from quantkit.pipeline import doctor
from quantkit.qtypes import base, calls, machine_code
from quantkit.qtypes.kept import Loop, kept
from quantkit.qtypes.search import entries

# Nothing can be written to the folders of loops: there is none, or no space on their disk.
NOWHERE = """
import errno, os, sys
from quantkit.qtypes import machine_code
if sys.argv.pop(1) == "nowhere":
    machine_code.folders = lambda: iter(())
else:
    def full(path, data, *, overwrite, ops):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    machine_code.write_small = full
    machine_code._read = lambda path, key: None
from quantkit.cli.main import run
run()
"""


@pytest.mark.parametrize("how", ["nowhere", pytest.param("full", marks=pytest.mark.slow)])
def test_conversions_need_no_folder_for_compiled_code(how: str, tmp_path: Path) -> None:
    for recipe in ("q8_0", "q4_k_m") if how == "full" else ("q8_0",):
        mine, known = tmp_path / "mine.gguf", tmp_path / "kept.gguf"
        command = ["convert", TINY, "--to", recipe, "--no-verify", "--force", "-o"]
        done = subprocess.run(
            [sys.executable, "-c", NOWHERE, how, *map(str, [*command, mine])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert quantkit(*command, known).status == 0
        assert hashlib.sha256(mine.read_bytes()).digest() == hashlib.sha256(known.read_bytes()).digest()


READ = """
import sys
import numpy as np
from quantkit.qtypes.floats import FEW, to_float32
out = np.empty(FEW + 1, np.float32)
to_float32(np.resize(np.arange(61, dtype=np.uint8), 2 * out.size), "F16", out)
print(out.sum(), "numba" in sys.modules)
"""


def widened() -> list[str]:
    """The sum of some widened numbers, and whether anything was compiled for it, of a program."""
    run = [sys.executable, "-c", READ]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()


def test_code_that_is_read_back_needs_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Numba's modules take a fifth of a second to import."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compiled, read = widened(), widened()
    assert compiled[0] == read[0]
    assert (compiled[1], read[1]) == ("True", "False")


def test_a_conversion_imports_no_numba(tmp_path: Path) -> None:
    """Not for searches with arrays of their own, nor for planes, nor for the check of what was written."""
    command = ["convert", str(TINY), "--to", "q4_k_m,q3_k_m,q8_0,iq4_xs", "-o", str(tmp_path / "out"), "--quiet"]
    assert quantkit(*command).status == 0  # what is not on the disk yet
    told = (
        "end = os._exit\nos._exit = lambda status: (print('numba' in sys.modules), sys.stdout.flush(), end(status))\n"
    )
    program = f"import os, sys\n{told}from quantkit.cli.main import run\nrun()\nprint('numba' in sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--force"], check=True, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == "False"


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda code: b"",
    "zeros": lambda code: bytes(len(code)),  # after a power cut
    "a-half": lambda code: code[: len(code) // 2],
    "one-bit": lambda code: code[:-100] + bytes([code[-100] ^ 1]) + code[-99:],
    "no-object": lambda code: b"[]\n" + code.partition(b"\n")[2],
    "no-names": lambda code: b'{"key": 1}\n',
    "of-others": lambda code: code.replace(json.loads(code.partition(b"\n")[0])["key"].encode(), b"0" * 64),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_code_in_a_damaged_file_is_compiled_and_kept_again(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    expected = widened()[0]
    [path] = tmp_path.rglob("*.loop")
    whole = path.read_bytes()
    path.write_bytes(DAMAGED[how](whole))
    assert widened() == [expected, "True"]
    assert json.loads(path.read_bytes().partition(b"\n")[0]) == json.loads(whole.partition(b"\n")[0])
    assert widened() == [expected, "False"]


def test_code_of_another_user_is_not_run(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (TABLE, True, 3, 0.5, np.float32(2), (1, (np.arange(4.0),)), np.empty(7))
    Loop(all_kinds.module, all_kinds.name, all_kinds.make)(*arguments)
    place = machine_code.place(all_kinds.module, all_kinds.name, calls.described(arguments))
    assert machine_code.read(place, arguments) is not None
    monkeypatch.setattr(machine_code, "is_mine", lambda facts: False)
    assert machine_code.read(place, arguments) is not None, "of the one who installed the package"
    monkeypatch.setattr(machine_code, "PACKAGE", SomebodyElses(machine_code.PACKAGE))
    assert machine_code.read(place, arguments) is None


class SomebodyElses(type(Path())):  # type: ignore[misc]
    """A path that says that it belongs to another user."""

    def stat(self, **named: Any) -> Any:
        return type("Facts", (), {"st_uid": -2})


def test_doctor_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new"))
    [found] = [f for f in doctor.doctor(tmp_path) if f.area == "compiled"]
    assert (found.ok, str(tmp_path / "new") in found.what) == (True, True)
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    [found] = [f for f in doctor.doctor(tmp_path) if f.area == "compiled"]
    assert not found.ok
    assert "NUMBA_CACHE_DIR" in found.what


# What a loop is given


@kept
def all_kinds(array: Any, flag: bool, whole: int, real: float, single: Any, group: Any, out: Any) -> int:
    """Sums of arguments of all kinds, to `out`; how many numbers the array has."""
    own = np.empty(array.shape[0], np.float64)
    for i in range(array.shape[0]):
        own[i] = 0.0
        for k in range(array.shape[1]):
            own[i] += array[i, k]
    out[0] = own[0]
    out[1] = own[array.shape[0] - 1]
    out[2] = 1.0 if flag else 0.0
    out[3] = whole
    out[4] = real
    out[5] = single
    out[6] = group[0] + group[1][0][2]
    return array.size


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


TABLE = np.arange(24, dtype=np.float32).reshape(4, 6)
LAID = {
    "C": TABLE,
    "F": np.asfortranarray(TABLE),
    "A": np.repeat(TABLE, 2, axis=1)[:, ::2],
    "none": TABLE[:0].reshape(0, 6),
}


@pytest.mark.parametrize("layout", ["C", "F", "A"])
@pytest.mark.parametrize("flag", [True, False])
def test_arguments_arrive(own_folder: Path, layout: str, flag: bool) -> None:
    """Twice: from the compiler, and read from the disk."""
    arguments = (LAID[layout], flag, -(2**40), 0.1, np.float32(0.1), (np.uint8(250), (np.arange(4.0),)))
    for fresh in (Loop(all_kinds.module, all_kinds.name, all_kinds.make) for _ in range(2)):
        out = np.empty(7, np.float64)
        assert fresh(*arguments, out) == 24
        assert out.tolist() == [15.0, 123.0, float(flag), -(2.0**40), 0.1, float(np.float32(0.1)), 252.0]
    assert len(list(own_folder.rglob("*.loop"))) == 1


def test_each_set_of_types_has_code_of_its_own(own_folder: Path) -> None:
    loop = Loop(all_kinds.module, all_kinds.name, all_kinds.make)
    for real in (0.5, np.float32(0.5), 1):
        out = np.empty(7, np.float64)
        loop(TABLE, True, 3, real, np.float32(2), (1, (np.arange(4.0),)), out)
        assert out[4] == real
    frozen = TABLE.copy()
    frozen.flags.writeable = False
    loop(frozen, True, 3, 0.5, np.float32(2), (1, (np.arange(4.0),)), np.empty(7))
    assert len(list(own_folder.rglob("*.loop"))) == 4


@pytest.mark.parametrize("value", [None, "text", [1], {}, 1j, object()])
def test_what_no_loop_takes_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=f"no {type(value).__name__}"):
        calls.described((TABLE, value))


def test_a_loop_without_memory_for_itself_says_so(own_folder: Path) -> None:
    @kept
    def greedy(size: int, out: Any) -> None:
        own = np.empty(size, np.float64)
        for i in range(0, size, 1 << 20):
            own[i] = i
        out[0] = own[0]

    with pytest.raises(MemoryError, match="compiled loop"):
        greedy(1 << 50, np.empty(1))
    greedy(10, np.empty(1))


def test_memory_of_a_loop_is_given_back(own_folder: Path) -> None:
    """A gigabyte in all, 8 MB at once, in a process that takes no more than 64 MB for it."""
    program = """
import numpy as np
from quantkit.machine import peak_rss_bytes
from quantkit.qtypes.kept import kept
@kept
def last(values):
    own = np.empty(values.size, np.float64)
    for i in range(values.size):
        own[i] = values[i]
    return own[-1]
values = np.arange(1 << 20, dtype=np.float64)
last(values)
before = peak_rss_bytes()
for _ in range(128):
    last(values)
print(peak_rss_bytes() - before < 64 << 20)
"""
    path = own_folder / "last.py"
    path.write_text(program)
    done = subprocess.run([sys.executable, path], check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_settings_of_numba_have_code_of_their_own(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [machine_code.place(all_kinds.module, "any", "q").key]
    for name, value in (("NUMBA_BOUNDSCHECK", "1"), ("NUMBA_BOUNDSCHECK", "0"), ("NUMBA_OPT", "0")):
        monkeypatch.setenv(name, value)
        keys.append(machine_code.place(all_kinds.module, "any", "q").key)
    assert len(set(keys)) == 4


@pytest.mark.parametrize("missing", ["sources", "names", "own file"])
def test_without_what_names_code_none_is_kept(missing: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a package was installed without its sources or its metadata, or lies in an archive."""
    if missing == "sources":
        monkeypatch.setattr(machine_code, "PACKAGE", own_folder)
        machine_code._searches.cache_clear()
    elif missing == "names":
        monkeypatch.setattr(machine_code, "_versions", lambda: importlib.metadata.version("no-such-package"))
    else:
        monkeypatch.setattr(sys.modules[all_kinds.module], "__file__", "/archive.zip/loops.py")
    assert machine_code.place(all_kinds.module, all_kinds.name, "q").files == ()
    loop, out = Loop(all_kinds.module, all_kinds.name, all_kinds.make), np.empty(7)
    assert loop(TABLE, True, 3, 0.5, np.float32(2), (1, (np.arange(4.0),)), out) == 24
    assert list(own_folder.rglob("*.loop")) == []
    machine_code._searches.cache_clear()


@pytest.mark.parametrize("setting", [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_BOUNDSCHECK": "1"}])
def test_settings_of_numba_do_no_harm(setting: dict[str, str], own_folder: Path) -> None:
    code = "import numpy as np\nfrom quantkit.qtypes import base\nw = np.linspace(-1, 1, 256, dtype=np.float32)"
    run = [sys.executable, "-c", f"{code}\nprint(base.get('q8_0').encode(w.reshape(2, 128), None).sum())"]
    said = [
        subprocess.run(run, check=True, capture_output=True, text=True, env={**os.environ, **more}).stdout
        for more in ({}, setting)
    ]
    assert said[0] == said[1]


def test_code_that_calls_what_is_nowhere_is_not_run(own_folder: Path) -> None:
    """LLVM would end the process."""
    place = machine_code.place(all_kinds.module, "other", "none")
    code = machine_code.Code(b"", "", ("memcpy", "no_such_function"))
    assert machine_code.linked(place, code, ()) is None


def test_loops_that_numba_calls_otherwise_are_left_to_it(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantkit.qtypes import compiling

    monkeypatch.setattr(compiling, "flat_types", lambda value: [*calls.flat_types(value), calls.ctypes.c_int64])
    loop, out = Loop(all_kinds.module, all_kinds.name, all_kinds.make), np.empty(7)
    assert loop(TABLE, True, 3, 0.5, np.float32(2), (1, (np.arange(4.0),)), out) == 24
    assert out[1] == 123.0
    assert list(own_folder.rglob("*.loop")) == []


def test_only_arrays_as_c_has_them_are_flattened(own_folder: Path) -> None:
    """Of others their numbers would be taken in another order, or from between them."""
    from numba.core.errors import TypingError

    from quantkit.qtypes.search.compilation import compiled
    from quantkit.qtypes.search.lanes import flattened

    @compiled
    def third(array: Any) -> float:
        return flattened(array)[2]

    assert third(TABLE) == TABLE.reshape(-1)[2]
    for layout in ("F", "A"):
        with pytest.raises(TypingError, match="does not lie as C has it"):
            third(LAID[layout])


def test_loops_that_need_more_of_numba_are_left_to_it(own_folder: Path) -> None:
    """A list is freed by a function that only numba has."""

    @kept
    def listed(size: int) -> float:
        found = [0.0]
        for i in range(size):
            found.append(2.0 * i)
        own = np.empty(1)
        own[0] = found[-1]
        return own[0]

    assert listed(10) == 18.0
    assert list(own_folder.rglob("*.loop")) == []


def test_text_for_llvm_is_of_versions_with_and_without_types_of_pointers() -> None:
    from quantkit.qtypes import compiling

    assert re.search(r"\bptr\b", compiling.RUNTIME) is None  # llvmlite 0.44, of numba 0.61, knows none


@pytest.mark.parametrize("dtype", [np.dtype(np.float32).newbyteorder(), "S4", "M8[D]", "O", [("a", "f4")]])
def test_arrays_of_other_than_numbers_are_refused(dtype: Any) -> None:
    """Their character may be that of numbers for which there is code."""
    with pytest.raises(TypeError, match="order of bytes"):
        calls.described((np.zeros(3, dtype),))


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1])
def test_integers_that_are_too_large_are_refused(value: int) -> None:
    with pytest.raises(TypeError, match=str(value)):
        calls.described((value,))


ENTRIES = {name: found for name, found in vars(entries).items() if isinstance(found, Loop)}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_there(name: str) -> None:
    assert callable(ENTRIES[name].make())
    assert ENTRIES[name].py_func.__name__ == name == ENTRIES[name].name


def test_all_that_is_compiled_for_others_is_an_entry() -> None:
    marked = []
    for path in Path(entries.__file__).parent.glob("*.py"):
        lines = path.read_text("utf-8").splitlines()
        below = [line for before, line in itertools.pairwise(lines) if before == "@compiled"]
        marked += [line.removeprefix("def ").partition("(")[0] for line in below]
    assert sorted(marked) == sorted(ENTRIES)


def test_all_that_is_compiled_into_a_loop_is_in_its_key() -> None:
    """Of a search all files of searches, of others their own file: what they have from elsewhere would be used after it
    changed there."""
    package = Path(base.__file__).parent
    outside, seen = [], 0
    for path in sorted(package.parent.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        search = path.parent.name == "search"
        imported = {
            (name.asname or name.name): node.module
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quantkit")
            for name in node.names
        }
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef):
                continue
            marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
            if not marks & {"kept", "compiled", "called", "inlined", "njit", "intrinsic"}:
                continue
            seen += 1
            used = {n.id for part in node.body for n in ast.walk(part) if isinstance(n, ast.Name)} & imported.keys()
            known = (lambda module: module.startswith("quantkit.qtypes.search")) if search else (lambda module: False)
            outside += [f"{path.name}: {node.name}: {name}" for name in used if not known(imported[name])]
    assert seen > 100
    assert outside == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in base.names() if base.get(name).gguf is not None])
def test_no_type_needs_a_compiler_for_what_was_compiled(name: str) -> None:
    """Encoding and unpacking, with importance and without, read all of their loops."""
    program = f"""
import sys
import numpy as np
from quantkit.qtypes import base
found = base.get({name!r})
w = np.random.default_rng(0).standard_normal((4, 1024), np.float32)
for importance in (None, np.ones(1024, np.float32)):
    if importance is None and found.needs_importance:
        continue
    raw = found.encode(w, importance)
    if found.code_bytes:
        found.unpack(raw.reshape(-1, found.nbytes))
print("numba" in sys.modules)
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False) for _ in range(2)
    ]
    assert runs[1].stdout.strip() == "False", runs[1].stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["descend", "sweep_vectors", "descend_vectors"])
def test_loops_of_methods_are_kept(name: str, own_folder: Path) -> None:
    """They need nothing that only numba has."""
    rows, n, dims = 2, 16, 8
    floats = {size: np.ones(size, np.float32) for size in ((rows, n), (n, n), (2, dims, dims), (rows, 1), (n,), (0,))}
    codes, gain = np.zeros((rows, n), np.int16), np.zeros(rows, np.float32)
    block, square, forms = floats[rows, n], floats[n, n], floats[2, dims, dims]
    one, zeros = np.float32(1), np.zeros(n, np.int64)
    grid = (floats[rows, 1], np.empty((0, 0), np.float32), zeros, -one, one, *[floats[0,]] * 2, np.zeros(0, np.int16))
    vectors = (np.ones((dims, 16), np.float32), np.zeros((16, dims), np.int16), False, 1)
    on = (floats[rows, 1], zeros)
    given: dict[str, tuple[Any, ...]] = {
        "descend": (block, block, square, grid, block.copy(), codes, gain),
        "sweep_vectors": (block, block, square, forms, floats[n,], on, vectors, codes, block.copy(), gain),
        "descend_vectors": (block.copy(), block, square, forms, on, vectors, block.copy(), codes, gain),
    }
    loop = ENTRIES[name]
    Loop(loop.module, loop.name, loop.make)(*given[name])
    [path] = own_folder.rglob("*.loop")
    assert set(json.loads(path.read_bytes().partition(b"\n")[0])["externals"]) <= {*machine_code.ALLOCATION}
