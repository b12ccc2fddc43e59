"""What llama.cpp computes in place of what transformers does, put into a model of transformers.

Where predictions are then the same, a difference has this cause and no other. Facts from llama.cpp's `src/models/*.cpp`
(October 2026). Each function changes the model that it is given, and by `patch` what the model's module holds.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest


def pairs_side_by_side(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Hy4: dimensions are rotated in pairs side by side, as in GLM-5, not in halves of a head."""
    from transformers.models.glm_moe_dsa.modeling_glm_moe_dsa import apply_rotary_pos_emb_interleave

    patch.setattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", apply_rotary_pos_emb_interleave)


def no_windows(model: Any, patch: pytest.MonkeyPatch) -> None:
    """EXAONE 4 of other depths than 64: all layers attend to everything, and rotate."""
    kinds = ["full_attention"] * model.config.num_hidden_layers
    patch.setattr(model.config, "layer_types", kinds)
    for module in model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = None


def phi_with_experts(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Phi-3.5-MoE: norms take no mean away, and the softmax of the chosen experts adds up to 1, where transformers has
    one for each choice, over the experts whose scores are near."""
    import torch

    def choose(scores: Any, jitter_eps: float, training: bool, top_k: int) -> tuple[Any, Any]:
        weights, chosen = scores.softmax(dim=-1).topk(top_k)
        return weights / weights.sum(dim=-1, keepdim=True), chosen

    def norm(self: Any, values: Any) -> Any:
        return torch.nn.functional.rms_norm(values, self.normalized_shape, self.weight, self.eps) + self.bias

    patch.setattr(sys.modules[type(model).__module__], "sparsemixer", choose)
    patch.setattr(torch.nn.LayerNorm, "forward", norm)


def mlp_without_residual(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Chameleon with norms after the parts of a block: the MLP reads what attention gives, without its residual."""

    def forward(self: Any, hidden_states: Any, **settings: Any) -> tuple[Any]:
        attended = self.input_layernorm(self.self_attn(hidden_states=hidden_states, **settings)[0])
        return (hidden_states + attended + self.post_attention_layernorm(self.mlp(attended)),)

    patch.setattr(sys.modules[type(model).__module__].ChameleonSwinDecoderLayer, "forward", forward)
