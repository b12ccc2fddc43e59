"""Blocks and experts by names, as checkpoints of all kinds spell them."""

from __future__ import annotations

import pytest

from quantkit.families.names import any_expert, block_of, expert_of, layer_numbers, text_block_of

VISION = "model.vision_tower.encoder.layers.3.mlp.fc1.weight"


@pytest.mark.parametrize(
    "prefix",
    ["", "model.", "language_model.", "language_model.model.", "model.language_model."],
)
def test_blocks_of_the_language_model(prefix: str) -> None:
    name = f"{prefix}layers.12.self_attn.q_proj.weight"
    assert block_of(name) == text_block_of(name) == (12, "self_attn.q_proj.weight")


@pytest.mark.parametrize("prefix", ["h.", "blocks.", "transformer.h.", "transformer.blocks."])
def test_blocks_of_models_since_gpt_2(prefix: str) -> None:
    name = f"{prefix}3.mlp.c_fc.weight"
    assert block_of(name) == text_block_of(name) == (3, "mlp.c_fc.weight")


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "lm_head.weight", "model.layers.x.y", "mylayers.1.x", "layers.1", "visual.blocks.1.x"]
)
def test_outside_of_blocks(name: str) -> None:
    assert block_of(name) == text_block_of(name) == (None, "")


def test_a_vision_tower_has_blocks_of_its_own() -> None:
    assert block_of(VISION)[0] == 3
    assert text_block_of(VISION) == (None, "")
    assert layer_numbers(["model.layers.0.a", "model.layers.2.b", VISION]) == {0, 2}


@pytest.mark.parametrize(
    ("name", "expert", "any_of"),
    [
        ("model.layers.1.mlp.experts.7.up_proj.weight", 7, "model.layers.1.mlp.experts.*.up_proj.weight"),
        ("model.layers.1.block_sparse_moe.experts.0.w1", 0, "model.layers.1.block_sparse_moe.experts.*.w1"),
        ("model.layers.1.mlp.experts.7", 7, "model.layers.1.mlp.experts.7"),
        ("model.layers.1.mlp.experts.gate_up_proj", None, "model.layers.1.mlp.experts.gate_up_proj"),
        ("model.layers.1.mlp.shared_expert.up_proj", None, "model.layers.1.mlp.shared_expert.up_proj"),
        ("model.layers.1.mlp.shared_experts.0.up_proj", None, "model.layers.1.mlp.shared_experts.0.up_proj"),
    ],
)
def test_experts(name: str, expert: int | None, any_of: str) -> None:
    assert expert_of(name) == expert
    assert any_expert(name) == any_of
