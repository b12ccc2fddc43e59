"""Qwen3-VL's experts in both ways of lying, and of which part of config.json says that the head is tied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from described import describe_infos
from family_table import QWEN3_VL_MOE

from quantkit.errors import InputError
from quantkit.families.describe import find_family
from quantkit.families.model import Model, Rows
from quantkit.families.parts import Made
from quantkit.tensors import TensorInfo

MOE = {"architectures": ["Qwen3VLMoeForConditionalGeneration"], "model_type": "qwen3_vl_moe", **QWEN3_VL_MOE}
EXPERTS, LAYERS = 4, 2


def tensors(hidden: int, width: int, turned: tuple[bool, ...], head: bool = True) -> dict[str, TensorInfo]:
    """The language model of the table's Qwen3-VL, its experts (in, out) in the layers where they are `turned`."""
    outer = "model.language_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{outer}embed_tokens.weight": (400, hidden),
        f"{outer}norm.weight": (hidden,),
    }
    shapes |= {"lm_head.weight": (400, hidden)} if head else {}
    for layer, lying in enumerate(turned):
        block = f"{outer}layers.{layer}."
        gate_up, down = (2 * width, hidden), (hidden, width)
        shapes |= {
            f"{block}input_layernorm.weight": (hidden,), f"{block}post_attention_layernorm.weight": (hidden,),
            f"{block}self_attn.q_proj.weight": (256, hidden), f"{block}self_attn.k_proj.weight": (128, hidden),
            f"{block}self_attn.v_proj.weight": (128, hidden), f"{block}self_attn.o_proj.weight": (hidden, 256),
            f"{block}self_attn.q_norm.weight": (32,), f"{block}self_attn.k_norm.weight": (32,),
            f"{block}mlp.gate.weight": (EXPERTS, hidden),
            f"{block}mlp.experts.gate_up_proj": (EXPERTS, *gate_up[:: -1 if lying else 1]),
            f"{block}mlp.experts.down_proj": (EXPERTS, *down[:: -1 if lying else 1]),
        }  # fmt: skip
    return {name: TensorInfo(name, "BF16", shape, 0) for name, shape in shapes.items()}


def moe(hidden: int, width: int, **said: Any) -> dict[str, Any]:
    return {**MOE, **said, "text_config": {**MOE["text_config"], "hidden_size": hidden, "moe_intermediate_size": width}}


def stacks(model: Model) -> Mapping[str, tuple[tuple[int, ...], set[type]]]:
    names = {f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "up", "down")}
    return {t.name: (t.shape, {type(part) for part in t.parts}) for t in model.tensors if t.name in names}


@pytest.mark.parametrize(("hidden", "width"), [(64, 96), (64, 64), (64, 32)], ids=["plain", "down square", "up square"])
@pytest.mark.parametrize("turned", [True, False])
def test_experts_are_turned_where_they_lie_the_other_way(hidden: int, width: int, turned: bool) -> None:
    """Also where one of the two stacks is square: the other says it for both."""
    found = stacks(describe_infos(tensors(hidden, width, (turned,) * LAYERS), moe(hidden, width)))
    kind = {Made if turned else Rows}
    assert found == {
        "blk.1.ffn_gate_exps.weight": ((EXPERTS, width, hidden), kind),
        "blk.1.ffn_up_exps.weight": ((EXPERTS, width, hidden), kind),
        "blk.1.ffn_down_exps.weight": ((EXPERTS, hidden, width), kind),
    }


def test_layers_saved_in_two_ways_are_no_model() -> None:
    with pytest.raises(InputError, match=r'"model\.language_model\.layers\.\d\.mlp\.experts\.[a-z_]+" are stacked'):
        describe_infos(tensors(64, 96, (True, False)), moe(64, 96))


def test_a_stack_of_another_shape_is_named() -> None:
    infos = tensors(64, 96, (True, True))
    name = "model.language_model.layers.1.mlp.experts.down_proj"
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.experts\.down_proj.*\[4, 95, 64\]"):
        describe_infos({**infos, name: TensorInfo(name, "BF16", (EXPERTS, 95, 64), 0)}, moe(64, 96))


@pytest.mark.parametrize(("root", "text", "complete"), [(True, False, True), (False, False, False), (None, True, True)])
def test_without_a_head_the_root_may_say_that_it_is_tied(root: bool | None, text: bool, complete: bool) -> None:
    config = moe(64, 96, **({} if root is None else {"tie_word_embeddings": root}))
    config["text_config"]["tie_word_embeddings"] = text
    infos = tensors(64, 96, (False, False), head=False)
    if complete:
        names = {t.name for t in describe_infos(infos, config).tensors}
        assert "token_embd.weight" in names and "output.weight" not in names
        return
    with pytest.raises(InputError, match=r'no tensor "lm_head\.weight"'):
        describe_infos(infos, config)


def test_a_head_that_the_root_does_not_tie_is_nothing_odd() -> None:
    """transformers 5 writes true into the part for the language model of a Qwen3-VL mixture whose head is its own."""
    config = moe(64, 96, tie_word_embeddings=False)
    config["text_config"]["tie_word_embeddings"] = True
    model = describe_infos(tensors(64, 96, (False, False)), config)
    assert "output.weight" in {t.name for t in model.tensors}
    assert "tied-head" not in dict(model.warnings)


def test_positions_on_three_axes_have_to_be_told() -> None:
    """Without their sections llama.cpp loads no file; transformers' own default is that of Qwen3-VL alone."""
    text = {k: v for k, v in MOE["text_config"].items() if k != "rope_parameters"}
    found = find_family({"architectures": ["Qwen3VLMoeModel"]}).family
    model = describe_infos(tensors(256, 512, (False, False)), {**MOE, "text_config": text})
    sections = {kv.key: kv.value for kv in model.metadata}[f"{found.gguf}.rope.dimension_sections"]
    assert sections == (24, 20, 20, 0)
    older = find_family({"architectures": ["Qwen2VLForConditionalGeneration"]}).family
    with pytest.raises(InputError, match="mrope_section is missing"):
        [entry for key in older.keys if callable(key) for entry in key(older.hparams({"text_config": text}))]
