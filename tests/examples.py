"""The examples of a document: its commands in order, what it shows below them, and running them.

Commands are the lines of ```bash blocks and, in ```console blocks, the lines that begin with "$ "; what follows those
until the next is what the reader sees. Lines that end in a backslash go on in the next. Python is in ```pycon blocks.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantkit.cli.main import main

# Programs of other projects, and what needs a network, a server or a display: named on pages, not run by tests.
FOREIGN = frozenset({"brew", "curl", "docker", "git", "hf", "llama-cli", "llama-server", "lms", "make", "ollama", "pip",
                     "source", "trtllm-serve", "vllm"})  # fmt: skip
ASK = "echo $?"
SHELL = re.compile(r"[|<>;&]|\$\(")
INTO_FILE = re.compile(r"(.*?)(?: > ([\w./-]+))?")
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Example:
    """A command, and what the page shows below it; None where it shows nothing."""

    command: str
    shown: str | None = None

    @property
    def program(self) -> str:
        return self.command.split()[0]

    @property
    def runs(self) -> bool:
        """Whether it can be run here: a command of quantkit on local files, or of the shell."""
        return self.program not in FOREIGN and "hf://" not in self.command


def examples(path: Path) -> list[Example]:
    """All commands of a document, in order."""
    return [example for language, text in blocks(path) for example in _examples(language, text)]


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block, also of those that are indented."""
    for found in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        indent, language, text = found.groups()
        yield language, "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


def _examples(language: str, text: str) -> Iterator[Example]:
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    if language == "bash":
        for line in lines:
            if command := line.partition(" #")[0].strip():
                yield Example(command)
    if language == "console":
        for part in re.split(r"^\$ ", "\n".join(lines), flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield Example(command.partition(" #")[0].strip(), shown.rstrip() or None)


@dataclass
class Shell:
    """Runs examples in the current folder; knows the exit status of the last, as a shell does."""

    status: int = 0

    def run(self, example: Example) -> str:
        """Run a command and return what it says, both streams as a terminal shows them."""
        if example.command == ASK:
            return f"{self.status}\n"
        command, target = INTO_FILE.fullmatch(example.command).groups()  # type: ignore[union-attr]
        if example.program == "quantkit" and not SHELL.search(re.sub(r"'[^']*'|\"[^\"]*\"", "", command)):
            said, data = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(data if target else said), contextlib.redirect_stderr(said):
                self.status = main([name for word in shlex.split(command)[1:] for name in _names(word)])
            if target:
                Path(target).write_text(data.getvalue(), encoding="utf-8")
            return said.getvalue()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", example.command], env=os.environ | {"PATH": path}, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.status = done.returncode
        return done.stdout


def _names(word: str) -> list[str]:
    """A word as a shell hands it over: the files that a pattern names, else itself."""
    return sorted(map(str, Path().glob(word))) or [word] if "*" in word else [word]


def wrong(path: Path) -> Iterator[str]:
    """Run the examples of a document in the current folder; what fails, or shows other words than the page."""
    shell, listed = Shell(), [example for example in examples(path) if example.runs]
    for number, example in enumerate(listed):
        said = shell.run(example)
        asked = listed[number + 1].command if number + 1 < len(listed) else ""
        if shell.status != 0 and ASK not in (example.command, asked):
            yield f"{example.command}: exit {shell.status}\n{said}"
        elif example.shown is not None and not doctest.OutputChecker().check_output(f"{example.shown}\n", said, SAME):
            yield f"{example.command}\n--- the page shows\n{example.shown}\n--- it says\n{said}"


def wrong_python(path: Path) -> Iterator[str]:
    """Run the ```pycon blocks of a document as one session; what comes out otherwise than the page shows."""
    source = "\n".join(text for language, text in blocks(path) if language == "pycon")
    test = doctest.DocTestParser().get_doctest(source, {}, path.name, str(path), 0)
    said: list[str] = []
    with np.printoptions():  # what a page sets is its own
        doctest.DocTestRunner(verbose=False, optionflags=SAME).run(test, out=said.append)
    yield from said
