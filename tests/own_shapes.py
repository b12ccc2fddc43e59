"""Names and shapes of checkpoints whose code transformers does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def kimi_k3_shapes(config: Mapping[str, Any]) -> Shapes:
    """The language model of Kimi K3, under the names that it has behind its vision tower."""
    said = config["text_config"]
    hidden, heads, linear = said["hidden_size"], said["num_attention_heads"], said["linear_attn_config"]
    latent, narrow, inner = said["kv_lora_rank"], said["routed_expert_hidden_size"], said["moe_intermediate_size"]
    nope, rope, value = said["qk_nope_head_dim"], said["qk_rope_head_dim"], said["v_head_dim"]
    kda = linear["num_heads"] * linear["head_dim"]
    found: Shapes = {"embed_tokens.weight": (said["vocab_size"], hidden), "norm.weight": (hidden,)}
    found |= {"output_attn_res_norm.weight": (hidden,), "output_attn_res_proj.weight": (1, hidden)}
    for layer in range(said["num_hidden_layers"]):
        block: Shapes = {}
        for norm in ("input_layernorm", "post_attention_layernorm", "self_attention_res_norm", "mlp_res_norm"):
            block[f"{norm}.weight"] = (hidden,)
        block |= {"self_attention_res_proj.weight": (1, hidden), "mlp_res_proj.weight": (1, hidden)}
        if layer + 1 in linear["full_attn_layers"]:
            block |= {
                "self_attn.q_a_proj.weight": (said["q_lora_rank"], hidden),
                "self_attn.q_a_layernorm.weight": (said["q_lora_rank"],),
                "self_attn.q_b_proj.weight": (heads * (nope + rope), said["q_lora_rank"]),
                "self_attn.kv_a_proj_with_mqa.weight": (latent + rope, hidden),
                "self_attn.kv_a_layernorm.weight": (latent,),
                "self_attn.kv_b_proj.weight": (heads * (nope + value), latent),
                "self_attn.o_proj.weight": (hidden, heads * value), "self_attn.g_proj.weight": (heads * value, hidden),
            }  # fmt: skip
        else:
            block |= {f"self_attn.{each}_proj.weight": (kda, hidden) for each in "qkvg"}
            block |= {f"self_attn.{each}_conv1d.weight": (kda, 1, linear["short_conv_kernel_size"]) for each in "qkv"}
            block |= {
                "self_attn.f_a_proj.weight": (linear["head_dim"], hidden), "self_attn.A_log": (linear["num_heads"],),
                "self_attn.f_b_proj.weight": (kda, linear["head_dim"]), "self_attn.dt_bias": (kda,),
                "self_attn.b_proj.weight": (linear["num_heads"], hidden),
                "self_attn.o_norm.weight": (linear["head_dim"],), "self_attn.o_proj.weight": (hidden, kda),
            }  # fmt: skip
        if layer < said["first_k_dense_replace"]:
            block |= _mlp("mlp.", hidden, said["intermediate_size"])
        else:
            count, moe = said["num_experts"], "block_sparse_moe."
            block |= {f"{moe}gate.weight": (count, hidden), f"{moe}gate.e_score_correction_bias": (count,)}
            block |= _mlp(f"{moe}shared_experts.", hidden, inner * said["num_shared_experts"])
            block |= {
                f"{moe}routed_expert_down_proj.weight": (narrow, hidden), f"{moe}routed_expert_norm.weight": (narrow,),
                f"{moe}routed_expert_up_proj.weight": (hidden, narrow),
            }  # fmt: skip
            for number in range(count):
                for name, shape in (("w1", (inner, narrow)), ("w3", (inner, narrow)), ("w2", (narrow, inner))):
                    block[f"{moe}experts.{number}.{name}.weight"] = shape
        found |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
    head: Shapes = {"language_model.lm_head.weight": (said["vocab_size"], hidden), "vision_tower.proj.weight": (8, 8)}
    return {**{f"language_model.model.{name}": shape for name, shape in found.items()}, **head}


def _mlp(start: str, hidden: int, inner: int) -> Shapes:
    return {
        f"{start}gate_proj.weight": (inner, hidden), f"{start}up_proj.weight": (inner, hidden),
        f"{start}down_proj.weight": (hidden, inner),
    }  # fmt: skip
