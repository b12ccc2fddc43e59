"""The package with files added to it, in a folder of its own, and commands run by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from commands import Outcome

ROOT = Path(__file__).parent.parent

# Runs each command line of a JSON list from standard input and prints what came of it, a line each.
RUNNER = """
import contextlib, io, json, sys
from quantkit.cli.main import main
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


def house_with(folder: Path, files: Mapping[str, str]) -> Path:
    """A copy of quantkit/ and recipes/ in `folder`, of links to save time, with more files; the copy's folder.

    Folders of compiled loops are linked, too: the copy need not compile them again.
    """
    for top in ("quantkit", "recipes"):
        for parent, folders, names in os.walk(ROOT / top):
            here = folder / Path(parent).relative_to(ROOT)
            here.mkdir(parents=True)
            linked = [name for name in folders if name == "__pycache__"]
            folders[:] = [name for name in folders if name not in linked]
            for name in (*names, *linked):
                (here / name).symlink_to(Path(parent, name))
    for path, text in files.items():
        (folder / path).write_text(text)
    return folder


def run_all(house: Path, commands: Iterable[Sequence[object]], cwd: Path) -> list[Outcome]:
    """What each command line gives, run one after the other by one process of that house."""
    lines = [[str(argument) for argument in command] for command in commands]
    environment = os.environ | {"PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(lines),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return [Outcome(*json.loads(line)) for line in found.stdout.splitlines()]
