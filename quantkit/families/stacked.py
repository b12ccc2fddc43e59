"""Experts that are stored as stacks of matrices, some of them lying as (in, out), where engines expect (out, in).

Only gpt-oss has biases in its stacks, and only there do the columns of gate and up alternate. DBRX has flat stacks,
matrices of (experts * inner, hidden), in which what the others call "down" lies as (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quantkit.families.layouts import rows, turn
from quantkit.families.model import Rows
from quantkit.families.roles import Role
from quantkit.families.rows import T
from quantkit.tensors import TensorInfo

GATE_UP, DOWN = "gate_up_proj", "down_proj"
BIAS = "_bias"
FLAT = {"gate": "mlp.w1", "up": "mlp.v1", "down": "mlp.w2"}  # of DBRX, below the module of its experts


def turned_stacks(module: str, width: str) -> tuple[T, ...]:
    """The experts below `module`, of inner width `width`: gate and up side by side in one stack."""
    gate_up, down = f"{module}.experts.gate_up_proj", f"{module}.experts.down_proj"
    wide = f"num_local_experts hidden_size 2*{width}"
    return (
        T(gate_up, "ffn_gate_exps.weight", Role.FFN_GATE, wide, turn >> rows("0", width)),
        T(gate_up, "ffn_up_exps.weight", Role.FFN_UP, wide, turn >> rows(width, f"2*{width}")),
        T(down, "ffn_down_exps.weight", Role.FFN_DOWN, f"num_local_experts {width} hidden_size", turn),
    )


def turned_modules(tensors: Mapping[str, TensorInfo]) -> frozenset[str]:
    """The modules of experts whose two stacks lie as (experts, in, out), by their names."""
    found = set()
    for name, info in tensors.items():
        bare = name.removesuffix(".weight")
        down = tensors.get(name.replace(GATE_UP, DOWN)) if bare.endswith(GATE_UP) else None
        if down is not None and lies_turned(info.shape, down.shape):
            found.add(bare.removesuffix(f".{GATE_UP}"))
    return frozenset(found)


def biased_modules(tensors: Mapping[str, TensorInfo]) -> frozenset[str]:
    """The modules of experts whose stacks have biases beside them, by their names."""
    end = f".{GATE_UP}{BIAS}"
    return frozenset(name.removesuffix(end) for name in tensors if name.endswith(end))


def flat_modules(tensors: Mapping[str, TensorInfo]) -> frozenset[str]:
    """The modules of experts whose stacks are flat, by their names."""
    end = f".{FLAT['up']}"
    return frozenset(name.removesuffix(end) for name in tensors if name.endswith(end))


def lies_turned(gate_up: tuple[int, ...], down: tuple[int, ...]) -> bool:
    """Whether stacks of these shapes lie as (experts, hidden, 2 * inner) and (experts, inner, hidden).

    No shapes lie in both ways: gate and up are twice as many as what the other reads.
    """
    return len(gate_up) == len(down) == 3 and gate_up[1] == down[2] and gate_up[2] == 2 * down[1]


def matrix_of(
    info: TensorInfo, expert: int, part: tuple[int, int], *, turned: bool, alternating: bool = False
) -> tuple[Rows, tuple[int, int]]:
    """Where the matrix of one expert lies in a stack of which it is part (number, of how many), and its (out, in).

    Parts lie one after the other, or `alternating` in the columns of a stack that is turned.
    """
    place, parts = part
    _, height, width = info.shape
    start = expert * height
    if turned:
        rows_of_it = width // parts
        columns = range(place, width, parts) if alternating else range(place * rows_of_it, (place + 1) * rows_of_it)
        return Rows(info.name, start, start + height, columns), (rows_of_it, height)
    rows_of_it = height // parts
    start += place * rows_of_it
    return Rows(info.name, start, start + rows_of_it), (rows_of_it, width)


def matrix_of_flat(info: TensorInfo, expert: int, which: str, inner: int) -> tuple[Rows, tuple[int, int]]:
    """Where one expert's "gate", "up" or "down" of this inner width lies in a flat stack, and its (out, in)."""
    rows, cols = info.shape
    return matrix_of(replace(info, shape=(rows // inner, inner, cols)), expert, (0, 1), turned=which == "down")
