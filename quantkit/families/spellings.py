"""Spellings of source names: brought into the one that rows have, and back into that of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from quantkit.families.model import Rows
from quantkit.records import record
from quantkit.tensors import TensorInfo


@record
class Rename:
    """A spelling of source names: what `pattern` (a regular expression) finds is replaced by `to`.

    "{}" in `to` is the number of a block after the last layer: the pattern's first group counts them from 0. `back` is
    how checkpoints spell what `to` begins, of blocks after the last layer: "{}" counts them from 0, without it only the
    first is so called. Without a number in `to` it is how they spell whatever begins so.
    """

    pattern: str
    to: str
    back: str | None = None

    def apply(self, name: str, layers: int) -> str:
        """The name as rows have it, of a model with so many layers."""

        def replaced(found: re.Match[str]) -> str:
            number = int(found[1]) if found.re.groups and found[1].isdecimal() else 0
            return found.expand(self.to).replace("{}", str(layers + number))

        return re.sub(self.pattern, replaced, name, count=1)

    def undo(self, name: str, layers: int) -> str | None:
        """The name that a checkpoint has for that of rows; None where it is not spelled so."""
        start, number_follows, end = self.to.partition("{}")
        if self.back is not None and not number_follows:
            return self.back + name.removeprefix(start) if name.startswith(start) else None
        found = re.match(f"{re.escape(start)}([0-9]+){re.escape(end)}", name) if self.back is not None else None
        number = int(found[1]) - layers if found else -1
        if found is None or self.back is None or number < 0 or (number and "{}" not in self.back):
            return None
        return self.back.format(number) + name[found.end() :]


@record
class Published:
    """How files were published, where transformers has other names in memory than files.

    `names` are (regular expression, replacement) for a name in memory, one after the other. `pieces` are, by the end of
    a module's name in files, those in memory that it becomes, one below the other, each of as many rows.
    """

    names: tuple[tuple[str, str], ...] = ()
    pieces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def spellings(self, parameter: str) -> Iterator[str]:
        """The names that a parameter may have in files besides those of all families."""
        if self.names:
            found = parameter
            for pattern, replacement in self.names:
                found = re.sub(pattern, replacement, found)
            yield found
            yield f"model.{found}"

    def pieces_of(self, info: TensorInfo) -> Iterator[tuple[str, Rows]]:
        """The modules that a matrix becomes, by their names, and its rows; itself where it stays whole."""
        module = info.name.removesuffix(".weight")
        for end, names in self.pieces.items():
            if module.endswith(f".{end}"):
                step = info.rows // len(names)
                for number, name in enumerate(names):
                    yield module.removesuffix(end) + name, Rows(info.name, number * step, (number + 1) * step)
                return
        yield module, Rows(info.name, 0, info.rows)


AS_IN_MEMORY = Published()


def spelled(spellings: Sequence[Rename], name: str, layers: int) -> str:
    """The name that a checkpoint has for one that rows use; of several spellings the last that has one counts."""
    found = (spelling.undo(name, layers) for spelling in reversed(spellings))
    return next((each for each in found if each is not None), name)
