"""How a method runs: order of columns, damping, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol, TypeVar

from quantkit.records import record

REFIT_REACH = 0.1  # of its value, how far a norm may go that is fitted to rounded weights: nothing came near it

Item = TypeVar("Item")

Result = TypeVar("Result")


class Run(Protocol):
    """Does independent tasks, each on one thread whose torch is single-threaded, and gives results in order.

    `Workers.map` of quantkit.calibration is one. Tasks are cut independently of the number of threads, so that codes
    do not depend on it.
    """

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> list[Result]: ...


def in_turn(function: Callable[[Item], Result], items: Iterable[Item], /) -> list[Result]:
    """Do the tasks one after the other on the calling thread, whose torch is single-threaded meanwhile."""
    with single_threaded():
        return [function(item) for item in items]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch of the calling thread on one thread: what a matrix product gives depends on how many there are."""
    import torch  # whoever only asks for a setting does without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Order(StrEnum):
    """In which order column feedback visits the columns.

    STORAGE     as they are stored
    WITHIN      spans by their largest diagonal, and columns by diagonal inside a span: nothing shows on disk (GAR)
    ACTIVATION  all columns by diagonal, on grids fitted to the original weights: nothing shows on disk either
    PERMUTED    all columns by diagonal, and spans are made of columns in that order: the file must hold the order
    """

    STORAGE = "storage"
    WITHIN = "within"
    ACTIVATION = "activation"
    PERMUTED = "permuted"


@record
class Settings:
    """What a user may choose; a method uses what concerns it.

    `damping` is the share of the Hessian's mean diagonal that is added to its diagonal. `order` is the target's own
    where it is None: see `gptq.visiting`. `static` fits all grids to
    the original weights, not to those that feedback has changed (ACTIVATION always does). `shares` are the shares of
    a span's range that are tried where a target does not search by itself; the first must be 1. `passes` is how
    often coordinate descent goes over all scales and codes afterwards. `rounds` is how often the columns of a GGUF type
    are then rounded with feedback again, on the scales that descent has refitted, and descended on: codes that one
    change at a time does not reach.
    """

    damping: float = 0.03
    order: Order | None = None
    static: bool = False
    shares: tuple[float, ...] = tuple(1 - step / 40 for step in range(3))
    passes: int = 4
    rounds: int = 1


DEFAULTS = Settings()
