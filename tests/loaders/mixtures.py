"""Small mixtures of experts as the Hub has them, expert by expert, and their weights as transformers holds them.

Since transformers 5 a block has all of its experts in two tensors, "gate_up_proj" and "down_proj".
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from checkpoints import Variant, build_variant
from torch import Tensor
from transformers import PreTrainedModel

SIZES = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "num_experts_per_tok": 2,
}  # fmt: skip
MIXTURES = {
    "mixtral": Variant("Mixtral", {**SIZES, "num_local_experts": 3}),
    "qwen3-moe": Variant("Qwen3Moe", {**SIZES, "moe_intermediate_size": 256, "num_experts": 3, "head_dim": 64}),
}
EXPERT = re.compile(r"model\.layers\.(\d+)\.\w+\.experts\.(\d+)\.(\w+)\.weight")
GATE, UP, DOWN = ("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")
# Several blocks of 128 each way: of a single one, loaders do not notice which is which.


def build(family: str, folder: Path) -> Path:
    return build_variant(MIXTURES[family], folder / family)


def stacked(decoded: dict[str, Tensor]) -> dict[str, Tensor]:
    """The experts' weights as transformers names and stacks them, [experts, rows, columns]."""
    found: dict[int, dict[str, dict[int, Tensor]]] = {}
    for name, weight in decoded.items():
        if match := EXPERT.fullmatch(name):
            layer, expert, which = match.groups()
            kind = next(kinds[0] for kinds in (GATE, UP, DOWN) if which in kinds)
            found.setdefault(int(layer), {}).setdefault(kind, {})[int(expert)] = weight
    stacks = {}
    for layer, kinds in found.items():
        gate, up, down = (torch.stack([kinds[kind[0]][n] for n in sorted(kinds[kind[0]])]) for kind in (GATE, UP, DOWN))
        stacks[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        stacks[f"model.layers.{layer}.mlp.experts.down_proj"] = down
    return stacks


def experts_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """What the loaded model has in their place."""
    return {name: tensor.detach() for name, tensor in model.named_parameters() if ".mlp.experts." in name}
