"""What messages tell the user to type exists: every command and every option of it, in every string of the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from quantkit.cli.app import program

ROOT = Path(__file__).parent.parent
STYLES = ROOT / "quantkit" / "report" / "html" / "style.py"  # names of a style sheet begin like options
SOURCES = sorted(path for path in (ROOT / "quantkit").rglob("*.py") if path != STYLES)
COMMANDS = program().commands
QUOTED = re.compile(r"`quantkit ([^`]*)`")
NAMED = re.compile(r"\bquantkit ([a-z]+)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")

# Verbs of sentences about quantkit, which are no commands.
WORDS = {"is", "has", "cannot", "can", "knows", "writes", "raises", "needs", "itself", "for", "error", "does", "read",
         "did", "makes", "gives", "tells", "prints", "reads", "was", "made", "import", "qtype", "probe",
         "imports", "quantizes"}  # fmt: skip

# Options of other programs that messages name: pip's, git's, those of engines and of llama.cpp's tools.
FOREIGN = {
    "--chat-template",
    "--lora",
    "--user-repo",
    "--merge",
    "--load-format",
    "--dtype",
    "--upgrade",
    "--force-reinstall",
    "--target-model-dir",
    "--tensor-type",
    "--tensor-parallel-size",
    "--copy",
    "--tokenizer",
    "--model-path",
    "--model",
    "--prompt",
    "--reranking",
    "--no-",  # what the opposite of an option begins with
    "--memory-limit",  # of Dask's workers
    *(f"--{name}" for name in (  # of Slurm's commands
        "allocations", "array", "chdir", "cpus-per-task", "format", "full", "job-name", "jobs", "me", "mem", "name",
        "noheader", "nodes", "ntasks", "open-mode", "output", "parsable", "requeue", "signal", "state",
    )),
}  # fmt: skip


def texts(path: Path) -> list[tuple[int, str]]:
    """Every string of a module with its line; what is filled in later is a word "X".

    Of docstrings, which nobody is told, only what stands in backquotes.
    """
    found = []
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values]
            found.append((node.lineno, "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            quoted = " ".join(f"`quantkit {rest}`" for rest in QUOTED.findall(node.value))
            found.append((node.lineno, quoted if id(node) in docstrings else node.value))
    return found


def options_of(command: str) -> set[str]:
    """The options of a command, of a group those of its members."""
    members = [COMMANDS[command], *getattr(COMMANDS[command], "commands", {}).values()]
    params = [parameter for member in members for parameter in member.params]
    return {name for parameter in params for name in (*parameter.opts, *parameter.secondary_opts)}


ALL_OPTIONS = set().union(*(options_of(command) for command in COMMANDS)) | {"--version", "--help"}


def quoted_faults(text: str) -> list[str]:
    """Commands in backquotes, and options of theirs, that do not exist."""
    wrong = []
    for quoted in QUOTED.findall(text):
        words = quoted.split()
        if words and words[0] not in COMMANDS and not words[0].startswith(("-", "X")):
            wrong.append(f"quantkit {words[0]}")
        elif words and words[0] in COMMANDS:
            known = options_of(words[0]) | {"--help"}
            wrong += [f"quantkit {words[0]} {option}" for option in OPTION.findall(quoted) if option not in known]
    return wrong


def faults(text: str) -> list[str]:
    """What a message tells the user to type and does not exist."""
    wrong = quoted_faults(text)
    wrong += [f"quantkit {word}" for word in NAMED.findall(text) if word not in COMMANDS and word not in WORDS]
    return wrong + [option for option in OPTION.findall(text) if option not in ALL_OPTIONS | FOREIGN]


def test_every_command_and_option_in_a_message_exists() -> None:
    said = [(path, line, text) for path in SOURCES for line, text in texts(path)]
    assert [f"{path}:{line}: {fault}" for path, line, text in said for fault in faults(text)] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_every_command_in_the_documentation_exists(page: Path) -> None:
    assert not quoted_faults(page.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "measure with quantkit judge",
        "run `quantkit evaluate X`",
        "use `quantkit verify X --sources Y`",
        "give --calibration FILE",
    ],
)
def test_what_does_not_exist_is_seen(text: str) -> None:
    assert faults(text)


def test_what_exists_is_not() -> None:
    assert not faults("use `quantkit verify X --against SRC --engine torch`, or --to q4_k_m; quantkit cannot know")
