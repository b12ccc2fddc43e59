"""Qwen3-Next, Qwen3.5 and 3.6: three of four layers are linear attention, the others attention with a gate.

llama.cpp repeats the heads of keys side by side over those of values, where the source has the values of one key
together: rows, and columns, of values are tiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import (
    AFTER_TRUNK,
    by_rule,
    either,
    first_said,
    further,
    kind,
    listed,
    not_,
)
from quantkit.families.layouts import Layout, columns, flat, fold, joined, regroup, rows, squeeze
from quantkit.families.placements import Place
from quantkit.families.roles import Role
from quantkit.families.rows import (
    FREQUENCIES,
    MLP,
    OUTSIDE,
    QK_NORMS,
    Drop,
    Family,
    T,
    TokenizerRules,
    at,
    centered,
    experts,
    shared_expert,
)
from quantkit.families.spellings import Rename

LINEAR, FULL = "linear_attention", "full_attention"
KEYS, VALUES, OF_KEY = "linear_num_key_heads", "linear_num_value_heads", "values_per_key"


def sizes(hparams: Hparams) -> Mapping[str, Any]:
    """Rows of keys and of values of the linear layers, and of all that belongs to one key."""
    key, value = hparams.count("linear_key_head_dim"), hparams.count("linear_value_head_dim")
    key_heads, value_heads = hparams.count(KEYS), hparams.count(VALUES)
    per_key = value_heads // key_heads
    return {
        "key_dim": key_heads * key, "value_dim": value_heads * value, OF_KEY: per_key,
        "conv_dim": 2 * key_heads * key + value_heads * value, "of_values": per_key * value,
        "of_one_key": 2 * key + 2 * per_key * value,
    }  # fmt: skip


def recurrent(in_qkv: tuple[T, ...], tiled: Layout, conv: Place, out: Place) -> tuple[T, ...]:
    """The linear layers: their projections `in_qkv`, and how what belongs to the heads of values is ordered."""
    return at(kind(LINEAR), (
        *in_qkv,
        T("linear_attn.A_log", "ssm_a", Role.OTHER, VALUES, tiled, value="-exp"),
        T("linear_attn.dt_bias", "ssm_dt.bias", Role.BIAS, VALUES, tiled),
        T("linear_attn.conv1d.weight", "ssm_conv1d.weight", Role.OTHER, "conv_dim 1 linear_conv_kernel_dim", conv),
        T("linear_attn.norm.weight", "ssm_norm.weight", Role.NORM, "linear_value_head_dim"),
        T("linear_attn.out_proj.weight", "ssm_out.weight", Role.OTHER, "hidden_size value_dim", out),
    ))  # fmt: skip


HIDDEN = "hidden_size"
NORMS = centered((
    T("input_layernorm.weight", "attn_norm.weight", Role.NORM, HIDDEN),
    T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, HIDDEN),
))  # fmt: skip
ATTENTION = at(either(kind(FULL), AFTER_TRUNK), (
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "2*q_rows hidden_size"),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size"),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size"),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
    *centered(QK_NORMS),
))  # fmt: skip
FURTHER = at(AFTER_TRUNK, (
    T("eh_proj.weight", "nextn.eh_proj.weight", Role.OTHER, "hidden_size 2*hidden_size"),
    *centered((
        T("enorm.weight", "nextn.enorm.weight", Role.NORM, HIDDEN),
        T("hnorm.weight", "nextn.hnorm.weight", Role.NORM, HIDDEN),
        T("shared_head.norm.weight", "nextn.shared_head_norm.weight", Role.NORM, HIDDEN),
    )),
))  # fmt: skip
SPELLINGS = (
    Rename(r"^(?:model\.)?mtp\.layers\.([0-9]+)\.", "model.layers.{}.", "mtp.layers.{}."),
    Rename(r"^(?:model\.)?mtp\.fc\.", "model.layers.{}.eh_proj.", "mtp.fc."),
    Rename(r"^(?:model\.)?mtp\.pre_fc_norm_embedding\.", "model.layers.{}.enorm.", "mtp.pre_fc_norm_embedding."),
    Rename(r"^(?:model\.)?mtp\.pre_fc_norm_hidden\.", "model.layers.{}.hnorm.", "mtp.pre_fc_norm_hidden."),
    Rename(r"^(?:model\.)?mtp\.norm\.", "model.layers.{}.shared_head.norm.", "mtp.norm."),
)
MIXTURE = (
    *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    *shared_expert("shared_expert_intermediate_size", "mlp.shared_expert", gate="mlp.shared_expert_gate"),
)

MIXED = (folds.EXPERT_OUT, folds.Fold("mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",)))

GROUPS = fold(KEYS, "of_one_key")
NEXT_IN = (
    T("linear_attn.in_proj_qkvz.weight", "attn_qkv.weight", Role.ATTN_QKV, f"{KEYS}*of_one_key hidden_size",
      joined(
          GROUPS >> rows("0", "linear_key_head_dim") >> flat,
          GROUPS >> rows("linear_key_head_dim", "2*linear_key_head_dim") >> flat,
          GROUPS >> rows("2*linear_key_head_dim", "2*linear_key_head_dim+of_values") >> flat,
      )),
    T("linear_attn.in_proj_qkvz.weight", "attn_gate.weight", Role.OTHER, f"{KEYS}*of_one_key hidden_size",
      GROUPS >> rows("2*linear_key_head_dim+of_values", "of_one_key") >> flat),
    T("linear_attn.in_proj_ba.weight", "ssm_ba.weight", Role.OTHER, f"2*{VALUES} hidden_size"),
)  # fmt: skip
TILED = regroup(KEYS, OF_KEY)
Q_AND_K, V = rows("0", "2*key_dim"), rows("2*key_dim", "conv_dim")
IN = (
    T("linear_attn.in_proj_qkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "conv_dim hidden_size",
      joined(Q_AND_K, V >> TILED)),
    T("linear_attn.in_proj_z.weight", "attn_gate.weight", Role.OTHER, "value_dim hidden_size", TILED),
    T("linear_attn.in_proj_a.weight", "ssm_alpha.weight", Role.OTHER, f"{VALUES} hidden_size", TILED),
    T("linear_attn.in_proj_b.weight", "ssm_beta.weight", Role.OTHER, f"{VALUES} hidden_size", TILED),
)  # fmt: skip
SSM_KEYS = (
    keys.Key("ssm.conv_kernel", "u32", "linear_conv_kernel_dim"),
    keys.Key("ssm.state_size", "u32", "linear_key_head_dim"),
    keys.Key("ssm.group_count", "u32", KEYS),
    keys.Key("ssm.time_step_rank", "u32", VALUES),
    keys.Key("ssm.inner_size", "u32", "value_dim"),
    keys.per_layer("attention.recurrent_layers", "bool", "", kind(LINEAR)),
    keys.Key("full_attention_interval", "u32", "full_attention_interval", default=4),
    keys.rotated_part(0.25),
    keys.Key("nextn_predict_layers", "u32", "mtp_num_hidden_layers", nonzero=True),
)


def last_of_interval(hparams: Hparams, layer: int) -> bool:
    """The last of every so many layers attends to everything, where no list says of which kind each is."""
    interval = "full_attention_interval"
    every = 4 if hparams.values.get(interval) is None else hparams.count(interval)
    return layer % every == every - 1


BACK = {"attention.recurrent_layers": "file.recurrent"}


def kinds_of_file(hparams: Hparams) -> Mapping[str, Any]:
    """Which layers are linear, by the file's list, and the size of a head of values."""
    recurrent, value_dim = hparams.values.get("file.recurrent"), hparams.number("value_dim")
    if not isinstance(recurrent, list) or value_dim is None:
        return {}
    kinds = [LINEAR if each else FULL for each in recurrent[: hparams.count("num_hidden_layers")]]
    return {"layer_types": kinds, "linear_value_head_dim": int(value_dim) // hparams.count(VALUES)}


LINEAR_SIZES = {
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "head_dim": 256,
    "max_position_embeddings": 32768, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
}  # fmt: skip
VISION = tuple(
    Drop(pattern, "the vision encoder belongs into a file of its own") for pattern in ("visual.*", "model.visual.*")
)

QWEN3_NEXT = Family(
    name="qwen3_next",
    gguf="qwen3next",
    hf=("Qwen3NextForCausalLM",),
    defaults={
        "qwen3_next": {
            **LINEAR_SIZES, "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632,
            "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2, "num_local_experts": 512,
            "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        },
    },
    outside=centered(OUTSIDE),
    block=(*NORMS, *recurrent(NEXT_IN, Layout(), squeeze, Layout()), *ATTENTION, *FURTHER, *MIXTURE),
    keys=(*keys.COMMON, *keys.EXPERT_LENGTHS, *SSM_KEYS),
    drop=(FREQUENCIES,),
    spellings=SPELLINGS,
    derive=(
        first_said(
            "layer_types",
            listed("layer_types", {LINEAR: LINEAR, FULL: FULL}),
            by_rule(LINEAR, not_(last_of_interval), FULL),
        ),
        sizes,
    ),
    seen=(further("model.layers.{}.eh_proj.weight", "mtp_num_hidden_layers"),),
    back=BACK,
    graph=kinds_of_file,
    assumes=(assumptions.silu,),
    folds=MIXED,
    tokens=TokenizerRules(slow="Qwen2Tokenizer"),
)  # fmt: skip
ORDERED = recurrent(IN, TILED, joined(squeeze >> Q_AND_K, squeeze >> V >> TILED), columns(KEYS, OF_KEY))
QWEN3_5 = replace(
    QWEN3_NEXT,
    name="qwen3_5",
    gguf="qwen35",
    hf=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    defaults={
        "qwen3_5_text": {
            **LINEAR_SIZES,
            "vocab_size": 248320,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
        },
    },
    block=(*NORMS, *ORDERED, *ATTENTION, *FURTHER, *MLP),
    keys=(*keys.COMMON, *SSM_KEYS, keys.rope_sections(11, 11, 10)),
    folds=(folds.MLP_OUT,),
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
)
QWEN3_5_MOE = replace(
    QWEN3_5,
    name="qwen3_5_moe",
    gguf="qwen35moe",
    hf=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    defaults={
        "qwen3_5_moe_text": {
            **LINEAR_SIZES,
            "vocab_size": 248320,
            "hidden_size": 2048,
            "num_hidden_layers": 40,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "num_local_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
        },
    },
    block=(*NORMS, *ORDERED, *ATTENTION, *FURTHER, *MIXTURE),
    keys=(*keys.COMMON, *keys.EXPERT_LENGTHS, *SSM_KEYS, keys.rope_sections(11, 11, 10)),
    folds=MIXED,
)

FAMILIES = (QWEN3_NEXT, QWEN3_5, QWEN3_5_MOE)
