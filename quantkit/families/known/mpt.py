"""MPT: queries, keys and values in one matrix, layer norms without biases, positions by slopes."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, Family, T
from quantkit.untrusted import shown


def of_attention(hparams: Hparams) -> Mapping[str, Any]:
    """What stands in the part of config.json for attention."""
    said = hparams.values.get("attn_config")
    if said is not None and not isinstance(said, Mapping):
        message = f"config.json: attn_config is {shown(repr(said)[:80])}, expected an object"
        raise InputError(message, key="attn_config", path="config.json", hint=CONFIG_HINT)
    part = said or {}
    given = Hparams(part).count("kv_n_heads") if part.get("kv_n_heads") else None
    heads = given or hparams.count("num_attention_heads")
    scale = Hparams(part).number("softmax_scale")
    slopes = part.get("alibi_bias_max", 8) if part.get("alibi", True) else 0
    head = hparams.count("head")
    rows = hparams.count("q_rows") + 2 * heads * head
    return {
        "said_kv_heads": given, "clip_qkv": part.get("clip_qkv"), "slopes": slopes,
        "qkv_rows": rows, "num_key_value_heads": heads, "softmax_scale": scale,
    }  # fmt: skip


def scaled_by_heads(hparams: Hparams) -> str | None:
    """Scores are divided by the root of the dimensions of a head."""
    said, usual = hparams.number("softmax_scale"), hparams.count("head") ** -0.5
    return None if said is None or isclose(said, usual) else f"softmax_scale is {said:g}, it scales scores by {usual:g}"


MPT = Family(
    name="mpt",
    gguf="mpt",
    hf=("MPTForCausalLM", "MptForCausalLM"),
    defaults={
        "mpt": {
            "vocab_size": 50368, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
            "num_key_value_heads": None, "max_position_embeddings": 2048, "tie_word_embeddings": True,
        },
    },
    aliases={
        "d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers",
        "max_seq_len": "max_position_embeddings",
    },
    computes=frozenset({"d_model", "n_heads", "n_layers", "max_seq_len", "attn_config", "layer_norm_epsilon"}),
    derive=(of_attention,),
    source_block="transformer.blocks.{}.",
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.norm_f.weight", "output_norm.weight", Role.NORM, "hidden_size"),
    ),
    block=(
        T("norm_1.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("norm_2.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("attn.Wqkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
        T("attn.out_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("ffn.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "4*hidden_size hidden_size"),
        T("ffn.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size 4*hidden_size"),
    ),
    keys=(
        *keys.without(keys.SIZES, "feed_forward_length", "attention.head_count_kv"),
        keys.Key("feed_forward_length", "u32", "4*hidden_size"),
        keys.Key("attention.head_count_kv", "u32", "said_kv_heads"),
        keys.computed("attention.layer_norm_epsilon", "f32", lambda hparams: 1e-5),  # of the model's code
        keys.Key("attention.clamp_kqv", "f32", "clip_qkv"),
        keys.Key("attention.max_alibi_bias", "f32", "slopes"),
    ),
    assumes=(scaled_by_heads,),
    drop=(Drop("lm_head.weight", "the same values as the embeddings", when="tie_word_embeddings"),),
)  # fmt: skip

FAMILIES = (MPT,)
