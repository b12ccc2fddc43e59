"""Matrices of small real models, as tasks and as what a place is told of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantkit.batch.faults import Faults
from quantkit.batch.place import Outcome, Setup
from quantkit.batch.task import Task
from quantkit.pipeline.batch import BatchRequest, Expanded, expand, setup_of

TINY = Path(__file__).parents[1] / "data" / "docs-llama-tiny"


def matrix(folder: Path, models: int, recipes: tuple[str, ...] = ("q8_0",), more: str = "") -> Path:
    """A matrix of that many names for one small model."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = "".join(f'[[models]]\nname = "m{n}"\nsource = "{TINY.resolve()}"\n' for n in range(models))
    entries += "".join(f'[[recipes]]\nto = "{each}"\n' for each in recipes)
    path = folder / "matrix.toml"
    path.write_text(f"{entries}[batch]\nverify = false\n{more}")
    return path


def expanded(path: Path, **request: Any) -> tuple[list[Task], Setup]:
    """The tasks of a matrix, and what a place is told."""
    asked = BatchRequest(path, threads=1, **request)
    faults = Faults()
    found: Expanded = expand(asked, faults)
    faults.require_none()
    return [wish.task for wish in found.wishes], setup_of(asked, found)


def artifacts(out: Path) -> dict[str, bytes]:
    """The files of a batch by their names, without its records."""
    files = (path for path in sorted(out.rglob("*.gguf")) if ".quantkit-" not in str(path.relative_to(out)))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def leftovers(out: Path) -> list[str]:
    """Work in progress that nothing is at work on any more."""
    return [str(p) for p in out.rglob(".quantkit-*") if p.name != ".quantkit-batch" and not p.name.endswith(".json")]


class Heard(list[Outcome]):
    """What a place reported. `after` is called with it each time."""

    def __init__(self, after: Callable[[Heard], None] = lambda heard: None) -> None:
        super().__init__()
        self.after = after

    def __call__(self, outcome: Outcome) -> None:
        self.append(outcome)
        self.after(self)

    @property
    def exits(self) -> dict[str, int]:
        assert len({each.task for each in self}) == len(self), "each is reported once"
        return {each.task: each.exit for each in self}
