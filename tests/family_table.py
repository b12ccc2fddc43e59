"""One row for each architecture beyond those of `checkpoints`: its configuration, its sizes, what is odd about it.

Checkpoints are made by transformers where it has the model, and from a list of names and shapes where it has not.
Rows of all matrices have 256 weights or a multiple, so that every block fits.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import checkpoints
import engine_graphs
import plamo_lines
from checkpoints import Variant
from drafts import dflash_shapes, dspark_shapes, eagle3_shapes, with_tables
from own_shapes import (
    arwkv7_shapes,
    grok_1_shapes,
    grok_shapes,
    kimi_k3_shapes,
    plamo2_shapes,
    plamo3_shapes,
    plamo_shapes,
    rwkv6qwen2_shapes,
)
from world import WORLD

PLAMO = {plamo_lines.FILE: plamo_lines.lines(), "tokenizer_config.json": plamo_lines.SETTINGS}
WORLD_FILE = "rwkv_vocab_v20230424.txt"
SPREAD = 0.15  # standard deviation of all weights: attention is far from uniform

SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SPM = {**SIZES, "vocab_size": 2048}
UNGROUPED = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8}  # of families without grouped queries
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
OF_ANOTHER = "it predicts from what its target computes"
FOUR = {**SIZES, "num_hidden_layers": 4}
# Of indexers: what no head of theirs looks for scores 0, and which of such tokens are chosen nobody says. One in four
# has that score with two heads, so that models choose differently; hardly one with so many.
ENOUGH_HEADS = 16


@dataclass(frozen=True)
class Entry:
    """A checkpoint of a family: made by the class `model` of transformers, or of `shapes` (None: not made so).

    `words` are tokens that its vocabulary needs; `edit` changes config.json afterwards, `published` the tensors, in
    place; `files` lie beside it; `further` are shapes of tensors that transformers does not know. `differs` are keys in
    which the file is meant to differ from that of the reference, with the value. `unlike` says why its predictions are
    not those of transformers, and `graph` puts what llama.cpp computes instead into a model of transformers, whose
    predictions they are. `told` makes of config.json what the reference is told in its place. `lacks` are keys that
    only the file of the reference has, `apart` ends of the names of tensors whose values are meant to be others than
    there, `adds` a part of the names of tensors that the reference leaves out, so that llama.cpp does not load its
    file. `drafts` says that llama.cpp runs it beside another model alone, `target` names the entry of the one that
    --base names.
    """

    model: str | None
    config: Mapping[str, Any]
    bpe: bool = True
    words: tuple[str, ...] = ()
    shapes: Callable[[Mapping[str, Any]], Mapping[str, tuple[int, ...]]] | None = None
    edit: Callable[[dict[str, Any]], object] | None = None
    published: Callable[[dict[str, Any]], object] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    differs: Mapping[str, Any] = field(default_factory=dict)
    unlike: str | None = None
    graph: Callable[[Any, Any], None] | None = None
    further: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    told: Callable[[dict[str, Any]], object] | None = None
    lacks: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    drafts: bool = False
    target: str | None = None
    adds: str | None = None

    @property
    def architecture(self) -> str:
        """What config.json calls it."""
        if self.model is None:
            return str(self.config["architectures"][0])
        return self.model if self.model.endswith(("Generation", "AssistantModel")) else f"{self.model}ForCausalLM"


def llama_shapes(
    config: Mapping[str, Any], *, norms: tuple[str, ...] = ("weight",), qkv: bool = False, bias: bool = False,
    extra: Mapping[str, tuple[int, ...]] = {},
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Names and shapes of a Llama, with what norms have, biases of queries, keys and values, and of all linears."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = (
        config["num_attention_heads"] * head,
        config.get("num_key_value_heads", config["num_attention_heads"]) * head,
    )
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found |= {f"{block}{norm}.{part}": (hidden,) for part in norms}
        linears = {
            "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        for name, shape in linears.items():
            found[f"{block}{name}.weight"] = shape
            if bias or (qkv and name[10:11] in "qkv" and "self_attn" in name):
                found[f"{block}{name}.bias"] = shape[:1]
        found |= {block + name: shape for name, shape in extra.items()}
    found |= {f"model.norm.{part}": (hidden,) for part in norms}
    if not config.get("tie_word_embeddings", False):
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def internlm2_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    fused = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * head
    found: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        found |= {
            f"{block}attention_norm.weight": (hidden,), f"{block}ffn_norm.weight": (hidden,),
            f"{block}attention.wqkv.weight": (fused, hidden), f"{block}attention.wo.weight": (hidden, hidden),
            f"{block}feed_forward.w1.weight": (inner, hidden), f"{block}feed_forward.w3.weight": (inner, hidden),
            f"{block}feed_forward.w2.weight": (hidden, inner),
        }  # fmt: skip
    return {**found, "model.norm.weight": (hidden,), "output.weight": (config["vocab_size"], hidden)}


def own(architecture: str, model_type: str, **numbers: Any) -> dict[str, Any]:
    """The config.json of a model whose code is its own."""
    return {**SIZES, "architectures": [architecture], "model_type": model_type, **numbers}


SPACED = {"tokenizer_config.json": '{"tokenizer_class": "LlamaTokenizer", "add_prefix_space": false}'}


def as_deepseek4(config: dict[str, Any]) -> None:
    """What DeepSeek says where transformers says it in other words."""
    for key in ("layer_types", "compress_rates", "mlp_layer_types", "rope_parameters", "partial_rotary_factor"):
        config.pop(key, None)
    config.update(
        compress_ratios=[0, 4, 128, 4, 0], num_hash_layers=1, qk_rope_head_dim=64, rope_theta=10000.0,
        compress_rope_theta=160000.0, topk_method="noaux_tc",
        rope_scaling={
            "type": "yarn", "factor": 4, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1,
        },
    )  # fmt: skip


def as_published4(tensors: dict[str, Any]) -> None:
    """DeepSeek's own names of tensors, those that stay float32, and experts by token."""
    import torch

    for name in list(tensors):
        own = name.removeprefix("model.").replace("embed_tokens", "embed").replace("hc_head.hc_", "hc_head_")
        own = own.replace(".attn.norm.", ".attn.kv_norm.")
        exact = any(part in own for part in ("hc_", ".ape", ".attn_sink"))
        tensors[own] = tensors.pop(name).float() if exact else tensors.pop(name)
    name = "layers.0.ffn.gate.tid2eid"
    rows, chosen = tensors[name].shape
    tensors[name] = torch.stack([(torch.arange(rows) + n) % 4 for n in range(chosen)], dim=1)


def of_two_values(tensors: dict[str, Any]) -> None:
    """Linears of one magnitude, which rounding to three values leaves as they are."""
    for name in [name for name in tensors if "_proj." in name]:
        tensors[name] = tensors[name].sign() / 8


CHAT = {"chat_template.jinja": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}


def without_decays(tensors: dict[str, Any]) -> None:
    """MiniMax publishes no numbers that follow from others; transformers saves them rounded to bfloat16."""
    for name in [name for name in tensors if name.endswith(("_decay", "slope_rate"))]:
        del tensors[name]


def as_minimax(config: dict[str, Any]) -> None:
    """What MiniMax says beside what transformers says."""
    config["architectures"] = ["MiniMaxText01ForCausalLM"]
    config |= {"attn_type_list": [0] * 7 + [1], "rotary_dim": 32}
    for part, name in (("full_attention", "full_attn"), ("linear_attention", "linear_attn"), ("mlp", "mlp")):
        for which in ("alpha", "beta"):
            config[f"layernorm_{part}_{which}"] = config[f"{name}_{which}_factor"]


IMAGE_TOKENS = {
    "embed_dim": 32, "latent_channels": 32, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1],
    "num_res_blocks": 1, "resolution": 16,
}  # fmt: skip
# The tokens that stand for images, none of which is predicted: llama.cpp takes their ids for granted.
CHAMELEON_IDS = {f"IMGIMG{''.join(chr(ord('A') + int(digit)) for digit in str(n))}Z": 4 + n for n in range(8192)}


def of_one_shard(tensors: dict[str, Any]) -> None:
    """All heads have the norm of the first, as those of one shard do."""
    for name in [name for name in tensors if ".q_norm." in name or ".k_norm." in name]:
        tensors[name] = tensors[name][:1].repeat(len(tensors[name]), 1).contiguous()


def mpt_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = config["d_model"]
    found: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (config["vocab_size"], hidden)}
    for layer in range(config["n_layers"]):
        block = f"transformer.blocks.{layer}."
        found |= {
            f"{block}norm_1.weight": (hidden,), f"{block}norm_2.weight": (hidden,),
            f"{block}attn.Wqkv.weight": (3 * hidden, hidden), f"{block}attn.out_proj.weight": (hidden, hidden),
            f"{block}ffn.up_proj.weight": (4 * hidden, hidden), f"{block}ffn.down_proj.weight": (hidden, 4 * hidden),
        }  # fmt: skip
    return {**found, "transformer.norm_f.weight": (hidden,)}


def chatglm_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, head = config["hidden_size"], config["kv_channels"]
    fused = (config["num_attention_heads"] + 2 * config["multi_query_group_num"]) * head
    inner = config["ffn_hidden_size"]
    found: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (config["padded_vocab_size"], hidden),
        "transformer.rotary_pos_emb.inv_freq": (head // 4,),
    }
    for layer in range(config["num_layers"]):
        block = f"transformer.encoder.layers.{layer}."
        found |= {f"{block}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        found |= {
            f"{block}self_attention.query_key_value.weight": (fused, hidden),
            f"{block}self_attention.query_key_value.bias": (fused,),
            f"{block}self_attention.dense.weight": (hidden, hidden),
            f"{block}mlp.dense_h_to_4h.weight": (2 * inner, hidden),
            f"{block}mlp.dense_4h_to_h.weight": (hidden, inner),
        }  # fmt: skip
    return {
        **found, "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (config["padded_vocab_size"], hidden),
    }  # fmt: skip


def talkie_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed.weight": (config["vocab_size"], hidden), "lm_head": (config["vocab_size"], hidden),
        "lm_head_gain.w_g": (1,),
    }  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        block = f"model.blocks.{layer}."
        found |= {f"{block}attn.attn_{name}.weight": (hidden, hidden) for name in ("query", "key", "value", "resid")}
        found |= {f"{block}mlp.mlp_{name}.weight": (inner, hidden) for name in ("gate", "linear")}
        found |= {f"{block}{name}.a_g": (1,) for name in ("attn_gain", "mlp_gain", "embed_skip")}
        found |= {
            f"{block}mlp.mlp_resid.weight": (hidden, inner),
            f"{block}attn.head_gain.head_g": (config["num_attention_heads"],),
        }
    return found


def granite_switch_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["shared_intermediate_size"]
    kv = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    adapters, rank = config["num_adapters"], config["max_lora_rank"]
    linears = {
        "self_attn.qkv_proj": ((hidden, kv, kv), hidden), "self_attn.o_proj": ((hidden,), hidden),
        "shared_mlp.input_linear": ((inner, inner), hidden), "shared_mlp.output_linear": ((hidden,), inner),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden), "model.switch.adapter_token_ids": (adapters,),
    }  # fmt: skip
    for layer in range(config["num_hidden_layers"] - 1):
        block = f"model.layers.{layer}."
        found |= {f"{block}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        for name, (outs, width) in linears.items():
            found[f"{block}{name}.base_layer.weight"] = (sum(outs), width)
            for number, out in enumerate(outs):
                end = f"_slices.{number}" if len(outs) > 1 else ""
                found[f"{block}{name}.lora_A{end}"] = (adapters, 1, rank, width)
                found[f"{block}{name}.lora_B{end}"] = (adapters, 1, out, rank)
    return found


def rugpt3xl_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    plain = llama_shapes(config, norms=("weight", "bias"), bias=True)
    found = {name: shape for name, shape in plain.items() if "gate_proj" not in name}
    return {**found, "model.embed_positions.weight": (config["max_position_embeddings"], config["hidden_size"])}


def cogvlm_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    found = {n: s for n, s in llama_shapes(config).items() if "self_attn" not in n and ".mlp." not in n}
    for block in (f"model.layers.{layer}." for layer in range(config["num_hidden_layers"])):
        for kind in ("language", "vision"):
            found |= gated(f"{block}mlp.{kind}_mlp.", hidden, inner)
            found[f"{block}self_attn.{kind}_expert_query_key_value.weight"] = (3 * hidden, hidden)
            found[f"{block}self_attn.{kind}_expert_dense.weight"] = (hidden, hidden)
    return found


def gpt2_like(
    config: Mapping[str, Any], linears: Mapping[str, tuple[int, ...]], biases: bool, turned: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes under GPT-2's names; `turned` matrices are stored (in, out)."""
    hidden = config.get("n_embd", config.get("hidden_size"))
    parts = ("weight", "bias") if biases else ("weight",)
    found: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (config["vocab_size"], hidden)}
    for layer in range(config.get("n_layer", config.get("num_layers", config.get("num_hidden_layers")))):
        block = f"transformer.h.{layer}."
        found |= {f"{block}ln_{norm}.{part}": (hidden,) for norm in (1, 2) for part in parts}
        found |= {f"{block}{name}.weight": shape for name, shape in linears.items()}
        outs = {name: shape[-1:] if turned else shape[:1] for name, shape in linears.items() if biases}
        found |= {f"{block}{name}.bias": shape for name, shape in outs.items()}
    found |= {f"transformer.ln_f.{part}": (hidden,) for part in parts}
    return {**found, "lm_head.weight": (config["vocab_size"], hidden)}


def mixture_shapes(config: Mapping[str, Any], *, second: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Ling."""
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.word_embeddings.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        found |= {
            f"{block}input_layernorm.weight": (hidden,), f"{block}post_attention_layernorm.weight": (hidden,),
            f"{block}attention.query_key_value.weight": ((heads + 2 * kv) * head, hidden),
            f"{block}attention.dense.weight": (hidden, heads * head),
        }  # fmt: skip
        if second:
            found |= {f"{block}attention.{name}_layernorm.weight": (head,) for name in ("query", "key")}
        if layer < config["first_k_dense_replace"]:
            found |= gated(f"{block}mlp.", hidden, config["intermediate_size"])
            continue
        found |= gated(f"{block}mlp.shared_experts.", hidden, inner * config["num_shared_experts"])
        for expert in range(config["num_experts"]):
            found |= gated(f"{block}mlp.experts.{expert}.", hidden, inner)
        found[f"{block}mlp.gate.weight"] = (config["num_experts"], hidden)
        if second:
            found[f"{block}mlp.gate.expert_bias"] = (config["num_experts"],)
    return {**found, "model.norm.weight": (hidden,), "lm_head.weight": (config["vocab_size"], hidden)}


def gated(prefix: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}gate_proj.weight": (inner, hidden), f"{prefix}up_proj.weight": (inner, hidden),
        f"{prefix}down_proj.weight": (hidden, inner),
    }  # fmt: skip


def llada_moe_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, head = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    norms = {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    found = {name: shape for name, shape in llama_shapes(config, extra=norms).items() if ".mlp." not in name}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}.mlp."
        found[f"{block}gate.weight"] = (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            found |= gated(f"{block}experts.{expert}.", hidden, config["expert_intermediate_size"])
    return found


def smallthinker_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, count = (config[key] for key in ("hidden_size", "moe_ffn_hidden_size", "moe_num_primary_experts"))
    found = {n: s for n, s in llama_shapes({**config, "intermediate_size": 1}).items() if ".mlp." not in n}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}.block_sparse_moe."
        found[f"{block}primary_router.weight"] = (count, hidden)
        for expert in range(count):
            experts = gated(f"{block}experts.{expert}.", hidden, inner)
            found |= {name.replace("_proj", ""): shape for name, shape in experts.items()}
    return found


def attention(prefix: str) -> dict[str, tuple[int, ...]]:
    """Attention of 8 heads of 32, 4 for keys and values."""
    shapes = {"q_proj": (256, 256), "k_proj": (128, 256), "v_proj": (128, 256), "o_proj": (256, 256)}
    return {f"{prefix}self_attn.{name}.weight": shape for name, shape in shapes.items()}


def k_exaone_mtp() -> dict[str, tuple[int, ...]]:
    """The block that predicts one token more, under the names that LG publishes."""
    block = "mtp.layers.0."
    norms = ("input_layernorm", "post_attention_layernorm")
    return {
        "mtp.fc.weight": (256, 512),
        **{f"mtp.{norm}.weight": (256,) for norm in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")},
        **{f"{block}{norm}.weight": (256,) for norm in norms},
        **attention(block), **gated(f"{block}mlp.", 256, 512),
        **{f"{block}self_attn.{p}_norm.weight": (32,) for p in "qk"},
    }  # fmt: skip


def cohere2_mtp(layer: int) -> dict[str, tuple[int, ...]]:
    """The same of Cohere's mixture, after the last layer."""
    block = f"model.layers.{layer}."
    found = {f"{block}{norm}.weight": (256,) for norm in ("input_layernorm", "enorm", "hnorm", "shared_head.norm")}
    found |= {f"{block}eh_proj.weight": (256, 512), f"{block}mlp.gate.weight": (4, 256), **attention(block)}
    for module in ("shared_experts", *(f"experts.{number}" for number in range(4))):
        found |= gated(f"{block}mlp.{module}.", 256, 512)
    return found


def deepseek_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, dense = config["hidden_size"], config["moe_intermediate_size"], config["first_k_dense_replace"]
    found = {
        name: shape for name, shape in llama_shapes(config).items()
        if ".mlp." not in name or int(name.split(".")[2]) < dense
    }  # fmt: skip
    for layer in range(dense, config["num_hidden_layers"]):
        block = f"model.layers.{layer}.mlp."
        found[f"{block}gate.weight"] = (config["n_routed_experts"], hidden)
        found |= gated(f"{block}shared_experts.", hidden, inner * config["n_shared_experts"])
        for expert in range(config["n_routed_experts"]):
            found |= gated(f"{block}experts.{expert}.", hidden, inner)
    return found


def deepseek_mtp(layer: int) -> dict[str, tuple[int, ...]]:
    """The block after the last layer of a DeepSeek V3.2 of 8 heads."""
    block = f"model.layers.{layer}."
    attention = f"{block}self_attn."
    norms = ("input_layernorm", "post_attention_layernorm", "enorm", "hnorm", "shared_head.norm")
    found: dict[str, tuple[int, ...]] = {
        **{f"{block}{norm}.weight": (256,) for norm in norms},
        f"{block}eh_proj.weight": (256, 512), f"{block}embed_tokens.weight": (400, 256),
        f"{block}shared_head.head.weight": (400, 256), f"{block}mlp.gate.weight": (4, 256),
        f"{block}mlp.gate.e_score_correction_bias": (4,), **gated(f"{block}mlp.shared_experts.", 256, 256),
        f"{attention}q_a_proj.weight": (256, 256), f"{attention}q_a_layernorm.weight": (256,),
        f"{attention}q_b_proj.weight": (2560, 256), f"{attention}kv_a_proj_with_mqa.weight": (320, 256),
        f"{attention}kv_a_layernorm.weight": (256,), f"{attention}kv_b_proj.weight": (2560, 256),
        f"{attention}o_proj.weight": (256, 512), f"{attention}indexer.wk.weight": (128, 256),
        f"{attention}indexer.wq_b.weight": (512, 256), f"{attention}indexer.weights_proj.weight": (4, 256),
        f"{attention}indexer.k_norm.weight": (128,), f"{attention}indexer.k_norm.bias": (128,),
    }  # fmt: skip
    for expert in range(4):
        found |= gated(f"{block}mlp.experts.{expert}.", 256, 256)
    return found


def hy3_mtp(layer: int = 4) -> dict[str, tuple[int, ...]]:
    """The block after the last layer of a Hy3: a mixture as the others."""
    block = f"model.layers.{layer}."
    norms = ("input_layernorm", "post_attention_layernorm", "enorm", "hnorm", "final_layernorm")
    found: dict[str, tuple[int, ...]] = {
        **{f"{block}{norm}.weight": (256,) for norm in norms}, f"{block}eh_proj.weight": (256, 512),
        **attention(block), **{f"{block}self_attn.{p}_norm.weight": (32,) for p in "qk"},
        f"{block}mlp.router.gate.weight": (4, 256), f"{block}mlp.expert_bias": (4,),
        **gated(f"{block}mlp.shared_mlp.", 256, 512),
    }  # fmt: skip
    for expert in range(4):
        found |= gated(f"{block}mlp.experts.{expert}.", 256, 256)
    return found


def spark_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    fused = {"self_attn.q_k_v_proj.weight": (512, 256), "self_attn.g_proj.weight": (8, 256)}
    found = llama_shapes(config, extra=fused)
    return {name: shape for name, shape in found.items() if not re.search(r"\.[qkv]_proj\.", name)}


def maple_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    norms = {"self_attn.q_norm.weight": (32,), "self_attn.k_norm.weight": (32,)}
    found = {name: shape for name, shape in llama_shapes(config, extra=norms).items() if ".mlp." not in name}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}.mlp."
        found[f"{block}gate.weight"] = (4, 256)
        for expert in range(4):
            found |= gated(f"{block}experts.{expert}.", 256, 256)
    return found


def openelm_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "transformer.token_embeddings.weight": (2048, 256), "transformer.norm.weight": (256,),
    }  # fmt: skip
    for layer, (heads, kv, inner) in enumerate(((8, 2, 256), (8, 4, 512), (16, 4, 768))):
        block = f"transformer.layers.{layer}."
        found |= {
            f"{block}attn_norm.weight": (256,), f"{block}ffn_norm.weight": (256,),
            f"{block}attn.qkv_proj.weight": (32 * (heads + 2 * kv), 256), f"{block}attn.q_norm.weight": (32,),
            f"{block}attn.k_norm.weight": (32,), f"{block}attn.out_proj.weight": (256, 32 * heads),
            f"{block}ffn.proj_1.weight": (2 * inner, 256), f"{block}ffn.proj_2.weight": (256, inner),
        }  # fmt: skip
    return found


def grovemoe_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, head, experts = config["hidden_size"], config["head_dim"], config["num_experts"]
    norms = {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    found = {name: shape for name, shape in llama_shapes(config, extra=norms).items() if ".mlp." not in name}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}.mlp."
        found |= {f"{block}gate.weight": (experts, hidden), f"{block}gate.expert_bias": (experts,)}
        for expert in range(experts):
            found |= gated(f"{block}experts.{expert}.", hidden, config["moe_intermediate_size"])
        for expert in range(experts // 2):
            found |= gated(f"{block}chunk_experts.{expert}.", hidden, head)
    return found


def qwen3_moe_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, head, experts = config["hidden_size"], config["head_dim"], config["num_experts"]
    norms = {f"self_attn.{p}_norm.weight": (head,) for p in "qk"}
    found = {name: shape for name, shape in llama_shapes(config, extra=norms).items() if ".mlp." not in name}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}.mlp."
        found[f"{block}gate.weight"] = (experts, hidden)
        for expert in range(experts):
            found |= gated(f"{block}experts.{expert}.", hidden, config["moe_intermediate_size"])
    return found


def llada_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["d_model"], config["mlp_hidden_size"]
    linears = {name: (hidden, hidden) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
    linears |= {"ff_proj": (inner, hidden), "up_proj": (inner, hidden), "ff_out": (hidden, inner)}
    found: dict[str, tuple[int, ...]] = {f"model.transformer.{n}.weight": (400, hidden) for n in ("wte", "ff_out")}
    for layer in range(config["n_layers"]):
        block = f"model.transformer.blocks.{layer}."
        found |= {f"{block}{norm}.weight": (hidden,) for norm in ("attn_norm", "ff_norm")}
        found |= {f"{block}{name}.weight": shape for name, shape in linears.items()}
    return {**found, "model.transformer.ln_f.weight": (hidden,)}


def exaone_mtp() -> dict[str, tuple[int, ...]]:
    """The block that predicts one token more of an EXAONE 4.5, and what stands around it."""
    norms = ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")
    found = {name: shape for name, shape in k_exaone_mtp().items() if "input_layernorm" not in name}
    found["mtp.layers.0.post_feedforward_layernorm.weight"] = (256,)
    return found | {f"mtp.{norm}.weight": (256,) for norm in norms}


def glm_ocr_mtp() -> dict[str, tuple[int, ...]]:
    """The block after the two layers of a GLM-OCR."""
    block = "model.language_model.layers.2."
    norms = (
        "input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm", "enorm",
        "hnorm", "shared_head.norm",
    )  # fmt: skip
    return {
        **{f"{block}{norm}.weight": (256,) for norm in norms}, f"{block}eh_proj.weight": (256, 512),
        f"{block}embed_tokens.weight": (408, 256), f"{block}shared_head.head.weight": (408, 256),
        f"{block}mlp.gate_up_proj.weight": (1024, 256), f"{block}mlp.down_proj.weight": (256, 512), **attention(block),
    }  # fmt: skip


def arctic_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    found = {name: shape for name, shape in llama_shapes(config).items() if ".mlp." not in name}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        found |= {f"{block}residual_mlp.w{n}.weight": (hidden, hidden) for n in (1, 2, 3)}
        found |= {f"{block}residual_layernorm.weight": (hidden,)}
        found |= {f"{block}block_sparse_moe.gate.weight": (experts, hidden)}
        for expert in range(experts):
            one = f"{block}block_sparse_moe.experts.{expert}."
            found |= {f"{one}w1.weight": (inner, hidden), f"{one}w3.weight": (inner, hidden)}
            found[f"{one}w2.weight"] = (hidden, inner)
    return found


def baichuan_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = config["hidden_size"]
    found = {name: shape for name, shape in llama_shapes(config).items() if name[-13:-12] not in "qkv" or "mlp" in name}
    packed = {f"model.layers.{n}.self_attn.W_pack.weight": (3 * hidden, hidden) for n in range(32)}
    return {**found, **packed}


def nemotron_nas_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Layers of 8 heads of 32: grouped by 2, without attention, with a matrix instead of it, grouped by 4."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (400, 256), "model.norm.weight": (256,)}
    for layer, (kv, inner) in enumerate(((128, 512), (0, 256), (0, 512), (64, 256))):
        block = f"model.layers.{layer}."
        found |= {f"{block}post_attention_layernorm.weight": (256,), **gated(f"{block}mlp.", 256, inner)}
        if kv:
            found |= attention(block)
            found |= {f"{block}self_attn.{p}_proj.weight": (kv, 256) for p in "kv"}
        if layer == 2:
            found[f"{block}self_attn.linear_attn.weight"] = (256, 256)
        if layer != 1:
            found[f"{block}input_layernorm.weight"] = (256,)
    return {**found, "lm_head.weight": (400, 256)}


def step35_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (400, 256), "model.norm.weight": (256,)}
    for layer, kind in enumerate(config["layer_types"]):
        block, (heads, kv) = f"model.layers.{layer}.", (8, 4) if kind == "full_attention" else (16, 8)
        found |= {
            f"{block}input_layernorm.weight": (256,), f"{block}post_attention_layernorm.weight": (256,),
            f"{block}self_attn.q_proj.weight": (32 * heads, 256), f"{block}self_attn.k_proj.weight": (32 * kv, 256),
            f"{block}self_attn.v_proj.weight": (32 * kv, 256), f"{block}self_attn.o_proj.weight": (256, 32 * heads),
            f"{block}self_attn.g_proj.weight": (heads, 256), f"{block}self_attn.q_norm.weight": (32,),
            f"{block}self_attn.k_norm.weight": (32,),
        }  # fmt: skip
        if layer in (0, 4):
            found |= gated(f"{block}mlp.", 256, 512)
        else:
            found |= gated(f"{block}share_expert.", 256, 256)
            found |= {f"{block}moe.{p}_proj.weight": (4, 256, 256) for p in ("gate", "up", "down")}
            found |= {f"{block}moe.gate.weight": (4, 256), f"{block}moe.router_bias": (4,)}
        if layer == 4:
            found |= {f"{block}{norm}.weight": (256,) for norm in ("enorm", "hnorm", "transformer.shared_head.norm")}
            found |= {f"{block}eh_proj.weight": (256, 512), f"{block}transformer.shared_head.output.weight": (400, 256)}
    return {**found, "lm_head.weight": (400, 256)}


def as_xiaomi(config: dict[str, Any]) -> None:
    """What Xiaomi's config.json says beside, or instead."""
    config.pop("rope_parameters")
    config.update(
        hybrid_layer_pattern=[0, 1, 1, 1], moe_layer_freq=[0, 1, 1, 1], swa_num_key_value_heads=8, swa_head_dim=32,
        swa_v_head_dim=16, swa_num_attention_heads=16, rope_theta=5e6, swa_rope_theta=1e4, partial_rotary_factor=0.334,
        layernorm_epsilon=1e-5, scoring_func="sigmoid", topk_method="noaux_tc",
    )  # fmt: skip


def mimo_mtp() -> dict[str, tuple[int, ...]]:
    """The three blocks that predict further tokens."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(3):
        block = f"model.mtp.layers.{layer}."
        norms = ("input_layernorm", "pre_mlp_layernorm", "final_layernorm", "enorm", "hnorm")
        found |= {f"{block}{norm}.weight": (256,) for norm in norms}
        found |= {
            f"{block}eh_proj.weight": (256, 512), f"{block}self_attn.q_proj.weight": (512, 256),
            f"{block}self_attn.k_proj.weight": (256, 256), f"{block}self_attn.v_proj.weight": (128, 256),
            f"{block}self_attn.o_proj.weight": (256, 256), f"{block}self_attn.attention_sink_bias": (16,),
            **gated(f"{block}mlp.", 256, 512),
        }  # fmt: skip
    return found


HEAD64 = {"head_dim": 64}
GLM_WORDS = ("[gMASK]", "<|user|>", "<|observation|>")
GLM_SIZES = {**SIZES, **HEAD64, "vocab_size": 408, "num_attention_heads": 4, "num_key_value_heads": 2}
MINISTRAL = {
    "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
}  # fmt: skip

QWEN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}}
TOWER = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
GLM_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}
GLM_TEXT = {**SIZES, "vocab_size": 408, "rope_parameters": GLM_ROPE}
GLM_TOWER = {**TOWER, "out_hidden_size": 256, "intermediate_size": 32, "image_size": 16}
QWEN2_TOWER = {**TOWER, "embed_dim": 32, "hidden_size": 256, "mlp_ratio": 2}
QWEN25_TOWER = {**TOWER, "out_hidden_size": 256, "intermediate_size": 32, "fullatt_block_indexes": [0]}
QWEN3_TOWER = {
    **TOWER, "out_hidden_size": 256, "intermediate_size": 32, "deepstack_visual_indexes": [1],
    "num_position_embeddings": 16,
}  # fmt: skip
TEMPLATED = json.dumps({
    "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "for sound",
    "added_tokens_decoder": {"399": {"content": "<|im_end|>", "special": True}},
})  # fmt: skip
ENDED = json.dumps({
    "tokenizer_class": "PreTrainedTokenizerFast",
    "added_tokens_decoder": {"399": {"content": "<|im_end|>", "special": True}},
})  # fmt: skip
OMNI_SOUND = {
    "num_mel_bins": 16, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "output_dim": 256,
}  # fmt: skip


def as_ocr(architecture: str) -> Callable[[dict[str, Any]], object]:
    """What the reference asks for: the names of published files, and numbers that transformers has in other words."""

    def edit(config: dict[str, Any]) -> None:
        config["architectures"] = [architecture]
        config["text_config"] |= {
            "architectures": ["DeepseekV2ForCausalLM"], "first_k_dense_replace": 1, "qk_rope_head_dim": 0,
        }  # fmt: skip

    return edit


OCR_TEXT = {
    **SIZES, **HEADS, "moe_intermediate_size": 256, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_shared_experts": 2, "mlp_layer_types": ["dense", "sparse"], "n_group": 1, "topk_group": 1,
}  # fmt: skip
OCR_TOWER = {
    "sam_config": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32, "output_channels": 16,
        "global_attn_indexes": [0], "downsample_channels": [16, 32], "image_size": 64,
    },
    "encoder_config": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    },
}  # fmt: skip
QWEN3_VL_MOE: dict[str, Any] = {
    "text_config": {
        **SIZES, **QWEN_ROPE, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 512,
    },
    "vision_config": QWEN3_TOWER,
}  # fmt: skip


GEMMA4 = {
    **SIZES, "vocab_size": 640, "num_hidden_layers": 4, "head_dim": 32, "sliding_window": 64, "bos_token_id": 2,
    "eos_token_id": 1, "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size_per_layer_input": 640,
    "global_head_dim": 64, "final_logit_softcapping": 20.0,
}  # fmt: skip


LLAMA4 = {
    **FOUR, "intermediate_size": 256, "intermediate_size_mlp": 512, "head_dim": 32, "num_local_experts": 4,
    "num_experts_per_tok": 1,
}  # fmt: skip
GLM_LATENT = {
    **SIZES, **HEADS, "vocab_size": 408, "kv_lora_rank": 256, "q_lora_rank": 256, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32, "v_head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 256, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0,
}  # fmt: skip
YOUTU = {
    **SIZES, **HEADS, "kv_lora_rank": 256, "q_lora_rank": 256, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32,
    "v_head_dim": 32,
}  # fmt: skip


def as_minimax_m3(config: dict[str, Any]) -> None:
    """The language model's part of config.json as MiniMax writes it."""
    text = config["text_config"]
    names = {
        "sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim",
        "sparse_topk_blocks": "index_topk_blocks", "sparse_block_size": "index_block_size",
        "sparse_local_block": "index_local_blocks",
    }  # fmt: skip
    sparse = {theirs: text.pop(ours) for theirs, ours in names.items()}
    del text["layer_types"], text["mlp_layer_types"]
    text.update(
        moe_layer_freq=[0, 1, 1, 1],
        n_shared_experts=1,
        scoring_func="sigmoid",
        hidden_act="swigluoai",
        sparse_attention_config={**sparse, "sparse_attention_freq": [0, 1, 1, 1]},
    )


def as_zai(config: dict[str, Any]) -> None:
    """The language model's part of config.json as Z.ai writes it."""
    text = config["text_config"]
    names = {"head_dim": "linear_head_dim", "num_heads": "linear_num_heads",
             "short_conv_kernel_size": "linear_conv_kernel_dim", "gate_lower_bound": "linear_lower_bound"}  # fmt: skip
    kinds = ["full_attention" if kind == "indexed_attention" else kind for kind in text["layer_types"]]
    text.update(
        linear_attn_config={theirs: text.pop(ours) for theirs, ours in names.items()}, layer_types=kinds,
        first_k_dense_replace=text["mlp_layer_types"].count("dense"), mla_use_nope=True, scoring_func="sigmoid",
        num_nextn_predict_layers=0,
    )  # fmt: skip


def as_tencent(tensors: dict[str, Any]) -> None:
    """Names as Hy4 has them; transformers 5.24 saves others, which it does not load again."""
    for name in list(tensors):
        told = name.replace("model.hc_pre.hc_head.", "model.hc_head.")
        told = re.sub(r"\.hc_pre\.(hc_\w+_layer)\.", r".\1.hc_pre.", told)
        told = re.sub(r"(mlp\.(?:shared_experts\.)?)linear_gate", r"\1gate_proj", told)
        tensors[told] = tensors.pop(name)


def as_inclusion(config: dict[str, Any]) -> None:
    """What config.json of Ling 3 says beside, or in other words."""
    config.update(
        architectures=["BailingMoeV3ForCausalLM"], no_kda_lora=True, gated_attention_proj_granularity_type="head_wise",
        head_dim=config["linear_head_dim"], moe_shared_expert_intermediate_size=256, score_function="sigmoid",
        num_experts=4, num_experts_per_tok=2, n_group=2, norm_topk_prob=True, num_shared_experts=1,
    )  # fmt: skip


def as_published_of_old(config: dict[str, Any]) -> None:
    """The language model's numbers at the root, as Qwen2-VL was published."""
    text = config.pop("text_config")
    config.update({key: text[key] for key in text if key not in {"model_type", "rope_parameters"}})
    config.update(rope_theta=1e6, rope_scaling={"type": "mrope", "mrope_section": [4, 6, 6]})


def published_gemma4(config: dict[str, Any]) -> None:
    """As Google writes it: a number for the heads of global layers, where transformers 5 writes them one by one."""
    text = config["text_config"]
    text.update(global_head_dim=text.pop("per_layer_config")["1"]["head_dim"], num_global_key_value_heads=None)
    text.update(moe_intermediate_size=None, hidden_size_per_layer_input=0)


def predicts_further(tensors: dict[str, Any]) -> None:
    """A block after the two layers of a GLM, which transformers does not have."""
    import torch

    last = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.1.")}
    tensors |= {name.replace("layers.1.", "layers.2."): tensor.flip(0).clone() for name, tensor in last.items()}
    random = torch.Generator().manual_seed(7)
    for name, shape in (("eh_proj", (256, 512)), ("enorm", (256,)), ("hnorm", (256,)), ("shared_head.norm", (256,))):
        tensors[f"model.layers.2.{name}.weight"] = torch.randn(shape, generator=random).to(torch.bfloat16)


GEMMA3N = {
    **SPM, "intermediate_size": 256, "num_hidden_layers": 25, "head_dim": 32, "sliding_window": 64,
    "num_kv_shared_layers": 5, "vocab_size_per_layer_input": 2000,
}  # fmt: skip


def keys_of_sharing_layers(tensors: dict[str, Any]) -> None:
    """As Google published Gemma 3n: with keys and values that nothing reads."""
    for layer in range(20, 25):
        for name in ("k_proj", "v_proj", "k_norm"):
            own = tensors[f"model.layers.{layer - 5}.self_attn.{name}.weight"]
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = own.flip(0).clone()


def turned(tensors: dict[str, Any]) -> None:
    """Experts as Qwen3-VL was published: (in, out)."""
    for name in tensors:
        if ".experts." in name:
            tensors[name] = tensors[name].transpose(1, 2).contiguous()


MAMBA2 = {"mamba_d_head": 64, "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_chunk_size": 32}
GRANITE_H = {
    **SIZES, **MAMBA2, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"],
    "shared_intermediate_size": 512, "embedding_multiplier": 3.0, "logits_scaling": 2.5, "residual_multiplier": 0.4,
    "attention_multiplier": 0.5, "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
WITHOUT_EXPERTS = {"num_local_experts": 0, "num_experts_per_tok": 0}
ATTENTION_ALONE = {"layer_types": ["attention"] * 3, "position_embedding_type": "rope", "tie_word_embeddings": True}
FALCON_H1 = {
    **SIZES, **MAMBA2, "head_dim": 32, "mamba_d_ssm": 512, "mamba_n_groups": 2, "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.5, "mlp_multipliers": [0.7, 0.8], "key_multiplier": 0.3, "attention_in_multiplier": 1.1,
    "attention_out_multiplier": 0.9, "ssm_in_multiplier": 1.2, "ssm_out_multiplier": 0.6,
    "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9],
}  # fmt: skip
NEMOTRON_H = {
    **SIZES, "num_hidden_layers": 5, "head_dim": 64, "mamba_num_heads": 8, "mamba_head_dim": 64, "n_groups": 2,
    "ssm_state_size": 16, "chunk_size": 32,
}  # fmt: skip
NEMOTRON_3 = {
    **NEMOTRON_H, "hybrid_override_pattern": "MEM*E", "n_routed_experts": 4, "moe_intermediate_size": 256,
    "moe_shared_expert_intermediate_size": 512, "routed_scaling_factor": 2.5,
}  # fmt: skip
NEMOTRON_EPSILON = {"nemotron_h_moe.attention.layer_norm_rms_epsilon": 1e-5}


def nemotron_mtp(width: int) -> dict[str, tuple[int, ...]]:
    """The block that predicts one token more of such a model, which is stored as two; experts read `width`."""
    hidden, inner, shared = 256, 256, 512
    attention = {"q_proj": (512, hidden), "k_proj": (256, hidden), "v_proj": (256, hidden), "o_proj": (hidden, 512)}
    experts = {"gate.weight": (4, hidden), "gate.e_score_correction_bias": (4,)}
    for number in range(4):
        experts |= {f"experts.{number}.up_proj.weight": (inner, width)}
        experts |= {f"experts.{number}.down_proj.weight": (width, inner)}
    experts |= {"shared_experts.up_proj.weight": (shared, hidden), "shared_experts.down_proj.weight": (hidden, shared)}
    experts |= {"fc1_latent_proj.weight": (width, hidden), "fc2_latent_proj.weight": (hidden, width)}
    return {
        "mtp.layers.0.eh_proj.weight": (hidden, 2 * hidden), "mtp.layers.0.enorm.weight": (hidden,),
        "mtp.layers.0.hnorm.weight": (hidden,), "mtp.layers.0.norm.weight": (hidden,),
        "mtp.layers.1.norm.weight": (hidden,), "mtp.layers.1.final_layernorm.weight": (hidden,),
        **{f"mtp.layers.0.mixer.{name}.weight": shape for name, shape in attention.items()},
        **{f"mtp.layers.1.mixer.{name}": shape for name, shape in experts.items()},
    }  # fmt: skip


def puzzle_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, latent = config["hidden_size"], config["moe_latent_size"]
    found: dict[str, tuple[int, ...]] = {"backbone.embeddings.weight": (400, hidden), "lm_head.weight": (400, hidden)}
    for layer, block in enumerate(config["block_configs"]):
        mixer = f"backbone.layers.{layer}.mixer."
        found[f"backbone.layers.{layer}.norm.weight"] = (hidden,)
        if block["block_type"] == "mamba":
            found |= {
                f"{mixer}in_proj.weight": (1096, hidden), f"{mixer}conv1d.weight": (576, 1, 4),
                f"{mixer}conv1d.bias": (576,), f"{mixer}A_log": (8,), f"{mixer}D": (8,), f"{mixer}dt_bias": (8,),
                f"{mixer}norm.weight": (512,), f"{mixer}out_proj.weight": (hidden, 512),
            }  # fmt: skip
        elif block["block_type"] == "attention":
            shapes = {
                "q_proj": (512, hidden),
                "k_proj": (256, hidden),
                "v_proj": (256, hidden),
                "o_proj": (hidden, 512),
            }
            found |= {f"{mixer}{name}.weight": shape for name, shape in shapes.items()}
        else:
            inner = block["moe_intermediate_size"]
            found |= {f"{mixer}gate.weight": (4, hidden), f"{mixer}gate.e_score_correction_bias": (4,)}
            for number in range(4):
                found |= {f"{mixer}experts.{number}.up_proj.weight": (inner, latent)}
                found |= {f"{mixer}experts.{number}.down_proj.weight": (latent, inner)}
            found |= {
                f"{mixer}shared_experts.up_proj.weight": (512, hidden),
                f"{mixer}shared_experts.down_proj.weight": (hidden, 512),
                f"{mixer}fc1_latent_proj.weight": (latent, hidden), f"{mixer}fc2_latent_proj.weight": (hidden, latent),
            }  # fmt: skip
    return {**found, "backbone.norm_f.weight": (hidden,), "mtp.layers.0.eh_proj.weight": (hidden, 2 * hidden)}


def nemotron_published(config: dict[str, Any]) -> None:
    """As NVIDIA published the dense models: a letter for each layer, and no word of experts."""
    letters = {"linear_attention": "M", "full_attention": "*", "mlp": "-"}
    config["hybrid_override_pattern"] = "".join(letters[kind] for kind in config.pop("layers_block_type"))
    config |= {"num_hidden_layers": len(config["hybrid_override_pattern"]), "rms_norm_eps": 1e-5}
    for key in [key for key in config if "expert" in key or key.startswith(("moe_", "mtp_"))]:
        del config[key]
    for key in ("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "num_nextn_predict_layers"):
        del config[key]


def nemotron_3_published(config: dict[str, Any]) -> None:
    """As NVIDIA published the mixtures."""
    del config["layers_block_type"], config["mtp_layers_block_type"]
    config |= {"hybrid_override_pattern": "MEM*E", "num_hidden_layers": 5, "norm_eps": 1e-5, "rope_theta": 10000}


def kimi_published(config: dict[str, Any]) -> None:
    """As Moonshot published it: the numbers of linear layers apart, layers by their number, from 1."""
    kinds = config.pop("layer_types")
    del config["mlp_layer_types"], config["qk_head_dim"]
    config["linear_attn_config"] = {
        "full_attn_layers": [number for number, word in enumerate(kinds, 1) if word == "full_attention"],
        "kda_layers": [number for number, word in enumerate(kinds, 1) if word != "full_attention"],
        "head_dim": config.pop("linear_head_dim"), "num_heads": config.pop("linear_num_heads"),
        "short_conv_kernel_size": config.pop("linear_conv_kernel_dim"),
    }  # fmt: skip
    config |= {
        "first_k_dense_replace": 1, "moe_router_activation_func": "sigmoid", "moe_layer_freq": 1, "head_dim": 72,
        "mla_use_nope": True, "rope_theta": 10000.0, "rope_scaling": None, "topk_method": "noaux_tc",
    }  # fmt: skip


def kimi_mlp_published(tensors: dict[str, Any]) -> None:
    """The MLP of the first layer under its own name."""
    for name in [name for name in tensors if ".layers.0.block_sparse_moe." in name]:
        tensors[name.replace("block_sparse_moe", "mlp")] = tensors.pop(name)


KIMI_LINEAR = {
    "vocab_size": 400, "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 256,
    "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 256,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 256, "num_experts_per_tok": 2,
    "num_local_experts": 4, "linear_head_dim": 256, "linear_num_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip


RWKV7: dict[str, Any] = {
    "architectures": ["RWKV7ForCausalLM"], "model_type": "rwkv7", "vocab_size": 400, "hidden_size": 256,
    "intermediate_size": 1024, "num_hidden_layers": 2, "head_dim": 64, "norm_eps": 1e-5, "decay_low_rank_dim": 32,
    "a_low_rank_dim": 64, "v_low_rank_dim": 32, "gate_low_rank_dim": 96, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "sqrelu", "attn": None, "norm_bias": True, "norm_first": True,
}  # fmt: skip


RWKV6: dict[str, Any] = {
    "architectures": ["Rwkv6ForCausalLM"], "model_type": "rwkv6", "vocab_size": 400, "hidden_size": 256,
    "intermediate_size": 1024, "num_hidden_layers": 5, "head_size": 64, "layer_norm_epsilon": 1e-5, "rescale_every": 2,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def rwkv6_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    square, mix = (hidden, hidden), (1, 1, hidden)
    found: dict[str, tuple[int, ...]] = {"rwkv.embeddings.weight": (rows, hidden), "head.weight": (rows, hidden)}
    norms = ["rwkv.ln_out", "rwkv.blocks.0.pre_ln"]
    for layer in range(config["num_hidden_layers"]):
        block = f"rwkv.blocks.{layer}."
        norms += [block + name for name in ("ln1", "ln2", "attention.ln_x")]
        found |= {f"{block}attention.time_maa_{what}": mix for what in "xwkvrg"}
        found |= {f"{block}feed_forward.time_maa_{what}": mix for what in "kr"}
        found |= {f"{block}attention.{n}.weight": square for n in ("receptance", "key", "value", "gate", "output")}
        found |= {
            f"{block}attention.time_maa_w1": (hidden, 160), f"{block}attention.time_maa_w2": (5, 32, hidden),
            f"{block}attention.time_decay": mix, f"{block}attention.time_decay_w1": (hidden, 64),
            f"{block}attention.time_decay_w2": (64, hidden), f"{block}attention.time_faaaa": (hidden // 64, 64),
            f"{block}feed_forward.key.weight": (inner, hidden), f"{block}feed_forward.receptance.weight": square,
            f"{block}feed_forward.value.weight": (hidden, inner),
        }  # fmt: skip
    return found | {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}


def rwkv7_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    ranks = {"w": "decay_low_rank_dim", "a": "a_low_rank_dim", "v": "v_low_rank_dim", "g": "gate_low_rank_dim"}
    found: dict[str, tuple[int, ...]] = {"model.embeddings.weight": (rows, hidden), "lm_head.weight": (rows, hidden)}
    norms = ["model.norm", "model.layers.0.pre_norm"]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        norms += [block + name for name in ("attn_norm", "ffn_norm", "attn.g_norm")]
        found |= {f"{block}attn.x_{what}": (1, 1, hidden) for what in "rwkvag"}
        found |= {f"{block}attn.{what}_proj.weight": (hidden, hidden) for what in "rkvo"}
        for what, rank in ranks.items():
            if what == "v" and layer == 0:
                continue
            found[f"{block}attn.{what}_lora.lora.0.weight"] = (config[rank], hidden)
            found[f"{block}attn.{what}_lora.lora.2.weight"] = (hidden, config[rank])
            if what != "g":
                found[f"{block}attn.{what}_lora.lora.2.bias"] = (hidden,)
        found |= {
            f"{block}attn.k_k": (hidden,), f"{block}attn.k_a": (hidden,), f"{block}ffn.x_k": (hidden,),
            f"{block}attn.r_k": (hidden // config["head_dim"], config["head_dim"]),
            f"{block}ffn.key.weight": (inner, hidden), f"{block}ffn.value.weight": (hidden, inner),
        }  # fmt: skip
    return found | {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}


def granite_published(config: dict[str, Any]) -> None:
    """As IBM published them: kinds of layers by the names of their first code."""
    words = {"linear_attention": "mamba", "full_attention": "attention"}
    config["layer_types"] = [words.get(kind, kind) for kind in config["layer_types"]]


TABLE: dict[str, Entry] = {
    "paddleocr-vl": Entry(
        "PaddleOCRVLForConditionalGeneration",
        {"text_config": {**SPM, "head_dim": 32, "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e5, "mrope_section": [4, 6, 6]}},
         "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                           "image_size": 28}},
        bpe=False, files=SPACED,
    ),
    "hunyuan-vl": Entry(
        "HunYuanVLForConditionalGeneration",
        {"text_config": {**SIZES, **HEAD64, "rope_parameters": {
            "rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0,
            "mrope_section": [8, 8, 8, 8]}},
         "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                           "out_hidden_size": 256, "text_hidden_size": 256}},
    ),
    "exaone4.5": Entry(
        "Exaone4_5_ForConditionalGeneration",
        {"text_config": {**FOUR, "model_type": "exaone4", "sliding_window": None,
                         "layer_types": ["full_attention"] * 4},
         "vision_config": {**QWEN25_TOWER, "num_key_value_heads": 1}},
        further=exaone_mtp(), edit=lambda config: config["text_config"].update(
            num_nextn_predict_layers=1, architectures=["Exaone4ForCausalLM"]
        ),
    ),
    "glm-ocr": Entry(
        "GlmOcrForConditionalGeneration",
        {"text_config": {**GLM_TEXT, "head_dim": 32}, "vision_config": GLM_TOWER}, words=GLM_WORDS,
        further=glm_ocr_mtp(), edit=lambda config: config["text_config"].update(num_nextn_predict_layers=1),
    ),
    "solar-open": Entry(
        "SolarOpen",
        {**SIZES, "vocab_size": 408, "head_dim": 32, "moe_intermediate_size": 256, "n_routed_experts": 4,
         "num_experts_per_tok": 2, "n_shared_experts": 1},
        words=("<|startoftext|>", "<unk>"),
        edit=lambda config: config.update(first_k_dense_replace=0, intermediate_size=512, partial_rotary_factor=1.0),
    ),
    "deepseek-ocr": Entry(
        None,
        own("DeepseekOCRForCausalLM", "deepseek_vl_v2", num_key_value_heads=8, moe_intermediate_size=256,
            n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=2, first_k_dense_replace=1, n_group=1,
            topk_group=1, topk_method="greedy", use_mla=False, q_lora_rank=None, kv_lora_rank=None, qk_nope_head_dim=0,
            qk_rope_head_dim=0, v_head_dim=0, vision_config={"width": {}}),
        shapes=lambda config: deepseek_shapes(config) | dict.fromkeys(
            ("model.sam_model.patch_embed.proj.weight", "model.vision_model.embeddings.class_embedding",
             "model.projector.layers.weight", "model.image_newline", "model.view_seperator"), (32, 32)
        ),
    ),
    "deepseek-ocr-2-saved": Entry(
        "DeepseekOcr2ForConditionalGeneration", {"text_config": OCR_TEXT, "vision_config": OCR_TOWER},
        edit=as_ocr("DeepseekOCR2ForCausalLM"),
    ),
    "unlimited-ocr-saved": Entry(
        "UnlimitedOcrForConditionalGeneration",
        {"text_config": {**OCR_TEXT, "sliding_window": 64}, "vision_config": OCR_TOWER},
        edit=as_ocr("UnlimitedOCRForCausalLM"),
    ),
    "rnd1": Entry(
        None,
        own("RND1", "rnd1", head_dim=32, moe_intermediate_size=256, num_experts=4, num_experts_per_tok=2,
            norm_topk_prob=True, rms_norm_eps=1e-6, rope_theta=1e6, mask_token_id=399),
        shapes=qwen3_moe_shapes,
    ),
    "llada": Entry(
        None,
        {"architectures": ["LLaDAModelLM"], "model_type": "llada", "vocab_size": 400, "embedding_size": 400,
         "d_model": 256, "hidden_size": 256, "n_heads": 8, "n_kv_heads": 8, "n_layers": 2, "num_hidden_layers": 2,
         "mlp_hidden_size": 512, "max_sequence_length": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
         "weight_tying": False, "mask_token_id": 399, "eos_token_id": 2},
        shapes=llada_shapes,
    ),
    "granite-swa": Entry(
        "GraniteSWA",
        {**SPM, "num_hidden_layers": 4, "sliding_window": 64, "attention_multiplier": 0.2, "embedding_multiplier": 3.0,
         "residual_multiplier": 0.4, "logits_scaling": 2.5},
        bpe=False,
    ),
    "granite-swa-positions": Entry(
        "GraniteSWA",
        {**SPM, "num_hidden_layers": 4, "sliding_window": 64, "layer_rope_theta": [0.0, 10000.0, 10000.0, 10000.0],
         "layer_types": ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]},
        bpe=False, edit=lambda config: config.update(no_rope_layers=[0, 1, 1, 1]),
    ),
    "granite-moe-swa": Entry(
        "GraniteMoeSWA",
        {**SPM, "num_hidden_layers": 4, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
         "shared_intermediate_size": 256, "sliding_window": 64},
        bpe=False,
    ),
    "bamba": Entry(
        "Bamba",
        {**SIZES, **MAMBA2, "num_hidden_layers": 3, "attn_layer_indices": [1], "mamba_n_groups": 2},
        edit=lambda config: config.update(attn_rotary_emb=16), apart=("attn_q.weight", "attn_k.weight"),
    ),
    "nemotron-puzzle": Entry(
        None,
        {**own("NemotronHPuzzleForCausalLM", "nemotron_h_puzzle", head_dim=64, mamba_num_heads=8, mamba_head_dim=64,
               n_groups=2, ssm_state_size=16, conv_kernel=4, n_routed_experts=4, n_shared_experts=1, n_group=1,
               topk_group=1, moe_shared_expert_intermediate_size=512, moe_latent_size=512, norm_topk_prob=True,
               routed_scaling_factor=2.5, layer_norm_epsilon=1e-5, norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
               num_hidden_layers=4, block_configs=[
                   {"block_type": "mamba"},
                   {"block_type": "moe", "moe_intermediate_size": 256, "num_experts_per_tok": 2},
                   {"block_type": "attention"},
                   {"block_type": "moe", "moe_intermediate_size": 512, "num_experts_per_tok": 1},
               ])},
        shapes=puzzle_shapes, told=lambda config: None,
    ),
    "youtu": Entry("Youtu", {**YOUTU, "pad_token_id": None}),  # the class takes its row of the embeddings for zeros
    "nemotron-h": Entry("NemotronH", {**NEMOTRON_H, "hybrid_override_pattern": "M-M*-"}, told=nemotron_published),
    "nemotron-h-published": Entry(
        "NemotronH", {**NEMOTRON_H, "hybrid_override_pattern": "M-M*-"}, edit=nemotron_published,
        told=lambda config: None,
    ),
    "nemotron-3": Entry("NemotronH", NEMOTRON_3, differs=NEMOTRON_EPSILON),
    "nemotron-3-latent-mtp": Entry(
        "NemotronH", {**NEMOTRON_3, "moe_latent_size": 512, "num_nextn_predict_layers": 1}, edit=nemotron_3_published,
        further=nemotron_mtp(512),
    ),
    "granite-4-h": Entry("GraniteMoeHybrid", GRANITE_H, edit=granite_published, told=lambda config: None),
    "granite-4-h-dense": Entry(
        "GraniteMoeHybrid", {**GRANITE_H, **WITHOUT_EXPERTS, "mamba_n_groups": 2}, told=granite_published
    ),
    "granite-4-h-wide": Entry(
        "GraniteMoeHybrid", {**GRANITE_H, **WITHOUT_EXPERTS, "shared_intermediate_size": 768}, told=granite_published,
        differs={"granitehybrid.feed_forward_length": 768},
    ),
    "granite-4": Entry(
        "GraniteMoeHybrid", {**GRANITE_H, **WITHOUT_EXPERTS, **ATTENTION_ALONE}, told=granite_published
    ),
    "granite-4-moe": Entry("GraniteMoeHybrid", {**GRANITE_H, **ATTENTION_ALONE}, told=granite_published),
    "granite-4-without-positions": Entry(
        "GraniteMoeHybrid", {**GRANITE_H, **WITHOUT_EXPERTS, **ATTENTION_ALONE, "position_embedding_type": "nope"},
        told=granite_published, differs={"granite.rope.scaling.finetuned": False},
    ),
    "falcon-h1": Entry("FalconH1", FALCON_H1),
    "falcon-h1-norm": Entry(
        "FalconH1", {**FALCON_H1, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "head_dim": 64}
    ),
    "rwkv6": Entry(
        None, RWKV6, bpe=False, shapes=rwkv6_shapes, files={WORLD_FILE: WORLD}, lacks=("tokenizer.chat_template",)
    ),
    "rwkv7": Entry(
        None, RWKV7, bpe=False, shapes=rwkv7_shapes, files={WORLD_FILE: WORLD}, lacks=("tokenizer.chat_template",)
    ),
    "kimi-linear": Entry("KimiLinear", KIMI_LINEAR, edit=kimi_published, published=kimi_mlp_published),
    "jamba": Entry(
        "Jamba",
        {**SPM, "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 4,
         "num_experts_per_tok": 2, "mamba_dt_rank": 256},
        bpe=False,
    ),
    "falcon-mamba": Entry(
        "FalconMamba", {"vocab_size": 400, "hidden_size": 256, "num_hidden_layers": 2, "state_size": 16,
                        "time_step_rank": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "qwen2-vl": Entry(
        "Qwen2VLForConditionalGeneration", {"text_config": {**SIZES, **QWEN_ROPE}, "vision_config": QWEN2_TOWER},
        edit=as_published_of_old,
    ),
    "qwen2.5-vl": Entry(
        "Qwen2_5_VLForConditionalGeneration",
        {"text_config": {**SIZES, **QWEN_ROPE}, "vision_config": QWEN25_TOWER, "tie_word_embeddings": True},
    ),
    "qwen3-vl": Entry(
        "Qwen3VLForConditionalGeneration",
        {"text_config": {**SIZES, **QWEN_ROPE, "head_dim": 32}, "vision_config": QWEN3_TOWER,
         "tie_word_embeddings": True},
    ),
    "qwen2.5-omni-saved": Entry(
        "Qwen2_5OmniForConditionalGeneration",
        {"enable_audio_output": False, "thinker_config": {
            "text_config": {**SIZES, **QWEN_ROPE}, "audio_config": OMNI_SOUND, "vision_config": QWEN25_TOWER}},
        edit=lambda config: config.update(architectures=["Qwen2_5OmniModel"]),
    ),
    "qwen3-omni-saved": Entry(
        "Qwen3OmniMoeForConditionalGeneration",
        {"enable_audio_output": False, "thinker_config": {
            "text_config": {**QWEN3_VL_MOE["text_config"], "moe_intermediate_size": 256},
            "audio_config": {**OMNI_SOUND, "downsample_hidden_size": 24}, "vision_config": QWEN3_TOWER}},
        files={"tokenizer_config.json": ENDED},
    ),
    "qwen3-asr-saved": Entry(
        "Qwen3ASRForConditionalGeneration",
        {"text_config": {**SIZES, **QWEN_ROPE, "head_dim": 32},
         "audio_config": {**OMNI_SOUND, "downsample_hidden_size": 24}, "pad_token_id": 0, "eos_token_id": 2},
        files={"tokenizer_config.json": TEMPLATED},
    ),
    "gemma4": Entry("Gemma4", {**GEMMA4, "hidden_size_per_layer_input": 0}, bpe=False),
    "gemma4-unified": Entry(
        "Gemma4UnifiedForConditionalGeneration", {"text_config": GEMMA4}, bpe=False, edit=published_gemma4,
        files={"generation_config.json": '{"suppress_tokens": [5, 7]}'},
    ),
    "gemma4-e": Entry(
        "Gemma4",
        {**GEMMA4, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 2, "use_double_wide_mlp": True},
        bpe=False,
    ),
    "gemma4-moe": Entry(
        "Gemma4",
        {**GEMMA4, "hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 2,
         "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 256},
        bpe=False,
    ),
    "llama4": Entry("Llama4", {**LLAMA4, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
    }}),
    "llama4-interleaved": Entry("Llama4", {**LLAMA4, "interleave_moe_layer_step": 2, "tie_word_embeddings": True}),
    "glm-4.7-flash": Entry(
        "Glm4MoeLite", GLM_LATENT, words=GLM_WORDS, edit=lambda config: config.update(scoring_func="sigmoid"),
    ),
    "glm-4.7-flash-next": Entry(
        "Glm4MoeLite", GLM_LATENT, words=GLM_WORDS, published=predicts_further,
        edit=lambda config: config.update(scoring_func="sigmoid", num_nextn_predict_layers=1),
    ),
    "glm-5-next": Entry(
        "GlmMoeDsa", {**GLM_LATENT, "index_head_dim": 256, "index_n_heads": 2, "index_topk": 2048,
                      "indexer_types": ["full", "full"]},
        words=GLM_WORDS, published=predicts_further,
        edit=lambda config: config.update(num_nextn_predict_layers=1),
    ),
    "glm-5": Entry(
        "GlmMoeDsa", {**GLM_LATENT, "index_head_dim": 128, "index_n_heads": ENOUGH_HEADS, "index_topk": 64,
                      "indexer_types": ["full", "shared"]},
        words=GLM_WORDS,
    ),
    "glm-4.1v": Entry(
        "Glm4vForConditionalGeneration",
        {"text_config": GLM_TEXT, "vision_config": GLM_TOWER},
        words=GLM_WORDS,
    ),
    "glm-4.5v": Entry(
        "Glm4vMoeForConditionalGeneration",
        {"text_config": {**GLM_TEXT, "head_dim": 32, "moe_intermediate_size": 256,
                         "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
         "vision_config": GLM_TOWER},
        words=GLM_WORDS,
    ),
    "gemma3n": Entry("Gemma3n", GEMMA3N, bpe=False, published=keys_of_sharing_layers),
    "qwen3-vl-moe": Entry("Qwen3VLMoeForConditionalGeneration", QWEN3_VL_MOE, published=turned),
    "gemma": Entry("Gemma", {**SPM, **HEAD64}, bpe=False),
    "seed-oss": Entry("SeedOss", {**SIZES, **HEAD64}),
    "starcoder2": Entry("Starcoder2", SIZES),
    "starcoder2-untied": Entry("Starcoder2", {**SIZES, "tie_word_embeddings": False}),
    "command-r": Entry("Cohere", SIZES, edit=lambda config: config.update(model_max_length=1024)),
    "cohere2": Entry(
        "Cohere2", {**FOUR, "head_dim": 32, "sliding_window": 64}, edit=lambda config: config.update(rotary_pct=1.0)
    ),
    "smollm3": Entry("SmolLM3", FOUR),
    "arcee": Entry("Arcee", SIZES),
    "arcee-yarn": Entry("Arcee", {**SIZES, "rope_parameters": YARN}),
    "nemotron": Entry("Nemotron", SPM, bpe=False),
    "nemotron-biases": Entry("Nemotron", {**SPM, "attention_bias": True, "mlp_bias": True}, bpe=False),
    "ernie4.5": Entry("Ernie4_5", {**SPM, **HEAD64}, bpe=False, files=SPACED),
    "phi-2": Entry("Phi", {**SIZES, **HEADS, "intermediate_size": 1024}),
    "glm-4-hf": Entry(
        "Glm", GLM_SIZES, words=GLM_WORDS,
        differs={"chatglm.context_length": 512, "chatglm.attention.layer_norm_rms_epsilon": 1.5625e-07},
    ),
    "glm-4-chat": Entry(
        None,
        {"architectures": ["ChatGLMModel"], "model_type": "chatglm", "hidden_size": 256, "num_layers": 2,
         "num_hidden_layers": 2, "num_attention_heads": 8, "kv_channels": 32, "multi_query_attention": True,
         "multi_query_group_num": 2, "ffn_hidden_size": 512, "padded_vocab_size": 408, "seq_length": 512,
         "layernorm_epsilon": 1.5625e-07, "rope_ratio": 500, "add_qkv_bias": True, "add_bias_linear": False,
         "rmsnorm": True, "apply_residual_connection_post_layernorm": False, "tie_word_embeddings": False},
        words=GLM_WORDS, shapes=chatglm_shapes,
        told=lambda config: config.update(vocab_size=408),  # without it the reference stops
    ),
    "glm-4-0414": Entry("Glm4", GLM_SIZES, words=GLM_WORDS),
    "hunyuan-dense": Entry(
        "HunYuanDenseV1", {**SIZES, **HEAD64, "eod_token_id": 5},
        files={"generation_config.json": '{"eos_token_id": [7, 8]}'},
    ),
    "hunyuan-dense-tied": Entry(
        "HunYuanDenseV1", {**SIZES, "tie_word_embeddings": True, "head_dim": 32, "eod_token_id": 4}
    ),
    "olmo": Entry("Olmo", {**SIZES, "clip_qkv": 8.0}),
    "jais2": Entry("Jais2", SIZES),
    "stablelm": Entry("StableLm", SIZES),
    "stablelm-parallel": Entry("StableLm", {**SIZES, "use_qkv_bias": True, "use_parallel_residual": True}),
    "exaone4": Entry("Exaone4", {**FOUR, "sliding_window": 64}, unlike="windows are those of the model of 64 layers",
                     graph=engine_graphs.no_windows),
    "exaone4-without-windows": Entry(
        "Exaone4", {**FOUR, "sliding_window": None, "layer_types": ["full_attention"] * 4}
    ),
    "ministral3": Entry("Ministral3", {**SIZES, "head_dim": 32, **MINISTRAL}),
    "internlm2": Entry(
        None, own("InternLM2ForCausalLM", "internlm2", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=1e6), bpe=False,
        shapes=internlm2_shapes,
    ),
    "internlm3": Entry(
        None,
        own("InternLM3ForCausalLM", "internlm3", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=5e7, head_dim=32,
            qkv_bias=True, bias=False, tie_word_embeddings=False),
        bpe=False, files=SPACED, shapes=lambda config: llama_shapes(config, qkv=True),
    ),
    "minicpm": Entry(
        None,
        own("MiniCPMForCausalLM", "minicpm", vocab_size=2048, rms_norm_eps=1e-5, scale_emb=12, dim_model_base=128,
            scale_depth=1.4, rope_theta=10000.0, tie_word_embeddings=True),
        bpe=False, shapes=llama_shapes,
    ),
    "orion": Entry(
        None,
        own("OrionForCausalLM", "orion", vocab_size=2048, rms_norm_eps=1e-5, max_sequence_length=256,
            rope_theta=10000.0),
        bpe=False, shapes=lambda config: llama_shapes(config, norms=("weight", "bias")),
    ),
    "maincoder": Entry(
        None,
        own("MaincoderForCausalLM", "maincoder", rms_norm_eps=1e-5, head_dim=32, rope_theta=1e6,
            tie_word_embeddings=True),
        shapes=lambda config: llama_shapes(
            config, extra={"self_attn.q_norm.weight": (32,), "self_attn.k_norm.weight": (32,)}
        ),
    ),
    "pangu": Entry(
        None,
        own("PanguEmbeddedForCausalLM", "PanguEmbedded", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=16e6,
            bias=True),
        bpe=False, files=SPACED,
        shapes=lambda config: {
            name: shape
            for name, shape in llama_shapes(config, bias=True).items()
            if "mlp" not in name or not name.endswith("bias")
        },
    ),
    "dream": Entry(
        None, own("DreamModel", "Dream", rms_norm_eps=1e-6, rope_theta=1e6, mask_token_id=399),
        shapes=lambda config: llama_shapes(config, qkv=True),
    ),
    "nanbeige": Entry(
        None, own("NanbeigeForCausalLM", "nanbeige", rms_norm_eps=1e-5, rope_theta=1e6, num_loops=2),
        shapes=llama_shapes,
    ),
    "dots1": Entry(
        "Dots1",
        {**SIZES, **HEADS, **HEAD64, "moe_intermediate_size": 256, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "n_shared_experts": 2, "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5},
        differs={"dots1.expert_gating_func": 2},
    ),
    "ernie4.5-moe": Entry(
        "Ernie4_5_Moe",
        {**SPM, "num_key_value_heads": 2, "moe_intermediate_size": 256, "moe_num_experts": 4, "moe_k": 2,
         "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
        bpe=False, files=SPACED,
    ),
    "mellum": Entry(
        "Mellum",
        {**FOUR, **HEAD64, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2,
         "sliding_window": 64, "layer_types": (["sliding_attention"] * 3 + ["full_attention"])},
    ),
    "granite-moe": Entry(
        "GraniteMoe",
        {**SPM, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.2,
         "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.5},
        bpe=False,
    ),
    "granite-moe-shared": Entry(
        "GraniteMoeShared",
        {**SPM, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
         "shared_intermediate_size": 512},
        bpe=False,
    ),
    "phimoe": Entry(
        "Phimoe",
        {**SPM, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True,
         "lm_head_bias": True},
        bpe=False, edit=lambda config: config.update(
            architectures=["PhiMoEForCausalLM"], original_max_position_embeddings=512
        ),
        unlike="of norms, and of the weights of experts", graph=engine_graphs.phi_with_experts,
    ),
    "mpt": Entry(
        None,
        {"architectures": ["MPTForCausalLM"], "model_type": "mpt", "vocab_size": 400, "d_model": 256, "n_layers": 2,
         "n_heads": 4, "max_seq_len": 512, "num_hidden_layers": 2, "attn_config": {"alibi": True, "alibi_bias_max": 8,
         "clip_qkv": 6.0}},
        shapes=mpt_shapes,
    ),
    "codeshell": Entry(
        None,
        {"architectures": ["CodeShellForCausalLM"], "model_type": "kclgpt", "vocab_size": 400, "n_embd": 256,
         "n_layer": 2, "n_head": 8, "num_query_groups": 2, "n_positions": 512, "layer_norm_epsilon": 1e-5,
         "num_hidden_layers": 2},
        shapes=lambda config: gpt2_like(
            config,
            {"attn.c_attn": (384, 256), "attn.c_proj": (256, 256), "mlp.c_fc": (1024, 256), "mlp.c_proj": (256, 1024)},
            biases=True,
        ),
    ),
    "refact": Entry(
        None,
        {"architectures": ["GPTRefactForCausalLM"], "model_type": "gpt_refact", "vocab_size": 400, "n_embd": 256,
         "n_layer": 2, "n_head": 8, "n_positions": 512, "layer_norm_epsilon": 1e-5, "num_hidden_layers": 2},
        shapes=lambda config: gpt2_like(
            config,
            {"attn.q": (256, 256), "attn.kv": (64, 256), "attn.c_proj": (256, 256), "mlp.gate_up_proj": (1536, 256),
             "mlp.c_proj": (256, 768)},
            biases=False,
        ),
    ),
    "exaone-3.5": Entry(
        None,
        {"architectures": ["ExaoneForCausalLM"], "model_type": "exaone_own", "vocab_size": 400, "hidden_size": 256,
         "num_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 512,
         "max_position_embeddings": 512, "layer_norm_epsilon": 1e-5, "activation_function": "silu", "head_dim": 32,
         "rope_theta": 1e6, "num_hidden_layers": 2},
        shapes=lambda config: gpt2_like(
            config,
            {"attn.attention.q_proj": (256, 256), "attn.attention.k_proj": (128, 256),
             "attn.attention.v_proj": (128, 256), "attn.attention.out_proj": (256, 256), "mlp.c_fc_0": (512, 256),
             "mlp.c_fc_1": (512, 256), "mlp.c_proj": (256, 512)},
            biases=False,
        ),
        differs={"exaone.attention.layer_norm_rms_epsilon": 1e-5},
    ),
    "ling-lite": Entry(
        None,
        own("BailingMoeForCausalLM", "bailing_moe", moe_intermediate_size=256, num_experts=4, num_experts_per_tok=2,
            num_shared_experts=2, first_k_dense_replace=0, norm_topk_prob=True, rms_norm_eps=1e-6, rope_theta=6e5),
        shapes=mixture_shapes,
    ),
    "ling-2.0": Entry(
        None,
        own("BailingMoeV2ForCausalLM", "bailing_moe_v2", moe_intermediate_size=256, num_experts=4,
            num_experts_per_tok=2, num_shared_experts=1, first_k_dense_replace=1, norm_topk_prob=True, n_group=2,
            topk_group=1, rms_norm_eps=1e-6, rope_theta=6e5, head_dim=32, routed_scaling_factor=2.5,
            score_function="sigmoid", num_nextn_predict_layers=0),
        shapes=lambda config: mixture_shapes(config, second=True),
    ),
    "llada-moe": Entry(
        None,
        own("LLaDAMoEModelLM", "llada_moe", expert_intermediate_size=256, num_experts=4, num_experts_per_tok=2,
            rms_norm_eps=1e-5, rope_theta=5e4),
        shapes=llada_moe_shapes,
    ),
    "smallthinker": Entry(
        None,
        {key: value for key, value in own(
            "SmallThinkerForCausalLM", "smallthinker", moe_ffn_hidden_size=256, moe_num_primary_experts=4,
            moe_num_active_primary_experts=2, head_dim=32, rms_norm_eps=1e-6, rope_theta=1e6, num_hidden_layers=4,
            sliding_window_layout=[0, 1, 1, 1], sliding_window_size=64, tie_word_embeddings=True,
        ).items() if key != "intermediate_size"},
        shapes=smallthinker_shapes,
    ),
    "deepseek-moe": Entry(
        None,
        own("DeepseekForCausalLM", "deepseek", moe_intermediate_size=256, n_routed_experts=4, num_experts_per_tok=2,
            n_shared_experts=2, first_k_dense_replace=1, norm_topk_prob=False, scoring_func="softmax",
            rms_norm_eps=1e-6, rope_theta=10000.0),
        shapes=deepseek_shapes,
    ),
    "minicpm3": Entry(
        "MiniCPM3",
        {**SPM, "num_key_value_heads": 8, "kv_lora_rank": 256, "q_lora_rank": 256, "qk_nope_head_dim": 32,
         "qk_rope_head_dim": 16},
        bpe=False,
    ),
    "deepseek-v3.2": Entry(
        "DeepseekV32",
        {**FOUR, "num_key_value_heads": 8, "kv_lora_rank": 256, "q_lora_rank": 256, "qk_nope_head_dim": 256,
         "qk_rope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "n_shared_experts": 1, "moe_intermediate_size": 256, "n_group": 1, "topk_group": 1,
         "first_k_dense_replace": 1, "index_head_dim": 128, "index_n_heads": ENOUGH_HEADS, "index_topk": 64,
         "num_nextn_predict_layers": 0},
        edit=lambda config: config.update(scoring_func="sigmoid", topk_method="noaux_tc"),
    ),
    "deepseek-v3.2-mtp": Entry(
        "DeepseekV32",
        {**SIZES, "num_key_value_heads": 8, "kv_lora_rank": 256, "q_lora_rank": 256, "qk_nope_head_dim": 256,
         "qk_rope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "n_shared_experts": 1, "moe_intermediate_size": 256, "n_group": 1, "topk_group": 1,
         "first_k_dense_replace": 1, "index_head_dim": 128, "index_n_heads": 4, "num_nextn_predict_layers": 1},
        further=deepseek_mtp(2), differs={"deepseek32.expert_gating_func": 2},
    ),
    "deepseek-v4": Entry(
        "DeepseekV4",
        {**FOUR, "head_dim": 256, "num_attention_heads": 4, "num_key_value_heads": 1, "q_lora_rank": 256,
         "o_lora_rank": 256, "o_groups": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
         "moe_intermediate_size": 256, "index_head_dim": 128, "index_n_heads": 4, "index_topk": 8, "hc_mult": 4,
         "hc_sinkhorn_iters": 4, "sliding_window": 64, "swiglu_limit": 0.5, "num_nextn_predict_layers": 1,
         "compress_ratios": [0, 4, 128, 4, 0], "num_hash_layers": 1, "qk_rope_head_dim": 64},
        edit=as_deepseek4, published=as_published4, lacks=("tokenizer.chat_template",),
        further={"layers.0.ffn.gate.bias": (4,), "layers.0.ffn.gate.bias_vl": (4,), "mtp.0.norm.weight": (256,)},
    ),
    "gemma-4-assistant": Entry(
        "Gemma4Assistant",
        {"backbone_hidden_size": 512, "use_ordered_embeddings": True, "num_centroids": 4, "text_config": {
            **GEMMA4, "model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0,
        }},
        bpe=False, drafts=True, unlike="it predicts from what a Gemma 4 computes",
    ),
    "eagle3": Entry(
        None,
        own("LlamaForCausalLMEagle3", "llama", num_hidden_layers=1, rms_norm_eps=1e-5, draft_vocab_size=128,
            rope_theta=10000.0, tie_word_embeddings=False, hidden_act="silu", head_dim=64, norm_before_residual=True,
            eagle_aux_hidden_state_layer_ids=[0, 1, 2]),
        shapes=eagle3_shapes, published=with_tables, drafts=True, target="arcee", unlike=OF_ANOTHER,
    ),
    "eagle3-unnamed": Entry(  # all tokens of the target are drafted
        None,
        own("LlamaForCausalLM", "llama", num_hidden_layers=1, rms_norm_eps=1e-5, draft_vocab_size=400,
            rope_theta=10000.0, tie_word_embeddings=False, hidden_act="silu", head_dim=64),
        shapes=eagle3_shapes, drafts=True, target="spark-x2.5", unlike=OF_ANOTHER,
    ),
    "eagle3-speculator": Entry(
        None,
        {"architectures": ["Eagle3Speculator"], "model_type": "speculator_model", "draft_vocab_size": 400,
         "norm_before_fc": True, "transformer_layer_config": {
             **SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1,
             "rms_norm_eps": 1e-5, "head_dim": 32, "rope_theta": 500000.0, "hidden_act": "silu", "rope_scaling": {
                 "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_max_position_embeddings": 256}}},
        shapes=lambda config: eagle3_shapes(config, "layers.0.", normed=True), drafts=True, target="spark-x2.5",
        unlike=OF_ANOTHER,
    ),
    "dflash": Entry(
        None,
        own("DFlashDraftModel", "qwen3", head_dim=64, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=False,
            hidden_act="silu", block_size=8, dflash_config={"mask_token_id": 7, "target_layer_ids": [0, 1]}),
        shapes=dflash_shapes, drafts=True, target="arcee", unlike=OF_ANOTHER,
    ),
    "dflash-2": Entry(  # of a target that rotates by axes, with convolutions and a selector of candidates
        None,
        own("DFlash2DraftModel", "qwen3", head_dim=64, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=False,
            hidden_act="silu", use_sliding_window=True, sliding_window=64, has_embed_tokens=False,
            layer_types=["sliding_attention", "full_attention"], is_causal=True, dflash_config={
                "mask_token_id": 7, "target_layer_ids": [0, 1], "conv_kernel_size": 4, "conv_group_size": 16,
                "selector_rank": 256, "selector_top_k": 4, "attention_value_scale": 0.5, "output_multiplier": 0.25,
                "final_logit_softcapping": 30.0, "input_embedding_scale": 16.0}),
        shapes=lambda config: dflash_shapes(config, "model."),
        further={
            **{f"model.layers.{n}.{part}_conv.base_kernel": (2, 4, 256) for n in (0, 1)
               for part in ("attention", "mlp")},
            **{f"model.layers.{n}.{part}_conv.kernel_projection.weight": (128, 256) for n in (0, 1)
               for part in ("attention", "mlp")},
            **{f"model.layers.{n}.self_attn.sinks": (8,) for n in (0, 1)},
            "model.embed_tokens.weight": (400, 256), "model.candidate_selector.hidden_projection.weight": (256, 256),
            "model.candidate_selector.predecessor_codebook": (400, 256),
            "model.candidate_selector.successor_codebook": (400, 256),
        },
        drafts=True, target="qwen3-vl", unlike=OF_ANOTHER,
    ),
    "muse-glimmer-assistant": Entry(
        "MuseGlimmerAssistantModel",
        {**{key: value for key, value in SIZES.items() if key != "vocab_size"}, "head_dim": 64, "sliding_window": 64,
         "mask_token_id": 7, "target_layer_ids": [0, 1, 2]},
        drafts=True, target="spark-x2.5", unlike=OF_ANOTHER,
    ),
    "dspark": Entry(
        None,
        own("Qwen3DSparkModel", "qwen3", head_dim=64, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=False,
            hidden_act="silu", block_size=8, mask_token_id=7, target_layer_ids=[0, 1]),
        shapes=dspark_shapes, drafts=True, target="arcee", unlike=OF_ANOTHER,
    ),
    "dspark-reduced": Entry(
        None,
        own("DSparkSpeculator", "qwen3", head_dim=64, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=False,
            hidden_act="silu", draft_vocab_size=128, mask_token_id=7, aux_hidden_state_layer_ids=[1, 2]),
        shapes=lambda config: dspark_shapes(config, embeds=False), published=with_tables, drafts=True, target="arcee",
        unlike=OF_ANOTHER,
    ),
    "grok-2": Entry(
        None,
        own("GrokForCausalLM", "grok", num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=256,
            rms_norm_eps=1e-5, rope_theta=1e6, attn_logit_softcapping=20.0, final_logit_softcapping=50.0,
            embedding_multiplier_scale=1.5, output_multiplier_scale=0.5, attn_temperature_len=1024,
            rope_type="original", scaling_factor=16.0, original_max_position_embeddings=8192, beta_fast=8, beta_slow=1,
            extrapolation_factor=1.0, attn_factor=1.0, tie_word_embeddings=False),
        shapes=grok_shapes, files=CHAT,
    ),
    "grok-1": Entry(
        None,
        own("Grok1ForCausalLM", "grok-1", rope_theta=10000.0, num_local_experts=4, num_experts_per_tok=2,
            rms_norm_eps=1e-5,
            embedding_multiplier_scale=1.5, output_multiplier_scale=0.5, attn_output_multiplier=0.25,
            tie_word_embeddings=True),
        shapes=grok_1_shapes, files=CHAT,
    ),
    "bitnet": Entry(
        "BitNet", {**SPM, "hidden_act": "silu", "tie_word_embeddings": True, "rope_theta": 10000.0},
        bpe=False, published=of_two_values,
    ),
    "minimax-01": Entry(
        "MiniMax",
        {**SIZES, "num_hidden_layers": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 256,
         "head_dim": 32, "rms_norm_eps": 1e-6, "layer_types": [*["linear_attention"] * 7, "full_attention"],
         **{f"{part}_alpha_factor": 1.5 for part in ("full_attn", "linear_attn", "mlp")}},
        edit=as_minimax, published=without_decays, lacks=("tokenizer.chat_template",),
    ),
    "qrwkv-6": Entry(
        None,
        own("RWKV6Qwen2ForCausalLM", "rwkv6qwen2", num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6,
            tie_word_embeddings=False),
        shapes=rwkv6qwen2_shapes,
    ),
    **{
        name: Entry(
            None,
            own("RwkvHybridForCausalLM", "rwkv_hybrid", head_size=64, rms_norm_eps=1e-6, wkv_version=7,
                wkv_has_gate=gated, tie_word_embeddings=False),
            shapes=arwkv7_shapes,
        )
        for name, gated in (("arwkv-7", True), ("arwkv-7-ungated", False))
    },
    "kimi-k3": Entry(
        None,
        {"architectures": ["KimiK3ForConditionalGeneration"], "model_type": "kimi_k3", "text_config": {
            **SIZES, "num_hidden_layers": 4, "architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear",
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128, "q_lora_rank": 256,
            "kv_lora_rank": 256, "qk_nope_head_dim": 256, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "mla_use_nope": True, "num_experts": 4, "num_experts_per_token": 2, "num_shared_experts": 1,
            "moe_intermediate_size": 256, "routed_expert_hidden_size": 256, "first_k_dense_replace": 1,
            "routed_scaling_factor": 2.5, "moe_renormalize": True, "moe_router_activation_func": "sigmoid",
            "moe_layer_freq": 1, "num_expert_group": 1, "topk_group": 1, "hidden_act": "situ", "rms_norm_eps": 1e-6,
            "activation_situ_beta": 1.5, "activation_situ_linear_beta": 2.0, "attn_res_block_size": 2,
            "rope_theta": 10000.0, "tie_word_embeddings": False, "linear_attn_config": {
                "full_attn_layers": [3], "kda_layers": [1, 2, 4], "head_dim": 256, "num_heads": 2,
                "short_conv_kernel_size": 4, "gate_lower_bound": -5.0,
            },
        }},
        shapes=kimi_k3_shapes, lacks=("tokenizer.chat_template",),
    ),
    "grovemoe": Entry(
        None,
        own("GroveMoeForCausalLM", "grove_moe", head_dim=256, num_attention_heads=2, num_key_value_heads=1,
            moe_intermediate_size=256, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, rms_norm_eps=1e-6,
            rope_theta=1e6),
        shapes=grovemoe_shapes,
    ),
    "arctic": Entry(
        None,
        own("ArcticForCausalLM", "arctic", vocab_size=2048, num_local_experts=4, num_experts_per_tok=2,
            rms_norm_eps=1e-5, rope_theta=1e6),
        bpe=False, shapes=arctic_shapes,
    ),
    "xverse": Entry(
        None,
        own("XverseForCausalLM", "xverse", vocab_size=2048, num_key_value_heads=8, rms_norm_eps=1e-6,
            rope_theta=1e6),
        bpe=False, shapes=llama_shapes,
    ),
    "baichuan": Entry(
        None,
        {**own("BaichuanForCausalLM", "baichuan", vocab_size=2048, rms_norm_eps=1e-6, num_hidden_layers=32,
               intermediate_size=256, num_key_value_heads=8)},
        bpe=False, shapes=baichuan_shapes,
    ),
    "dbrx": Entry(
        "Dbrx",
        {"vocab_size": 400, "d_model": 256, "n_heads": 8, "n_layers": 2, "max_seq_len": 512, "bos_token_id": 1,
         "eos_token_id": 2, "attn_config": {"kv_n_heads": 4, "clip_qkv": 8.0, "rope_theta": 500000.0},
         "ffn_config": {"ffn_hidden_size": 512, "moe_num_experts": 4, "moe_top_k": 2}, "num_hidden_layers": 2,
         "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    ),
    "qwen": Entry(
        None,
        {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "vocab_size": 400, "hidden_size": 256,
         "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8, "seq_length": 512,
         "max_position_embeddings": 512, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 20000, "no_bias": True},
        shapes=lambda config: gpt2_like(
            config, {"attn.c_attn": (768, 256), "attn.c_proj": (256, 256), "mlp.w1": (512, 256), "mlp.w2": (512, 256),
                     "mlp.c_proj": (256, 512)}, biases=False,
        ) | {f"transformer.h.{layer}.attn.c_attn.bias": (768,) for layer in range(2)},
        differs={"qwen.attention.layer_norm_rms_epsilon": 1e-6},
    ),
    "nemotron-super": Entry(
        None,
        own("DeciLMForCausalLM", "nemotron-nas", num_hidden_layers=4, num_key_value_heads=None, intermediate_size=None,
            rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=False,
            block_configs=[
                {"attention": {"n_heads_in_group": group, "replace_with_linear": linear}, "ffn": {"ffn_mult": mult}}
                for group, linear, mult in ((2, False, 3.0), (None, False, 1.4), (None, True, 3.0), (4, False, 1.5))
            ]),
        shapes=nemotron_nas_shapes,
    ),
    "decilm": Entry(
        None,
        own("DeciLMForCausalLM", "deci", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=10000.0, num_key_value_heads=4,
            num_key_value_heads_per_layer=[4, 2]),
        bpe=False,
        shapes=lambda config: llama_shapes(config) | {
            f"model.layers.1.self_attn.{p}_proj.weight": (64, 256) for p in "kv"
        },
    ),
    **{
        name: Entry(
            None,
            {**own("Step3p5ForCausalLM", "step3p5", num_hidden_layers=4, head_dim=32, num_attention_groups=4,
                   moe_num_experts=4, moe_top_k=2, moe_intermediate_size=256, share_expert_dim=256,
                   moe_layers_enum="1,2,3", moe_every_n_layer=1, norm_expert_weight=True,
                   moe_router_activation="sigmoid", moe_router_scaling_factor=3.0, rope_theta=[5e6, 1e4, 1e4, 1e4],
                   layer_types=["full_attention", *["sliding_attention"] * 3] + ["sliding_attention"] * further,
                   partial_rotary_factors=[0.5, *[1.0] * (3 + further)], sliding_window=64,
                   attention_other_setting={"num_attention_heads": 16, "num_attention_groups": 8},
                   swiglu_limits=[None, 7.0, 7.0, 16.0], swiglu_limits_shared=[0.0, 0.0, 0.0, 16.0],
                   rms_norm_eps=1e-5, num_nextn_predict_layers=further)},
            shapes=step35_shapes,
        )
        for name, further in (("step-3.5", 0), ("step-3.5-mtp", 1))
    },
    "llama-embed": Entry(
        None,
        own("LlamaBidirectionalModel", "llama_bidirec", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=1e4,
            is_causal=False),
        bpe=False,
        shapes=lambda config: {
            name.removeprefix("model."): shape for name, shape in llama_shapes(config).items() if "lm_head" not in name
        },
    ),
    "mimo-v2": Entry(
        "MiMoV2Flash",
        {**FOUR, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 32, "v_head_dim": 16,
         "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "sliding_window": 64},
        edit=as_xiaomi, further=mimo_mtp(),
    ),
    "apertus": Entry("Apertus", {**SIZES, "mlp_bias": False}),
    "trinity": Entry(
        "Afmoe",
        {**FOUR, **HEAD64, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2,
         "num_shared_experts": 1, "num_dense_layers": 1, "sliding_window": 64, "mup_enabled": True,
         "route_scale": 2.5},
        edit=lambda config: config.update(score_func="sigmoid", route_norm=True, n_group=1, topk_group=1),
    ),
    "k-exaone": Entry(
        "ExaoneMoe",
        {**FOUR, "sliding_window": 64, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2,
         "num_shared_experts": 1},
        edit=lambda config: config.update(scoring_func="sigmoid"),
    ),
    "k-exaone-mtp": Entry(
        "ExaoneMoe",
        {**FOUR, "sliding_window": 64, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2,
         "num_shared_experts": 1, "num_nextn_predict_layers": 1},
        edit=lambda config: config.update(scoring_func="sigmoid"), further=k_exaone_mtp(),
    ),
    "trinity-as-saved": Entry(
        "Afmoe",
        {**FOUR, **HEAD64, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2,
         "num_shared_experts": 1, "num_dense_layers": 1, "sliding_window": 64, "mup_enabled": True},
        differs={"afmoe.expert_gating_func": 2, "afmoe.expert_weights_norm": True},
    ),
    "k-exaone-as-saved": Entry(
        "ExaoneMoe",
        {**FOUR, "sliding_window": 64, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2,
         "num_shared_experts": 2, "norm_topk_prob": False},
        differs={"exaone-moe.expert_gating_func": 2},
    ),
    "cohere2-moe": Entry(
        "Cohere2Moe",
        {**FOUR, "head_dim": 32, "sliding_window": 64, "num_experts": 4, "num_experts_per_tok": 2,
         "num_shared_experts": 1, "expert_selection_fn": "sigmoid", "prefix_dense_intermediate_size": 768,
         "first_k_dense_replace": 1},
    ),
    "cohere2-moe-mtp": Entry(
        "Cohere2Moe",
        {**FOUR, "head_dim": 32, "sliding_window": 64, "num_experts": 4, "num_experts_per_tok": 2,
         "num_shared_experts": 1, "expert_selection_fn": "sigmoid", "num_nextn_predict_layers": 1},
        further=cohere2_mtp(4),
    ),
    "cohere2-moe-of-one-width": Entry(
        "Cohere2Moe",
        {**SIZES, "head_dim": 32, "sliding_window": 64, "num_experts": 4, "num_experts_per_tok": 2,
         "first_k_dense_replace": 1},
        differs={"cohere2moe.feed_forward_length": 512},
    ),
    "cohere2-moe-softmax": Entry(
        "Cohere2Moe",
        {**FOUR, "head_dim": 32, "sliding_window": 64, "num_experts": 4, "num_experts_per_tok": 2,
         "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    ),
    "hunyuan-moe": Entry(
        "HunYuanMoEV1", {**SIZES, "num_experts": 4, "moe_topk": 2, "intermediate_size": 256, "head_dim": 32},
        edit=lambda config: config.update(
            moe_intermediate_size=[256, 256], moe_topk=[2, 2], num_shared_expert=[1, 1]
        ),
    ),
    "hunyuan-moe-stretched": Entry(
        "HunYuanMoEV1",
        {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4, "moe_topk": 2,
         "intermediate_size": 256, "head_dim": 128, "max_position_embeddings": 32768,
         "rope_parameters": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0}},
        edit=lambda config: config.update(
            moe_intermediate_size=[256, 256], moe_topk=[2, 2], num_shared_expert=[1, 1]
        ),
    ),
    **{
        name: Entry(
            "HYV3",
            {**FOUR, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 2,
             "moe_intermediate_size": 256, "router_scaling_factor": 2.5},
            edit=lambda config, count=count: config.update(route_norm=True, num_nextn_predict_layers=count),
            further=hy3_mtp() if count else {},
        )
        for name, count in (("hy-3", 0), ("hy-3-mtp", 1))
    },
    **{
        name: Entry(
            "Laguna",
            {**FOUR, "vocab_size": 401, "num_hidden_layers": 5, "head_dim": 32, "num_experts": 4, "gating": gating,
             "num_experts_per_tok": 2, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
             "num_attention_heads_per_layer": [8, 16, 16, 16, 8], "sliding_window": 64,
             "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
             "moe_routed_scaling_factor": 2.5},
            words=("</assistant>",), edit=lambda config: config.update(bos_token_id=2, eos_token_id=[2, 400]),
        )
        for name, gating in (("laguna", True), ("laguna-by-channel", "per-element"))
    },
    "minimax-m3": Entry(
        "MiniMaxM3SparseForConditionalGeneration",
        {"text_config": {
            **FOUR, "head_dim": 64, "rotary_dim": 32, "intermediate_size": 256, "dense_intermediate_size": 512,
            "shared_intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "index_n_heads": 4,
            "index_head_dim": 64, "index_block_size": 16, "index_topk_blocks": 3, "index_local_blocks": 1,
            "mlp_layer_types": ["dense", *["sparse"] * 3],
            "layer_types": ["full_attention", *["minimax_m3_sparse"] * 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
         },
         "vision_config": {
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
         },
         "projector_hidden_size": 32},
        edit=as_minimax_m3,
    ),
    "hy-4": Entry(
        "HYV4",
        {**FOUR, "num_key_value_heads": 8, "kv_lora_rank": 256, "q_lora_rank": 256, "qk_nope_head_dim": 256,
         "qk_rope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "n_shared_experts": 1, "moe_intermediate_size": 256, "index_head_dim": 128, "index_n_heads": ENOUGH_HEADS,
         "index_topk": 64, "hc_mult": 2, "swiglu_limit": 0.5, "indexer_types": ["full", "shared", "full", "shared"]},
        edit=lambda config: config.update(first_k_dense_replace=1, enable_lm_head_fp32=True), published=as_tencent,
        unlike="transformers 5.24 rotates halves of a head", graph=engine_graphs.pairs_side_by_side,
    ),
    "ling-3": Entry(
        "BailingHybrid",
        {**FOUR, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128, "kv_lora_rank": 256,
         "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 256, "num_experts": 4,
         "num_experts_per_token": 2, "moe_intermediate_size": 256, "num_shared_experts": 1, "num_expert_group": 2,
         "topk_group": 1, "first_k_dense_replace": 1, "layer_group_size": 2, "num_nextn_predict_layers": 0},
        edit=as_inclusion,
    ),
    "qwen-3.8": Entry(
        "Qwen4Exp",
        {**FOUR, "head_dim": 64, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2,
         "linear_num_value_heads": 4, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
         "num_experts": 4, "num_experts_per_tok": 2, "hc_count": 2, "hc_lowrank": 256, "ple_layer_ids": [2],
         "ple_embed_dim": 256, "ngram_size": 3, "heads_per_ngram": 4, "ngram_vocab_size_base": 61,
         "make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 2, "indexer_n_heads": 2, "indexer_kv_heads": 1,
         "indexer_head_dim": 64, "indexer_budget": 64, "indexer_compress_ratio": 8, "output_gate_type": "sigmoid",
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5,
                             "mrope_section": [6, 5, 5], "mrope_interleaved": True}},
        # transformers calls full attention otherwise, and the reference takes it for attention without an indexer
        told=lambda config: config.update(layer_types=[*["linear_attention"] * 3, "full_attention"]),
    ),
    "granite-switch": Entry(
        None,
        own("GraniteSwitchForCausalLM", "granite_switch", num_hidden_layers=3, rms_norm_eps=1e-5, rope_theta=1e7,
            shared_intermediate_size=512, num_local_experts=0, num_experts_per_tok=8, num_adapters=3, max_lora_rank=32,
            adapter_token_ids=[390, 391, 392], adapter_substitute_token_ids=[5, 6, 7], tie_word_embeddings=True,
            attention_multiplier=0.125, embedding_multiplier=6.0, residual_multiplier=0.5, logits_scaling=4.0),
        shapes=granite_switch_shapes,
        differs={"general.size_label": "2.3M"},  # the reference takes a file with adapters for one of an adapter
    ),
    **{
        name: Entry(
            "ChameleonForConditionalGeneration",
            {**SIZES, **HEADS, "vocab_size": 8448, "swin_norm": after,
             "vq_config": IMAGE_TOKENS, "vocabulary_map": {"<image>": 8447}},
            edit=lambda config: config["vocabulary_map"].update(CHAMELEON_IDS), published=of_one_shard,
            unlike="of what the MLP reads" if after else None,
            graph=engine_graphs.mlp_without_residual if after else None,
        )
        for name, after in (("chameleon", False), ("chameleon-swin", True))
    },
    "plamo-2": Entry(
        None,
        own("Plamo2ForCausalLM", "plamo2", num_hidden_layers=4, hidden_size_per_head=64, mamba_num_heads=4,
            mamba_d_state=64, mamba_d_conv=4, mamba_step=2, mamba_enabled=True, rms_norm_eps=1e-6, rope_theta=1e4,
            tie_word_embeddings=True),
        bpe=False, shapes=plamo2_shapes, files=PLAMO, differs={"plamo2.attention.head_count": 8},
    ),
    "plamo": Entry(  # its 40 heads, of fewer dimensions
        None,
        own("PlamoForCausalLM", "plamo", vocab_size=2048, hidden_size=1280, intermediate_size=256,
            num_attention_heads=40, num_key_value_heads=40, n_shared_head=8, rms_norm_eps=1e-6,
            tie_word_embeddings=False),
        bpe=False, shapes=plamo_shapes,
    ),
    "plamo-3": Entry(
        None,
        own("Plamo3ForCausalLM", "plamo3", num_hidden_layers=4, head_dim=64, rms_norm_eps=1e-6, rope_theta=1e6,
            rope_local_theta=10000.0, window_size=64, sliding_window_pattern=4, rope_scaling_factor=4.0,
            initial_context_length=128, tie_word_embeddings=False),
        bpe=False, shapes=plamo3_shapes, files={**PLAMO, **CHAT},
    ),
    "rugpt3xl": Entry(
        None,
        {**UNGROUPED, "architectures": ["RuGPT3XLForCausalLM"], "model_type": "rugpt3xl", "layer_norm_eps": 1e-5,
         "hidden_act": "gelu_new", "sparse_mode": "none", "tie_word_embeddings": False},
        shapes=rugpt3xl_shapes,
    ),
    "cogvlm": Entry(
        None,
        {**own("CogVLMForCausalLM", "cogvlm", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=1e4), **HEADS},
        bpe=False, shapes=cogvlm_shapes, adds=".vis_", differs={"general.size_label": "3.7M"},
    ),
    "muse-glimmer": Entry(
        "MuseGlimmerForConditionalGeneration",
        {"text_config": {**FOUR, "vocab_size": 401, "head_dim": 32, "sliding_window": 64,
                         "final_logit_softcapping": 0.1},
         "vision_config": {
             "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "patch_size": 14, "pos_emb_height": 2, "pos_emb_width": 2,
         },
         "out_hidden_size": 128, "projector_hidden_size": 32},
        words=("<|eot|>",),
    ),
    "glm-5.3-flash": Entry(
        "Glm5NextForConditionalGeneration",
        {"text_config": {
            **FOUR, "vocab_size": 408, "num_key_value_heads": 8, "kv_lora_rank": 256, "q_lora_rank": 256,
            "qk_nope_head_dim": 256, "v_head_dim": 64, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 256, "mlp_layer_types": ["dense", *["sparse"] * 3], "index_head_dim": 128,
            "index_n_heads": ENOUGH_HEADS, "index_topk": 32, "index_kpool": 8, "linear_head_dim": 128,
            "linear_num_heads": 8, "swiglu_limit": 0.5,
            "layer_types": ["linear_attention", "indexed_attention", "linear_attention", "indexed_attention"],
         },
         "vision_config": {"hidden_size": 32, "intermediate_size": 32, "depth": 1, "num_heads": 2,
                           "out_hidden_size": 256, "projection_intermediate_size": 64}},
        words=GLM_WORDS, edit=as_zai,
    ),
    "talkie": Entry(
        None,
        own("TalkieForCausalLM", "talkie", num_key_value_heads=8, head_dim=32, rope_theta=1e6),
        shapes=talkie_shapes,
    ),
    **{
        name: Entry(
            "HrmText",
            {**UNGROUPED, "head_dim": 32, "H_cycles": 2, "L_cycles": 1, "num_hidden_layers": 1,
             "prefix_lm": False},
            edit=edit,
        )
        for name, edit in (
            ("hrm-text", None),
            ("hrm-text-as-trained", lambda config: [config.pop(k) for k in ("num_layers_per_stack", "embedding_scale")]
             and config.update(num_hidden_layers=1)),
        )
    },
    "spark-x2.5": Entry(
        None,
        own("Spark2_5ForCausalLM", "spark2_5", num_hidden_layers=4, head_dim=32, rms_norm_eps=1e-6, hidden_act="gelu",
            gate_attn_act_mode="sigmoid", headwise_attn_output_gate=True, sliding_window=64,
            layer_types=[*["sliding_attention"] * 3, "full_attention"], tie_word_embeddings=False,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
            }),
        shapes=spark_shapes,
    ),
    "maple": Entry(
        None,
        own("MapleForCausalLM", "maple", num_hidden_layers=4, head_dim=32, rms_norm_eps=1e-6, hidden_act="silu",
            sliding_window=64, layer_types=[*["sliding_attention"] * 3, "full_attention"], moe_intermediate_size=256,
            num_experts=4, num_experts_per_tok=2, num_shared_experts=0, norm_topk_prob=True,
            nope_on_global_attention=True, rope_theta=1e6),
        shapes=maple_shapes,
    ),
    "openelm": Entry(
        None,
        {"architectures": ["OpenELMForCausalLM"], "model_type": "openelm", "vocab_size": 2048, "model_dim": 256,
         "num_transformer_layers": 3, "head_dim": 32, "num_query_heads": [8, 8, 16], "num_kv_heads": [2, 4, 4],
         "ffn_multipliers": [1.0, 2.1, 2.9], "ffn_dim_divisor": 256, "max_context_length": 512,
         "rope_freq_constant": 20000, "share_input_output_layers": True, "bos_token_id": 1, "eos_token_id": 2,
         "num_hidden_layers": 3},
        bpe=False, shapes=openelm_shapes,
    ),
    "jais": Entry(
        None,
        {"architectures": ["JAISLMHeadModel"], "model_type": "jais", "vocab_size": 400, "n_embd": 256, "n_layer": 2,
         "n_head": 8, "n_inner": 512, "n_positions": 512, "layer_norm_epsilon": 1e-5, "activation_function": "swiglu",
         "position_embedding_type": "alibi", "mup_embeddings_scale": 14.6, "mup_output_alpha": 2.2,
         "mup_width_scale": 0.25, "bos_token_id": 1, "eos_token_id": 2, "num_hidden_layers": 2},
        shapes=lambda config: gpt2_like(
            config,
            {"attn.c_attn": (256, 768), "attn.c_proj": (256, 256), "mlp.c_fc": (256, 512), "mlp.c_fc2": (256, 512),
             "mlp.c_proj": (512, 256)},
            biases=True, turned=True,
        ),
    ),
    "santacoder": Entry(
        "GPTBigCode",
        {"vocab_size": 400, "n_embd": 256, "n_layer": 2, "n_head": 8, "n_positions": 512, "num_hidden_layers": 2,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
}  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` below `folder` and return its own folder, which bears the name."""
    return write(TABLE[name], folder / name)


def write(entry: Entry, out: Path) -> Path:
    """Write a checkpoint to `out`, which it returns."""
    if entry.model is None:
        _build_from_shapes(entry, out)
    else:
        variant = Variant(
            entry.model, entry.config, bpe=entry.bpe, words=entry.words, edit=entry.edit, files=entry.files,
            further=entry.further,
        )  # fmt: skip
        checkpoints.build_variant(variant, out, SPREAD)
    if entry.published:
        _change(out / "model.safetensors", entry.published)
    return out


def _change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _build_from_shapes(entry: Entry, out: Path) -> None:
    import torch
    from safetensors.torch import save_file

    assert entry.shapes is not None
    out.mkdir(parents=True)
    random = torch.Generator().manual_seed(crc32(out.name.encode()))
    tensors = {
        name: (torch.randn(shape, generator=random) * SPREAD).to(torch.bfloat16)
        for name, shape in {**entry.shapes(entry.config), **entry.further}.items()
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = dict(entry.config)
    if entry.edit:
        entry.edit(config)
    (out / "config.json").write_text(json.dumps(config))
    if entry.bpe:
        (out / "tokenizer.json").write_text(checkpoints.bpe_tokenizer(entry.words))
        (out / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    elif WORLD_FILE not in entry.files and plamo_lines.FILE not in entry.files:
        for file in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copyfile(checkpoints.SENTENCEPIECE / file, out / file)
    for file, text in entry.files.items():
        (out / file).parent.mkdir(exist_ok=True)
        (out / file).write_text(text)
