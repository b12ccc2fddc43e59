"""What every command keeps: exit codes, JSON, quiet, plain terminals, start-up imports, secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit import __version__, errors
from quantkit.cli.app import commands, program
from quantkit.cli.exits import CODES, exit_code
from quantkit.cli.redaction import printable

COMMANDS = (
    "convert",
    "plan",
    "quantize",
    "pack",
    "verify",
    "release",
    "eval",
    "inspect",
    "schemes",
    "recipes",
    "doctor",
)
HEAVY = ("torch", "transformers", "numba", "gguf", "tokenizers", "huggingface_hub", "model_signing")


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(c) for c in cls.__subclasses__()))


@pytest.mark.parametrize("error", sorted(subclasses(errors.QuantkitError) - {errors.QuantkitError}, key=str))
def test_every_error_has_an_exit_code(error: type[errors.QuantkitError]) -> None:
    assert any(base in CODES for base in error.__mro__)
    assert exit_code(error.__new__(error)) in set(CODES.values())


def test_exit_codes_are_the_documented_ones() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "cli.md").read_text()
    documented = {int(line.split("|")[1]) for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()}
    assert set(CODES.values()) <= documented
    assert len(CODES.values()) == len(set(CODES.values()))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], *([c, "--help"] for c in COMMANDS)])
def test_help_and_version_need_no_heavy_import(arguments: list[str]) -> None:
    run = f"import sys; from quantkit.cli.main import main; main({arguments!r})"
    code = f"{run}; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("said", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(said: str | None) -> None:
    run = "import os; from quantkit.cli.main import main; main(['recipes', '--quiet'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if said:
        environment["OMP_WAIT_POLICY"] = said
    command = [sys.executable, "-c", f"{run}; print(os.environ['OMP_WAIT_POLICY'])"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.splitlines()[-1] == (said or "PASSIVE")


@pytest.mark.parametrize("recipe", ["q4_k_m,bf16", "w8a16"])
def test_a_conversion_without_text_never_loads_torch(recipe: str, tmp_path: Path) -> None:
    """It would more than double the memory of a small conversion, and take a second of processor time."""
    arguments = ["convert", str(TINY), "--to", recipe, "-o", str(tmp_path), "--quiet"]
    run = f"import sys; from quantkit.cli.main import main; status = main({arguments!r})"
    code = f"{run}; print(status, {{'torch', 'transformers'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 set()"


# pydantic: what Typer converts values with, where any needs it; email: how importlib.metadata reads what is installed.
# Ours: what reads and writes checkpoints that are quantized, or Mistral's own; what other tokenizers are read from;
# what looks at importance weights, and at artifacts that are published.
UNUSED = {
    "torch", "pydantic", "email.parser",
    "quantkit.source.quantized", "quantkit.source.mistral", "quantkit.source.memory", "quantkit.filling.layers",
    "quantkit.formats.containers.base", "quantkit.qtypes.schemes.base", "quantkit.quality.made_checkpoint",
    "quantkit.tokenizer.unigram", "quantkit.tokenizer.wordpiece", "quantkit.tokenizer.stand_ins",
    "quantkit.formats.gguf.imatrix", "quantkit.pipeline.record_checks", "quantkit.cli.commands.plan",
    "quantkit.pipeline.difference",
}  # fmt: skip
COMPILER = {"numba", "llvmlite", "email"}


@pytest.mark.parametrize(
    ("recipe", "unused"),
    [
        ("bf16", {*UNUSED, *COMPILER, "quantkit.qtypes.llvm"}),
        ("q8_0", UNUSED | COMPILER),
        ("q4_k_m", UNUSED | COMPILER),
    ],
)
def test_a_conversion_imports_nothing_that_it_has_no_use_for(recipe: str, unused: set[str], tmp_path: Path) -> None:
    """Importing numba and its compiled code takes half a second of processor time, what it is built on a tenth of that:
    most of a small conversion."""
    arguments = ["convert", str(TINY), "--to", recipe, "-o", str(tmp_path), "--quiet"]
    run = f"import sys; from quantkit.cli.main import main; status = main({arguments!r})"
    code = f"{run}; print(status, {unused} & set(sys.modules))"
    if recipe != "bf16":  # loops are compiled by whoever wants them first
        assert quantkit(*arguments[:-3], "-o", tmp_path / "first").status == 0
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 set()"


CHECKING = {
    "gguf", "quantkit.pipeline.verify", "quantkit.quality.check", "quantkit.quality.reference",
    "quantkit.quality.checks.numbers", "quantkit.quality.checks.tokenizer", "quantkit.tokenizer.check",
    "quantkit.tokenizer.own", "quantkit.tokenizer.rebuilt",
}  # fmt: skip


@pytest.mark.parametrize("checked", [False, True])
def test_what_checks_is_imported_by_the_thread_that_checks(checked: bool, tmp_path: Path) -> None:
    """While others read files back: a conversion begins without it."""
    verify = [] if checked else ["--no-verify"]
    arguments = ["convert", str(TINY), "--to", "bf16", "-o", str(tmp_path), "--quiet", *verify]
    code = (
        "import builtins, sys, threading\n"
        "found, load = set(), builtins.__import__\n"
        "def seen(name, *others, **named):\n"
        "    if name not in sys.modules and threading.current_thread() is threading.main_thread():\n"
        "        found.add(name)\n"
        "    return load(name, *others, **named)\n"
        "builtins.__import__ = seen\n"
        "from quantkit.cli.main import main\n"
        f"status = main({arguments!r})\n"
        f"print(status, sorted(found & {CHECKING}), sorted({CHECKING} & {{*sys.modules}}))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == f"0 [] {sorted(CHECKING) if checked else []}"


def test_only_the_command_that_is_asked_for_is_made() -> None:
    assert list(program("convert").commands) == ["convert"]
    assert list(program("convrt").commands) == [command.name for command in commands()]


def test_version() -> None:
    assert quantkit("--version").stdout == f"quantkit {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_sixty_columns_and_lists_the_common_options(command: str) -> None:
    env = {**os.environ, "COLUMNS": "60", "NO_COLOR": "1", "TERM": "dumb"}
    code = f"from quantkit.cli.main import main; main([{command!r}, '--help'])"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert max(map(len, text.splitlines())) <= 60
    assert "--json" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["convert"], 2, "SRC"),
        (["frobnicate"], 2, "frobnicate"),
        (["convert", TINY, "--to", "q4_km"], 2, 'did you mean "q4_k_m"'),
        (["convert", TINY, "--to", "q4_k_m", "--keep", "attn_v"], 2, "PATTERN=TYPE"),
        (["convert", TINY, "--to", "q4_k_m", "--keep", "attn_v=q9"], 2, "q9"),
        (["convert", TINY, "--to", "q4_k_m", "--keep", "nothing_like_it=q8_0"], 2, "nothing_like_it"),
        (["convert", TINY, "--to", "q4_k_m", "--split-max-size", "big"], 2, "big"),
        (["convert", TINY, "--to", "q8_0", "--on-fallback", "maybe"], 2, "maybe"),
        (["convert", TINY, "--to", "q4_k_m,q8_0", "-o", "x.gguf"], 2, "folder"),
        (["convert", "/nowhere/at/all", "--to", "q8_0"], 3, "/nowhere/at/all"),
        (["verify", TINY / "config.json"], 3, "config.json"),
        (["inspect", "/nowhere.gguf"], 3, "/nowhere.gguf"),
        (["pack", TINY, "-o", "x"], 3, "work folder"),
        (["recipes", "show", "q5"], 2, "q5"),
        (["verify", TINY, "--engine", "ollama"], 2, "ollama"),
    ],
    ids=lambda value: " ".join(str(v) for v in value)[:60] if isinstance(value, list) else None,
)
def test_mistakes_get_one_line_a_hint_and_a_code(
    arguments: list[object], status: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = quantkit(*arguments, "--json")
    assert outcome.status == status, outcome.stderr
    assert outcome.stderr.startswith("error[")
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.json["schema"] == "quantkit.error/1"
    assert outcome.json["error"]["exit"] == status
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (["schemes"], "quantkit.schemes/1"),
        (["recipes"], "quantkit.recipes/1"),
        (["recipes", "show", "q4_k_m"], "quantkit.recipe/1"),
        (["doctor"], "quantkit.doctor/1"),
        (["inspect", TINY], "quantkit.inspect/1"),
        (["plan", TINY, "--to", "q4_k_m,q8_0"], "quantkit.plan/1"),
    ],
)
def test_json_is_one_object_with_its_schema(arguments: list[object], schema: str) -> None:
    outcome = quantkit(*arguments, "--json")
    assert outcome.status == 0, outcome.stderr
    assert outcome.json["schema"] == schema
    text = quantkit(*arguments)
    assert text.status == 0
    assert text.stdout.strip()


def test_events_and_log_files(tmp_path: Path) -> None:
    events, log = tmp_path / "events.jsonl", tmp_path / "log.txt"
    outcome = quantkit(
        "convert", TINY, "--to", "q8_0", "-o", tmp_path / "m.gguf", "--events", events, "--log-file", log, "--quiet"
    )
    assert outcome.status == 0, outcome.stderr
    said = [json.loads(line) for line in events.read_text().splitlines()]
    names = [body["event"] for body in said]
    assert (names[0], names[1], names[-1]) == ("RunStarted", "StageStarted", "RunFinished")
    assert {"TensorProgress", "StageFinished", "Published"} <= set(names)
    assert {body["schema"] for body in said} == {"quantkit.event/1"}
    times = [body["time"] for body in said]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) ", line) for line in lines)
    assert "blk.0.attn_q.weight" in log.read_text()


def test_failures_are_in_the_events_and_the_log(tmp_path: Path) -> None:
    events, log = tmp_path / "events.jsonl", tmp_path / "log.txt"
    outcome = quantkit("inspect", tmp_path / "nothing", "--events", events, "--log-file", log)
    last = json.loads(events.read_text().splitlines()[-1])
    assert (last["event"], last["exit"], last["code"]) == ("RunFailed", outcome.status, "input")
    assert " ERROR   inspect failed with exit 3: [input]" in log.read_text()


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\u202ed") == "a\\x1b[31mb\\nc\\u202ed"


def test_tokens_are_never_shown() -> None:
    outcome = quantkit("convert", "/no/hf_abcdefghijklmnopqrstuvwx", "--json")
    assert outcome.status == 3
    assert "hf_abcdefgh" not in outcome.stdout + outcome.stderr


def test_events_call_a_command_by_its_name(tmp_path: Path) -> None:
    """Not by that of one of its options."""
    quantkit("inspect", TINY, "--events", tmp_path / "e.jsonl", "--quiet")
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[0])["command"] == "inspect"
