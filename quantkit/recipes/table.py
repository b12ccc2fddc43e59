"""A table of a TOML file that comes from outside, read key by key with messages that name the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TypeVar

from quantkit.errors import RecipeError, did_you_mean
from quantkit.records import record
from quantkit.untrusted import shown

EXAMPLE = "`quantkit recipes show q4_k_m` prints a recipe to compare with"
MAX_TABLES = 512
MAX_GLOBS = 100
MAX_GLOB_LENGTH = 200
MAX_TEXT = 1000  # of a summary or a reason
MAX_NUMBER = 1 << 53  # the integers below are floats, too

T = TypeVar("T")


@record
class Table:
    """A table of a recipe file with what error messages need: the file, and the key path that leads here."""

    file: str
    path: str
    values: Mapping[str, object]

    def error(self, key: str, problem: str, hint: str | None = None) -> RecipeError:
        where = shown(".".join(word for word in (self.path, key) if word))
        return RecipeError(f"{self.file}: {where}: {problem}", path=self.file, key=where, hint=hint or EXAMPLE)

    def unknown(self, key: str, value: str, known: Sequence[str]) -> RecipeError:
        return self.error(key, f'unknown "{shown(value)}"{did_you_mean(value, known)}', f"known: {', '.join(known)}")

    def only(self, *known: str) -> None:
        """Reject keys that nobody reads: they are typing errors."""
        for key in self.values:
            if key not in known:
                raise self.error(key, f"unknown key{did_you_mean(key, known)}", f"known keys: {', '.join(known)}")

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value of `key`, which must be of exactly that type; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) is not kind:
            names = {str: "a string", int: "an integer", bool: "true or false", list: "an array", dict: "a table"}
            raise self.error(key, f"expected {names[kind]}, found {shown(repr(value))}")
        assert isinstance(value, kind)
        return value

    def need(self, key: str, kind: type[T]) -> T:
        value = self.get(key, kind)
        if value is None:
            raise self.error(key, "is missing")
        return value

    def text(self, key: str) -> str:
        """A string that is only shown, fit for a terminal; empty when absent."""
        return shown(self.get(key, str) or "", MAX_TEXT)

    def number(self, key: str) -> float | None:
        """A finite number, an integer or not; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not (type(value) is float and isfinite(value)) and not (type(value) is int and abs(value) < MAX_NUMBER):
            raise self.error(key, f"expected a finite number, found {shown(repr(value))}")
        assert isinstance(value, int | float)
        return float(value)

    def strings(self, key: str) -> tuple[str, ...]:
        found: list[object] = self.get(key, list) or []
        if not all(isinstance(word, str) for word in found):
            raise self.error(key, "expected an array of strings")
        return tuple(str(word) for word in found)

    def globs(self, key: str) -> tuple[str, ...]:
        globs = self.strings(key)
        if len(globs) > MAX_GLOBS or any(len(g) > MAX_GLOB_LENGTH for g in globs):
            raise self.error(key, f"more than {MAX_GLOBS} globs, or one of more than {MAX_GLOB_LENGTH} characters")
        return globs

    def one_of(self, key: str, known: Sequence[str]) -> str | None:
        value = self.get(key, str)
        if value is not None and value not in known:
            raise self.unknown(key, value, known)
        return value

    def some_of(self, key: str, known: Sequence[str]) -> tuple[str, ...]:
        values = self.strings(key)
        for value in values:
            if value not in known:
                raise self.unknown(key, value, known)
        return values

    def table(self, key: str) -> Table:
        found: dict[str, object] = self.get(key, dict) or {}
        return Table(self.file, ".".join(word for word in (self.path, key) if word), found)

    def tables(self, key: str) -> tuple[Table, ...]:
        found: list[object] = self.get(key, list) or []
        if len(found) > MAX_TABLES:
            raise self.error(key, f"{len(found)} entries, more than {MAX_TABLES}")
        tables = []
        for number, entry in enumerate(found):
            if not isinstance(entry, dict):
                raise self.error(f"{key}[{number}]", "expected a table")
            tables.append(Table(self.file, f"{key}[{number}]", entry))
        return tuple(tables)
