"""What hostile input may cost, on machines of every speed.

Limits are seconds of a processor that makes 20 million steps of a loop of Python in one. Where a limit is passed, the
machine is asked how fast it is at that moment, and the limit grows by as much as it is slower.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STEPS = 1_000_000
STEPS_A_SECOND = 20_000_000


def slowness() -> float:
    """How many times as long this machine takes for a step, by the best of some loops; at least 1."""
    took = []
    for _ in range(5):
        start, steps = time.process_time(), 0
        while steps < STEPS:
            steps += 1
        took.append(time.process_time() - start)
    return max(1.0, min(took) / STEPS * STEPS_A_SECOND)


def check(used: float, seconds: float) -> None:
    """Seconds of processor time are within a limit."""
    assert used < seconds or used < seconds * slowness(), f"{used:.2f} s of {seconds} s"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done inside takes no more processor time."""
    start = time.process_time()
    yield
    check(time.process_time() - start, seconds)
