"""Command lines where modules are not installed, in a process of its own: `blocked.py MODULE,... < commands.json`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence


class Absent:
    """A finder that knows some modules not to be there, whatever comes behind it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    absent = sys.argv[1].split(",")
    sys.meta_path.insert(0, Absent(absent))
    from quantkit.cli.main import main as quantkit

    outcomes = []
    for command in json.load(sys.stdin):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = quantkit(command)
        outcomes.append({"status": status, "stdout": out.getvalue(), "stderr": err.getvalue()})
    assert not {name.partition(".")[0] for name in sys.modules} & {*absent}
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
