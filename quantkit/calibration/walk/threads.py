"""Worker threads whose torch is single-threaded, so that results do not depend on how many there are.

A matrix product that torch spreads over several threads may sum in another order than one that runs on a single
thread (measured: a float32 product of 5 x 4096 by 4096 x 512 differs in its last bits between one and two threads).
So work is cut into pieces whose size never depends on the number of threads, each piece is computed on one thread,
and pieces are added up in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from quantkit.records import record

Item = TypeVar("Item")
Result = TypeVar("Result")

WAVE = 2  # items for each thread that are given at once: the fewer waves, the less threads wait for each other


@record
class Workers:
    """`count` threads; without a pool, the calling thread does the work (CUDA: the device is the parallel part)."""

    count: int
    pool: ThreadPoolExecutor | None

    @property
    def wave(self) -> int:
        """How many items to give at once where not all are given."""
        return 1 if self.pool is None else WAVE * self.count

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results in the order of `items`. The first exception is raised here."""
        if self.pool is None:
            return [function(item) for item in items]
        return list(self.pool.map(function, items))

    def map_beside(
        self, function: Callable[[Item], Result], items: Iterable[Item], others: Iterable[Callable[[], None]]
    ) -> list[Result]:
        """The same, with other tasks that begin when all items have begun, and end before this returns; where an
        item raises, they are not waited for."""
        if self.pool is None:
            results = self.map(function, items)
            self.map(lambda task: task(), others)
            return results
        found = self.pool.map(function, items)
        beside = self.pool.map(lambda task: task(), others)
        results = list(found)
        list(beside)
        return results


@contextmanager
def workers(threads: int, device: torch.device) -> Iterator[Workers]:
    """Worker threads without gradients. The calling thread's settings are as before when the context is left."""
    with torch.no_grad():
        if device.type != "cpu":
            yield Workers(1, None)
            return
        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="calibrate", initializer=_single_threaded)
        try:
            yield Workers(threads, pool)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def _single_threaded() -> None:
    """Both settings belong to a thread; a new one does not inherit its parent's (measured, torch 2.13)."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
