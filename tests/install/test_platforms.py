"""Systems other than Linux, as far as Linux can stand for them: everything imports and works without what they lack.

`windows.py` is a process without what Windows has not, and with its rules for open files, renames and locks. It is not
Windows: what it shows is that nothing of Unix is needed, and that the fallbacks keep the promises of storage.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, Outcome, quantkit

from quantkit.calibration.text import templates
from quantkit.calibration.text.templates import ChatTemplate, render
from quantkit.errors import NotWritableError, UnsupportedError
from quantkit.filenames import windows_refuses
from quantkit.pipeline import outputs
from quantkit.pipeline.outputs import require_writable_names

ROOT = Path(__file__).parents[2]
NAME = "docs-llama-tiny-Q8_0.gguf"
OF_UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "crypt"}
CALLS_OF_UNIX = {
    "preadv", "pread", "pwrite", "readv", "writev", "geteuid", "getuid", "getgid", "getegid", "uname", "sysconf",
    "statvfs", "posix_fallocate", "posix_fadvise", "sched_getaffinity", "fork", "mkfifo", "chown", "getpgid", "killpg",
    "setsid", "kill", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_DIRECTORY", "O_TMPFILE",
}  # fmt: skip
KNOWS_SYSTEMS = {"platforms.py", "machine.py"}
# with an own signal alone: there it ends the process, as is wanted
ENDS_ITSELF = {("batch/lifeline.py", "kill"), ("storage/faults.py", "kill")}


def on_windows(**work: Any) -> dict[str, Any]:
    """What `windows.py` answers."""
    found = subprocess.run(
        [sys.executable, Path(__file__).with_name("windows.py")],
        input=json.dumps({"commands": [], **work}, default=str),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


def convert(out: Path, *more: object, to: str = "q8_0") -> list[object]:
    return ["convert", TINY, "--to", to, "-o", out, "--threads", "2", *more]


@pytest.mark.slow
def test_without_what_windows_lacks_all_modules_import_and_everything_works(tmp_path: Path) -> None:
    out, here = tmp_path / "there", tmp_path / "here"
    commands = [
        convert(out),
        convert(out),
        ["verify", out / NAME, "--against", TINY],
        convert(out / "fp8", to="fp8"),
        ["quantize", TINY, "--to", "q8_0", "-o", out / "work"],
        ["pack", out / "work" / "Q8_0", "-o", out / "packed"],
        ["convert", TINY, "--to", "q8_0", "--pure", "-o", out / "packed", "--force"],
        ["doctor", out],
    ]
    answer = on_windows(look=tmp_path, commands=commands)
    outcomes = [Outcome(**each) for each in answer["outcomes"]]
    assert [each.status for each in outcomes] == [0] * len(commands), "\n".join(each.stderr for each in outcomes)
    assert "already built" in outcomes[1].stderr
    assert answer["seams"] == {
        "folders": False, "moves": False, "limits": False, "cores": True, "memory": True, "peak": 0, "mine": True,
        "mapped": True,
    }  # fmt: skip
    assert answer["modules"] == len(list((ROOT / "quantkit").rglob("*.py")))
    assert quantkit(*convert(here)).status == 0
    assert quantkit("verify", out / NAME, "--against", TINY).status == 0
    assert quantkit(*convert(here / "fp8", to="fp8")).status == 0
    for name in ("fp8/model.safetensors", "fp8/config.json"):
        assert (here / name).read_bytes() == (out / name).read_bytes()
    assert not list(out.rglob(".quantkit-*")), "something was left behind"


@pytest.mark.slow
def test_there_too_kills_leave_nothing_damaged_and_a_second_process_waits(tmp_path: Path) -> None:
    """Its turn is said by a lock on a byte of a file, as Windows has them."""
    out, here = tmp_path / "out", tmp_path / "here"
    assert quantkit(*convert(here, "--no-verify")).status == 0
    command = [str(word) for word in convert(out, "--no-verify")]
    answer = on_windows(kill={"command": command, "at": [8, 30, 60]})
    assert answer["killed"] == [-9, -9, -9]
    [job] = out.glob(".quantkit-*")
    assert not (out / NAME).exists()
    answer = on_windows(busy={"folder": job, "command": command})
    assert (answer["busy"], answer["free"]) == (6, 0)
    assert (out / NAME).read_bytes() == (here / NAME).read_bytes()
    assert not list(out.glob(".quantkit-*"))


def test_a_template_needs_limits_or_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    talk = [[{"role": "user", "content": "Hello"}]]
    monkeypatch.setattr(templates, "LIMITS_PROCESSES", False)
    monkeypatch.delenv(templates.TRUST, raising=False)
    with pytest.raises(UnsupportedError, match="cannot limit its memory") as caught:
        render(template, talk)
    assert f"set {templates.TRUST}=1" in (caught.value.hint or "")
    monkeypatch.setenv(templates.TRUST, "1")
    assert render(template, talk) == ["Hello"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("con", "device"), ("NUL.gguf", "device"), ("Com1 .x", "device"), ("a.", "left out"), ("a ", "left out"),
        ("a:b", "':'"),
        ('a"<b', "'\"' '<'"), ("a\tb", "\\t"), ("console.gguf", None), ("com10", None), ("a b.gguf", None),
        ("ä.gguf", None), ("..", None),
    ],
)  # fmt: skip
def test_names_that_windows_has_not(
    name: str, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = windows_refuses(name)
    assert found is None if why is None else why in (found or "")
    monkeypatch.setattr(outputs.sys, "platform", "win32")
    with pytest.raises(NotWritableError) if why else nullcontext():
        require_writable_names([tmp_path / name])


def test_what_is_of_unix_alone_is_asked_for_in_one_place() -> None:
    """Modules are imported under `try`; calls stand in platforms.py, or beside a `hasattr` of their name."""
    assert [found for path in sorted((ROOT / "quantkit").rglob("*.py")) for found in of_unix_alone(path)] == []


def of_unix_alone(path: Path) -> Iterator[str]:
    """Where a module asks for what other systems lack."""
    name = path.relative_to(ROOT / "quantkit").as_posix()
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    guarded = {id(node) for each in nodes if isinstance(each, ast.Try) for node in ast.walk(each)}
    asked = {
        node.args[1].value
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
        and len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    }  # fmt: skip
    for node in nodes:
        if isinstance(node, ast.Import) and id(node) not in guarded:
            yield from (f"{name}:{node.lineno}: {a.name}" for a in node.names if a.name in OF_UNIX)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            wrong = node.attr in CALLS_OF_UNIX and node.attr not in asked and name not in KNOWS_SYSTEMS
            if wrong and (name, node.attr) not in ENDS_ITSELF:
                yield f"{name}:{node.lineno}: os.{node.attr}"
