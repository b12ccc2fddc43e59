"""SIGINT and SIGTERM at chosen moments of real processes; streams that are closed, full, unread; little memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import TINY, quantkit

CALIBRATION = TINY.parent / "calibration.jsonl"

# Sends signals to its own process when a module is imported, a function is called, or an event is emitted.
HARNESS = """
import builtins, json, os, sys, threading
number, where, what, times = json.loads(sys.argv.pop(1))
sent = 0
def strike():
    global sent
    if sent < times:
        sent += 1
        os.kill(os.getpid(), number)
if where == "import":
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == what:
                strike()
    sys.meta_path.insert(0, Finder())
elif where == "call":
    import importlib
    module, _, name = what.rpartition(".")
    module = importlib.import_module(module)
    def stop(*arguments, before=getattr(module, name), **named):
        strike()
        return before(*arguments, **named)
    setattr(module, name, stop)
elif where == "event":
    import quantkit.cli.session as session
    emit = session.Session.emit
    def heard(self, event):
        emit(self, event)
        if type(event).__name__ + ":" + getattr(event, "stage", "") == what:
            strike()
    session.Session.emit = heard
from quantkit.cli.main import run
run()
"""


@dataclass(frozen=True)
class Moment:
    """When signals arrive: `what` is a module, a function or an event."""

    where: str
    what: str
    number: int = signal.SIGINT
    times: int = 1


def interrupted(moment: Moment, *arguments: object) -> subprocess.CompletedProcess[str]:
    chosen = json.dumps([moment.number, moment.where, moment.what, moment.times])
    command = [sys.executable, "-c", HARNESS, chosen, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, preexec_fn=listen)


def listen() -> None:
    """A shell without job control starts what is in the background deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def require_interrupted(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error[interrupted]: ")]) == 1, done.stderr
    assert done.stdout == ""


IMPORTS = ["typer", "quantkit.cli.app", "numpy"]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])


@pytest.mark.parametrize("module", IMPORTS)
@SIGNALS
def test_while_modules_are_imported(module: str, number: int) -> None:
    require_interrupted(interrupted(Moment("import", module, number), "plan", TINY))


@pytest.mark.parametrize("module", ["quantkit.qtypes.llvm", "numba"])
@SIGNALS
def test_while_the_compiler_is_imported(
    number: int, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the work: LLVM comes when the first loop is called, numba where its code is not on the disk."""
    if module == "numba":
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "loops"))
    out = tmp_path / "out"
    require_interrupted(interrupted(Moment("import", module, number), "convert", TINY, "--to", "q4_k_m", "-o", out))
    assert not list(out.glob("*.gguf"))


def test_before_there_is_a_handler() -> None:
    require_interrupted(interrupted(Moment("import", "quantkit.cli.interrupt"), "plan", TINY))


@pytest.mark.parametrize(
    ("arguments", "function"),
    [
        (["plan", TINY], "quantkit.pipeline.estimate.estimate"),
        (["plan", TINY, "--json"], "quantkit.pipeline.estimate.plan_json"),
        (["inspect", TINY], "quantkit.pipeline.inspect.open_source"),
        (["recipes"], "quantkit.pipeline.catalogue.load_recipe"),
        (["doctor"], "quantkit.pipeline.doctor.size"),
        (["convert", TINY, "--to", "q8_0", "--dry-run"], "quantkit.plan.describe.describe_source"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value.rpartition(".")[2],
)
def test_commands_that_only_look(arguments: list[object], function: str) -> None:
    done = interrupted(Moment("call", function), *arguments)
    if "--json" in arguments:
        assert json.loads(done.stdout)["error"]["exit"] == 130
        done.stdout = ""
    require_interrupted(done)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "m.gguf"
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", path, "--no-verify").status == 0
    return path


@pytest.mark.parametrize(
    "function", ["quantkit.quality.check.check_numbers", "quantkit.quality.checks.numbers.compare"]
)
def test_a_verification_that_was_interrupted_is_not_one_that_passed(artifact: Path, function: str) -> None:
    require_interrupted(interrupted(Moment("call", function), "verify", artifact, "--against", TINY, "--threads", 1))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("what", "times"),
    [("StageStarted:plan", 1), ("TensorProgress:quantize", 1), ("TensorProgress:quantize", 2),
     ("StageFinished:quantize", 1)],
)  # fmt: skip
def test_conversions_end_with_130_and_resume_to_the_same_bytes(
    what: str, times: int, number: int, artifact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.gguf"
    arguments = ["convert", TINY, "--to", "q8_0", "-o", out, "--no-verify"]
    require_interrupted(interrupted(Moment("event", what, number, times), *arguments))
    again = quantkit(*arguments)
    assert again.status == 0, again.stderr
    assert out.read_bytes() == artifact.read_bytes()
    assert not list(tmp_path.glob(".quantkit-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("what", "times"), [("StageStarted:calibrate", 1), ("TensorProgress:calibrate", 2)])
def test_calibration_ends_with_130(what: str, times: int, tmp_path: Path) -> None:
    small = ["--data", CALIBRATION, "--samples", 8, "--seqlen", 32, "-o", tmp_path / "x.gguf"]
    require_interrupted(interrupted(Moment("event", what, times=times), "calibrate", TINY, *small))
    assert not (tmp_path / "x.gguf").exists()


SWALLOWED = """
import os, signal, sys
import quantkit.cli.commands.doctor as doctor, quantkit
from quantkit.cli.main import run
def swallow(folder):
    {body}
    return ()
quantkit.doctor = swallow
sys.argv = ["quantkit", "doctor"]
run()
"""
BODIES = {
    "by a handler": "try:\n        os.kill(os.getpid(), 2)\n    except BaseException: pass",
    "into another error": "try:\n        os.kill(os.getpid(), 2)\n    except BaseException: raise ImportError('it')",
    "by a destructor": (
        "class A:\n        def __del__(self): os.kill(os.getpid(), 2)\n    a = A()\n    del a\n    signal.pause()"
    ),
    "by code that never ends": "while True:\n        try: os.kill(os.getpid(), 2); signal.pause()\n"
    "        except BaseException: pass",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_an_interrupt_cannot_get_lost(body: str) -> None:
    command = [sys.executable, "-c", SWALLOWED.format(body=body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=listen)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("error[interrupted]") == 1


def test_whatever_a_command_returns_is_not_an_exit_code_of_typer() -> None:
    """Typer answers an interrupt with a value; no value of its own may end as 0 here."""
    code = (
        "import quantkit, sys\nfrom quantkit.cli.main import main\nimport typer\n"
        "def stop(folder): raise typer.Exit(int(sys.argv[1]))\nquantkit.doctor = stop\nsys.exit(main(['doctor']))"
    )
    for status in (0, 3, 130):
        assert subprocess.run([sys.executable, "-c", code, str(status)], check=False).returncode == status


# --- streams that are closed, full, or without a reader ---------------------------------------------------------------


def piped(arguments: list[object], closed: str) -> tuple[int, str]:
    """Exit status, and what was said on the other stream, where the reader of `closed` is gone before the start."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
    command = [sys.executable, "-m", "quantkit", *map(str, arguments)]
    try:
        done = subprocess.run(command, timeout=120, text=True, check=False, **streams)
    finally:
        os.close(writer)
    return done.returncode, (done.stderr if closed == "stdout" else done.stdout) or ""


@pytest.mark.parametrize("arguments", [["plan", TINY], ["--help"], ["--version"]])
def test_a_pipe_without_a_reader_ends_quietly(arguments: list[object]) -> None:
    status, said = piped(arguments, "stdout")
    assert status == 141
    assert said == ""


def test_talk_without_a_listener_is_no_reason_to_stop(tmp_path: Path) -> None:
    status, said = piped(["convert", TINY, "--to", "q8_0", "-o", tmp_path, "--no-verify"], "stderr")
    assert status == 0
    assert said.strip().endswith(".gguf")


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_closed_descriptors(stream: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quantkit", "convert", TINY, "--to", "q8_0", "-o", tmp_path / "m.gguf"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {stream}>&-', "sh", *map(str, command)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert quantkit("verify", tmp_path / "m.gguf").status == 0


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize("arguments", [["plan", TINY, "--json"], ["--help"], ["--version"]])
def test_a_full_disk_under_stdout(arguments: list[object]) -> None:
    with FULL.open("w") as full:
        command = [sys.executable, "-m", "quantkit", *map(str, arguments)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("error[resource]: ")
    assert "Traceback" not in done.stderr


@needs_full
@pytest.mark.parametrize("option", ["--log-file", "--events"])
@pytest.mark.parametrize("command", [["plan", TINY], ["convert", TINY, "--to", "q8_0"], ["doctor"]], ids=lambda c: c[0])
def test_a_full_disk_under_the_log(option: str, command: list[object], tmp_path: Path) -> None:
    out = ["-o", tmp_path / "m.gguf"] if command[0] == "convert" else []
    done = quantkit(*command, *out, option, FULL)
    assert done.status == 5, done.stderr
    assert str(FULL) in done.stderr


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "OSError(12, 'Cannot allocate memory')",
        'RuntimeError("can\'t start new thread")',
        "ImportError('x.so: failed to map segment from shared object')",
        'RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 8 bytes")',
    ],
)
def test_no_memory_is_five(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import quantkit as package

    def starve(folder: Path) -> None:
        raise eval(error)

    monkeypatch.setattr(package, "doctor", starve, raising=False)
    done = quantkit("doctor", "--json")
    assert done.status == 5
    assert done.json["error"]["code"] == "resource"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits on addresses")
@pytest.mark.parametrize("megabytes", [120, 300, 400])
def test_small_limits_on_memory(megabytes: int) -> None:
    command = f'ulimit -v {megabytes * 1024}; exec "$0" -m quantkit plan "$1"'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, str(TINY)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, 5), done.stderr
    assert "Traceback" not in done.stderr
