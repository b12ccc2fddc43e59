"""Experts that are stored as stacks of matrices lying as (in, out), where engines expect (out, in)."""

from __future__ import annotations

from quantkit.families.layouts import rows, turn
from quantkit.families.roles import Role
from quantkit.families.rows import T


def turned_stacks(module: str, width: str) -> tuple[T, ...]:
    """The experts below `module`, of inner width `width`: gate and up side by side in one stack."""
    gate_up, down = f"{module}.experts.gate_up_proj", f"{module}.experts.down_proj"
    wide = f"num_local_experts hidden_size 2*{width}"
    return (
        T(gate_up, "ffn_gate_exps.weight", Role.FFN_GATE, wide, turn >> rows("0", width)),
        T(gate_up, "ffn_up_exps.weight", Role.FFN_UP, wide, turn >> rows(width, f"2*{width}")),
        T(down, "ffn_down_exps.weight", Role.FFN_DOWN, f"num_local_experts {width} hidden_size", turn),
    )
