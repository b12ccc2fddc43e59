"""Limits of what something may cost grow with the time that a machine takes for a step, and are limits all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator

import machine_speed
import pytest


def steps(millions: float) -> None:
    left = int(millions * 1e6)
    while left:
        left -= 1


def test_what_costs_too_much_is_found() -> None:
    with machine_speed.within(60):
        steps(0.1)
    with pytest.raises(AssertionError, match=r"s of 0\.001 s"), machine_speed.within(0.001):
        steps(3)


def test_a_slower_machine_is_given_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(loop: float) -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += loop

    for loop, slower in ((0.01, 1.0), (0.05, 1.0), (0.2, 4.0)):
        monkeypatch.setattr(time, "process_time", clock(loop).__next__)
        assert machine_speed.slowness() == pytest.approx(slower)
    machine_speed.check(7.9, 2)
    with pytest.raises(AssertionError, match=r"8\.10 s of 2 s"):
        machine_speed.check(8.1, 2)
