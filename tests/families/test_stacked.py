"""Experts in stacks: each matrix is found as (out, in), however the stack lies."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.families.stacked import FLAT, flat_modules, matrix_of, matrix_of_flat, turned_modules
from quantkit.source.memory import MemoryCheckpoint

EXPERTS, HIDDEN, INNER = 3, 8, 6
RNG = np.random.default_rng(7)
GATE, UP = RNG.standard_normal((2, EXPERTS, INNER, HIDDEN)).astype(np.float32)
DOWN = RNG.standard_normal((EXPERTS, HIDDEN, INNER)).astype(np.float32)


@pytest.mark.parametrize(("turned", "alternating"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_the_matrices_of_a_stack_are_those_of_its_experts(turned: bool, alternating: bool, suffix: str) -> None:
    both = np.stack([GATE, UP], axis=2).reshape(EXPERTS, -1, HIDDEN) if alternating else np.hstack([GATE, UP])
    stacks = {"gate_up_proj": both, "down_proj": DOWN}
    stored = {
        f"m.experts.{name}{suffix}": np.ascontiguousarray(np.swapaxes(stack, 1, 2)) if turned else stack
        for name, stack in stacks.items()
    }
    checkpoint = MemoryCheckpoint({}, stored)
    infos = checkpoint.tensors()
    assert turned_modules(infos) == ({"m.experts"} if turned else set())
    for stack, place, expected in (
        ("gate_up_proj", (0, 2), GATE), ("gate_up_proj", (1, 2), UP), ("down_proj", (0, 1), DOWN),
    ):  # fmt: skip
        for expert in range(EXPERTS):
            info = infos[f"m.experts.{stack}{suffix}"]
            rows, shape = matrix_of(info, expert, place, turned=turned, alternating=alternating)
            assert shape == expected.shape[1:]
            assert rows.rows == shape[0]
            found = np.concatenate([rows.read(checkpoint.ref, 0, 2), rows.read(checkpoint.ref, 2, rows.rows)])
            assert np.array_equal(found, expected[expert])


def test_the_matrices_of_flat_stacks_are_those_of_its_experts() -> None:
    wanted = {"gate": GATE, "up": UP, "down": DOWN}
    lying = {"gate": GATE, "up": UP, "down": np.swapaxes(DOWN, 1, 2)}
    stored = {f"m.experts.{FLAT[which]}": stack.reshape(-1, HIDDEN) for which, stack in lying.items()}
    checkpoint = MemoryCheckpoint({}, stored)
    infos = checkpoint.tensors()
    assert flat_modules(infos) == {"m.experts"}
    for which, expected in wanted.items():
        for expert in range(EXPERTS):
            rows, shape = matrix_of_flat(infos[f"m.experts.{FLAT[which]}"], expert, which, INNER)
            assert shape == expected.shape[1:]
            assert np.array_equal(rows.read(checkpoint.ref, 0, rows.rows), expected[expert])
