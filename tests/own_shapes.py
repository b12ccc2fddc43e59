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


def grok_shapes(config: Mapping[str, Any]) -> Shapes:
    """Grok 2: an MLP beside the experts."""
    hidden, count, inner = config["hidden_size"], config["num_local_experts"], config["moe_intermediate_size"]
    found = _grok(config, "model.embed_tokens", "model.norm")
    found["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        block, moe = f"model.layers.{layer}.", f"model.layers.{layer}.block_sparse_moe."
        found |= {f"{block}{n}.weight": (hidden,) for n in _NORMS} | _mlp(
            f"{block}mlp.", hidden, config["intermediate_size"]
        )
        for name, rows in _heads(config).items():
            found[f"{block}self_attn.{name}_proj.weight"] = rows
        found[f"{moe}gate.weight"] = (count, hidden)
        for number in range(count):
            shapes = {"w1": (inner, hidden), "w3": (inner, hidden), "w2": (hidden, inner)}
            found |= {f"{moe}experts.{number}.{name}.weight": shape for name, shape in shapes.items()}
    return found


_NORMS = ("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm")


def _grok(config: Mapping[str, Any], embedding: str, norm: str) -> Shapes:
    hidden = config["hidden_size"]
    return {f"{embedding}.weight": (config["vocab_size"], hidden), f"{norm}.weight": (hidden,)}


def _heads(config: Mapping[str, Any]) -> Shapes:
    hidden, head = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    narrow = config["num_key_value_heads"] * head
    return {"q": (hidden, hidden), "k": (narrow, hidden), "v": (narrow, hidden), "o": (hidden, hidden)}


def grok_1_shapes(config: Mapping[str, Any]) -> Shapes:
    """Grok 1, whose experts come one after the other, and a router last."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    found = _grok(config, "transformer.in_out_embed", "transformer.rms_norm")
    for layer in range(config["num_hidden_layers"]):
        block = f"transformer.decoder_layer.{layer}."
        for number in range(config["num_local_experts"]):
            shapes = {"linear": (inner, hidden), "linear_v": (inner, hidden), "linear_1": (hidden, inner)}
            found |= {f"{block}moe.{number}.{name}.weight": shape for name, shape in shapes.items()}
        names = {"q": "query", "k": "key", "v": "value", "o": "linear"}
        found |= {f"{block}multi_head_attention.{names[n]}.weight": s for n, s in _heads(config).items()}
        found |= {f"{block}rms_norm{end}.weight": (hidden,) for end in ("", "_1", "_2", "_3")}
        found[f"{block}router.weight"] = (config["num_local_experts"], hidden)
    return found


def rwkv6qwen2_shapes(config: Mapping[str, Any]) -> Shapes:
    """Qwen 2 with RWKV 6 in place of attention."""
    hidden, rows = config["hidden_size"], config["vocab_size"]
    found: Shapes = {"model.embed_tokens.weight": (rows, hidden), "lm_head.weight": (rows, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        found |= _qwen(block, config)
        block += "self_attn."
        found |= {f"{block}time_maa_{what}": (1, 1, hidden) for what in "xrkvwg"}
        found |= {
            f"{block}time_maa_w1": (hidden, 160), f"{block}time_maa_w2": (5, 32, hidden),
            f"{block}time_decay": (1, 1, hidden), f"{block}time_decay_w1": (hidden, 64),
            f"{block}time_decay_w2": (64, hidden), f"{block}gate.weight": (hidden, hidden),
        }  # fmt: skip
        for name, shape in _heads(config).items():
            found[f"{block}{name}_proj.weight"] = shape
            found |= {f"{block}{name}_proj.bias": shape[:1]} if name != "o" else {}
    return {**found, "model.norm.weight": (hidden,)}


def _qwen(block: str, config: Mapping[str, Any]) -> Shapes:
    hidden = config["hidden_size"]
    norms = {f"{block}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return {**norms, **_mlp(f"{block}mlp.", hidden, config["intermediate_size"])}


def arwkv7_shapes(config: Mapping[str, Any]) -> Shapes:
    """Qwen 2 with RWKV 7 in place of attention."""
    hidden, rows, head = config["hidden_size"], config["vocab_size"], config["head_size"]
    found: Shapes = {"model.embed_tokens.weight": (rows, hidden), "lm_head.weight": (rows, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        found |= _qwen(block, config)
        block += "self_attn.time_mixer."
        found |= {f"{block}{name}": (1, 1, hidden) for name in ("k_k", "k_a", "w0", "a0", "v0")}
        found |= {f"{block}x_{what}": (1, 1, hidden) for what in ("rwkvag" if config["wkv_has_gate"] else "rwkva")}
        ranks = {"w": 64, "a": 64, "v": 32, **({"g": 128} if config["wkv_has_gate"] else {})}
        for name, rank in ranks.items():
            found |= {f"{block}{name}1": (hidden, rank), f"{block}{name}2": (rank, hidden)}
        found[f"{block}r_k"] = (hidden // head, head)
        found |= {f"{block}{n}.weight": (hidden, hidden) for n in ("receptance", "key", "value", "output")}
    return {**found, "model.norm.weight": (hidden,)}


def _plamo(config: Mapping[str, Any]) -> Shapes:
    """What PLaMo 2 and 3 share: all but what mixes tokens."""
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    found: Shapes = {"model.embed_tokens.weight": (rows, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.layers.{layer}."
        norms = ("pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm")
        found |= {f"{block}{norm}.weight": (hidden,) for norm in norms}
        found |= {
            f"{block}mlp.gate_up_proj.weight": (2 * inner, hidden),
            f"{block}mlp.down_proj.weight": (hidden, inner),
        }
    return found if config["tie_word_embeddings"] else {**found, "lm_head.weight": (rows, hidden)}


def _plamo_attention(mixer: str, config: Mapping[str, Any], width: int) -> Shapes:
    heads, kv, hidden = config["num_attention_heads"], config["num_key_value_heads"], config["hidden_size"]
    return {
        f"{mixer}qkv_proj.weight": ((heads + 2 * kv) * width, hidden),
        f"{mixer}o_proj.weight": (hidden, heads * width),
    }


def plamo2_shapes(config: Mapping[str, Any]) -> Shapes:
    """Attention in every second layer, a Mamba of PLaMo's kind in the others."""
    width, heads, state = config["hidden_size_per_head"], config["mamba_num_heads"], config["mamba_d_state"]
    hidden, inner, steps = config["hidden_size"], heads * width, max(64, config["hidden_size"] // 16)
    found = _plamo(config)
    for layer in range(config["num_hidden_layers"]):
        mixer = f"model.layers.layers.{layer}.mixer."
        if layer % 2:
            found |= _plamo_attention(mixer, config, width)
            found |= {f"{mixer}q_weight": (config["num_attention_heads"], width)}
            found |= {f"{mixer}k_weight": (config["num_key_value_heads"], width)}
            continue
        found |= {
            f"{mixer}in_proj.weight": (2 * inner, hidden), f"{mixer}conv1d.weight": (inner, 1, config["mamba_d_conv"]),
            f"{mixer}bcdt_proj.weight": (steps + 2 * state, inner), f"{mixer}dt_proj.weight": (heads, steps),
            f"{mixer}dt_bias": (heads,), f"{mixer}A_log": (heads,), f"{mixer}D": (heads,),
            f"{mixer}dt_norm_weight": (steps,), f"{mixer}B_norm_weight": (state,), f"{mixer}C_norm_weight": (state,),
            f"{mixer}out_proj.weight": (hidden, inner),
        }  # fmt: skip
    return found


def plamo3_shapes(config: Mapping[str, Any]) -> Shapes:
    """Attention in all layers, with norms of queries and keys."""
    width, found = config["head_dim"], _plamo(config)
    for layer in range(config["num_hidden_layers"]):
        mixer = f"model.layers.layers.{layer}.mixer."
        found |= _plamo_attention(mixer, config, width)
        found |= {f"{mixer}{name}_norm.weight": (width,) for name in "qk"}
    return found


def plamo_shapes(config: Mapping[str, Any]) -> Shapes:
    """PLaMo 1: one norm before attention and MLP, and as many heads of keys as queries have groups."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["n_shared_head"]
    found: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.layers.{layer}."
        found |= {
            f"{block}norm.weight": (hidden,), f"{block}self_attn.q_proj.weight": (hidden, hidden),
            f"{block}self_attn.k_proj.weight": (kv, hidden), f"{block}self_attn.v_proj.weight": (kv, hidden),
            f"{block}self_attn.o_proj.weight": (hidden, hidden), f"{block}mlp.gate_proj.weight": (inner, hidden),
            f"{block}mlp.up_proj.weight": (inner, hidden), f"{block}mlp.down_proj.weight": (hidden, inner),
        }  # fmt: skip
    return {**found, "lm_head.weight": (config["vocab_size"], hidden)}
