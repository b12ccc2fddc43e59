"""Cores and memory are counted in one place, and where the system says less of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantkit import machine


def test_cores_are_those_that_the_process_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8}, raising=False)
    assert machine.core_count() == 3


def test_cores_where_the_system_binds_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS; and where even the number of cores is unknown there is one."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.core_count() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.core_count() == 1


MACHINE = 64 << 30


@pytest.mark.parametrize(
    ("groups", "said", "expected"),
    [
        ("0::/", {}, MACHINE),
        ("0::/", {"memory.max": "max"}, MACHINE),
        ("0::/", {"memory.max": str(4 << 30)}, 4 << 30),
        ("0::/", {"memory.max": str(1 << 62)}, MACHINE),
        ("0::/user/job", {"user/job/memory.max": str(2 << 30)}, 2 << 30),
        ("0::/user/job", {"user/job/memory.max": "max", "user/memory.max": str(3 << 30)}, 3 << 30),
        ("0::/user/job", {"other/memory.max": str(1 << 30)}, MACHINE),
        ("3:cpu:/a\n5:memory,hugetlb:/a/b", {"memory/a/b/memory.limit_in_bytes": str(5 << 30)}, 5 << 30),
        ("3:cpu:/a", {"memory/memory.limit_in_bytes": str(6 << 30)}, 6 << 30),
        (None, {"memory.max": str(7 << 30)}, 7 << 30),
    ],
)
def test_memory_is_the_least_that_any_control_group_allows(
    groups: str | None, said: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in said.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda p: (groups or "") if p == Path("/proc/self/cgroup") else read(p))
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": MACHINE // 4096}[name])
    assert machine.memory_limit_bytes() == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, 10 << 30),
        ({"a/memory.max": "8", "a/memory.current": "6"}, 2 << 30),
        ({"a/memory.max": "8", "a/memory.current": "6",
          "a/memory.stat": "anon 1\ninactive_file 3\nactive_file 1"}, 6 << 30),
        ({"a/memory.max": "8", "a/memory.current": "9"}, 0),
        ({"a/memory.max": "max", "a/memory.current": "6", "memory.max": "7", "memory.current": "6"}, 1 << 30),
        ({"memory/memory.limit_in_bytes": "9", "memory/memory.usage_in_bytes": "7",
          "memory/memory.stat": "inactive_file 0\ntotal_inactive_file 1"}, 3 << 30),
    ],
)  # fmt: skip
def test_memory_that_is_free_is_what_no_control_group_has_used(
    said: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures are GiB. The machine has 10 to give."""
    for name, text in said.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(re.sub(r"\d+", lambda found: str(int(found[0]) << 30), text))
    system = {"/proc/self/cgroup": "0::/a", "/proc/meminfo": f"MemFree: 1 kB\nMemAvailable: {10 << 20} kB\n"}
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda p: system[str(p)] if str(p) in system else read(p))
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": MACHINE // 4096}[name])
    assert machine.available_bytes() == expected


@pytest.mark.parametrize("module", sorted((Path(machine.__file__).parent).rglob("*.py")), ids=lambda p: p.name)
def test_nobody_else_counts(module: Path) -> None:
    text = module.read_text()
    assert module.name == "machine.py" or not any(
        w in text for w in ("sched_getaffinity", "cpu_count", "SC_PHYS_PAGES")
    )


SCATTERED = """
import resource
import numpy as np
from pathlib import Path
from quantkit import machine
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
pieces = [np.ones(15_000, np.uint8) for _ in range(20_000)]  # from the heap, not from pages of their own
kept = pieces[::100]
del pieces
freed = resident() - before
machine.give_back_memory()
print(freed >> 20, (resident() - before) >> 20)
"""


@pytest.mark.skipif(machine._trim() is None, reason="the C library has no malloc_trim")
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCATTERED], check=True, capture_output=True, text=True)
    freed, left = map(int, done.stdout.split())
    assert freed > 200
    assert left < 50


def test_other_c_libraries_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine._trim.cache_clear()
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    machine.give_back_memory()
    machine._trim.cache_clear()


PEAKS = {
    "of itself": "import subprocess;"
    " print(subprocess.check_output([sys.executable, '-c', 'from quantkit.machine import *; print(peak_rss_bytes())'],"
    " text=True))",
    "of another": "sys.path.insert(0, sys.argv[1]); import child;"
    " print(child.run([sys.executable, '-c', 'pass']).peak)",
}


@pytest.mark.parametrize("whose", PEAKS)
def test_peaks_are_not_those_of_the_process_that_started_it(whose: str) -> None:
    scripts = Path(__file__).parent.parent / "scripts"
    code = f"import sys; held = bytearray(b'x') * (400 << 20); {PEAKS[whose]}"
    done = subprocess.run([sys.executable, "-c", code, scripts], check=True, capture_output=True, text=True)
    assert 1 << 20 < int(done.stdout) < 200 << 20


def test_a_peak_grows_with_what_is_held() -> None:
    code = (
        "from quantkit.machine import peak_rss_bytes as peak; before = peak(); held = bytearray(b'x') * (100 << 20);"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 95 << 20 < int(done.stdout) < 120 << 20
