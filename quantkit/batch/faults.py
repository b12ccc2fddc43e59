"""All that is wrong with a matrix, said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from quantkit.errors import InputError, QuantkitError, ResourceError, UnsupportedError, UsageError

T = TypeVar("T")

# The first of these that is there decides how the command ends.
ORDER = (UsageError, InputError, UnsupportedError, ResourceError)
MAX_FAULTS = 1000  # what one wrong line does to a large matrix need not be said ten thousand times


@dataclass
class Faults:
    """What was found so far."""

    found: list[QuantkitError] = field(default_factory=list)

    def add(self, error: QuantkitError) -> None:
        """Remember a fault; the same words once."""
        if len(self.found) < MAX_FAULTS and all(error.message != known.message for known in self.found[-50:]):
            self.found.append(error)

    def tried(self, make: Callable[[], T]) -> T | None:
        """What `make` returns; None where it raises, and then its error is one of the faults."""
        try:
            return make()
        except QuantkitError as error:
            for each in (error, *error.others):
                self.add(each)
            return None

    def require_none(self) -> None:
        """Raise the first of the worst kind, with all others in its `others`."""
        if not self.found:
            return
        first, *others = sorted(self.found, key=_rank)
        first.others = tuple(others)
        raise first


def _rank(error: QuantkitError) -> int:
    return next((rank for rank, kind in enumerate(ORDER) if isinstance(error, kind)), len(ORDER))


def together(errors: Iterable[QuantkitError]) -> Faults:
    """Faults that are known already."""
    found = Faults()
    for error in errors:
        found.add(error)
    return found
