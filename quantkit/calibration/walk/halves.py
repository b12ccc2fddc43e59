"""Gate and up that are one matrix in memory and two in files (MiniMax M3): two linears here, as files have them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from quantkit.calibration.walk.weights import Held, named

BOTH, GATE, UP = "gate_up_proj", "gate_proj", "up_proj"


def part(block: nn.Module, prefix: str, held: Held) -> None:
    """Replace each joined matrix of `block` (on the meta device) whose gate has a tensor of its own by two linears.

    `prefix` is the name of the block with a dot behind it.
    """
    for path, module in list(block.named_modules()):
        both = getattr(module, BOTH, None)
        if isinstance(both, nn.Linear) and named(f"{prefix}{path}.{GATE}.weight", held) is not None:
            with torch.device("meta"):
                gate, up = (
                    nn.Linear(both.in_features, both.out_features // 2, bias=both.bias is not None) for _ in "gu"
                )
            delattr(module, BOTH)
            module.add_module(GATE, gate)
            module.add_module(UP, up)
            setattr(module, BOTH, partial(_both, gate, up))  # not `module`: a cycle would keep the block in memory


def _both(gate: nn.Linear, up: nn.Linear, hidden: Tensor) -> Tensor:
    return torch.cat([gate(hidden), up(hidden)], dim=-1)
