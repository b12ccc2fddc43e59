"""GPT-NeoX (Pythia), Bloom, Falcon and GPT-2: queries, keys and values in one matrix, layer norms with biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.folds import Fold
from quantkit.families.hparams import Hparams
from quantkit.families.layers import flagged, not_
from quantkit.families.layouts import flat, fold, joined, regroup, rows, turn
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, PRESENT, Drop, Family, T, at
from quantkit.families.spellings import Rename

BUFFERS = (
    Drop("*.rotary_emb.inv_freq", "rotary frequencies are computed at run time"),
    Drop("*.attention.bias", "the causal mask is computed at run time"),
    Drop("*.attention.masked_bias", "the causal mask is computed at run time"),
)


def norm(source: str, target: str, bias: str = ALWAYS) -> T:
    """A layer norm with a bias."""
    return T(f"{source}.weight", f"{target}.weight", Role.NORM, "hidden_size", bias=bias)


def whole_numbers(hparams: Hparams) -> Mapping[str, Any]:
    """The dimensions of a head that are rotated; keys have as many heads as queries, whatever config.json says."""
    share = hparams.number("rope_partial_factor")
    rotated = int((1.0 if share is None else share) * hparams.count("head"))
    return {"rotated": rotated, "num_key_value_heads": hparams.count("num_attention_heads")}


GPT_NEOX = Family(
    name="gpt_neox",
    gguf="gptneox",
    hf=("GPTNeoXForCausalLM",),
    defaults={
        "gpt_neox": {
            "vocab_size": 50432, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
            "num_attention_heads": 64, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
            "use_parallel_residual": True,
        },
    },
    outside=(
        T("gpt_neox.embed_in.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        norm("gpt_neox.final_layer_norm", "output_norm"),
        T("embed_out.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    source_block="gpt_neox.layers.{}.",
    block=(
        norm("input_layernorm", "attn_norm"),
        norm("post_attention_layernorm", "ffn_norm"),
        T("attention.query_key_value.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size",
          regroup("num_attention_heads", "3"), bias=PRESENT),
        T("attention.dense.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size", bias=PRESENT),
        T("mlp.dense_h_to_4h.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size", bias=ALWAYS),
        T("mlp.dense_4h_to_h.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias=ALWAYS),
    ),
    keys=(
        *keys.without(keys.SIZES, "attention.head_count_kv"),
        keys.Key("rope.dimension_count", "u32", "rotated"),
        keys.Key("use_parallel_residual", "bool", "use_parallel_residual"),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_eps"),
    ),
    drop=BUFFERS,
    aliases={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
    computes=frozenset({"use_parallel_residual", "layer_norm_eps", "rotary_pct", "rotary_emb_base"}),
    derive=(whole_numbers,),
)  # fmt: skip


def bloom_numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Bloom's inner width and the context that it was trained with; positions have no end."""
    hidden = hparams.count("hidden_size")
    return {"intermediate_size": 4 * hidden, "max_position_embeddings": hparams.values.get("seq_length", hidden)}


BLOOM = Family(
    name="bloom",
    gguf="bloom",
    hf=("BloomForCausalLM",),
    defaults={
        "bloom": {
            "vocab_size": 250880, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
            "num_key_value_heads": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
        },
    },
    outside=(
        T("transformer.word_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        norm("transformer.word_embeddings_layernorm", "token_embd_norm"),
        norm("transformer.ln_f", "output_norm"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    source_block="transformer.h.{}.",
    spellings=(Rename(r"^(h\.|ln_f\.|word_embeddings)", r"transformer.\1"),),
    block=(
        norm("input_layernorm", "attn_norm"),
        norm("post_attention_layernorm", "ffn_norm"),
        T("self_attention.query_key_value.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size",
          regroup("num_attention_heads", "3"), bias=ALWAYS),
        T("self_attention.dense.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size",
          bias=ALWAYS),
        T("mlp.dense_h_to_4h.weight", "ffn_up.weight", Role.FFN_UP, "4*hidden_size hidden_size", bias=ALWAYS),
        T("mlp.dense_4h_to_h.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size 4*hidden_size", bias=ALWAYS),
    ),
    keys=(*keys.SIZES, keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon")),
    aliases={"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"},
    computes=frozenset({
        "n_embed", "n_layer", "n_head", "layer_norm_epsilon", "apply_residual_connection_post_layernorm",
        "slow_but_exact", "pretraining_tp",
    }),
    derive=(bloom_numbers,),
    back={"context_length": "seq_length"},
)  # fmt: skip


def gpt2_numbers(hparams: Hparams) -> Mapping[str, Any]:
    """GPT-2's inner width."""
    return {"intermediate_size": 4 * hparams.count("hidden_size")}


def conv1d(source: str, target: str, role: Role, outs: str, ins: str) -> tuple[T, T]:
    """A matrix that is stored (in, out), and its bias."""
    bias = T(f"{source}.bias", f"{target}.bias", Role.BIAS, outs)
    return T(f"{source}.weight", f"{target}.weight", role, f"{ins} {outs}", turn), bias


GPT2 = Family(
    name="gpt2",
    gguf="gpt2",
    hf=("GPT2LMHeadModel",),
    defaults={
        "gpt2": {
            "vocab_size": 50257, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "num_key_value_heads": None, "max_position_embeddings": 1024, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
    },
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.wpe.weight", "position_embd.weight", Role.POSITION, "max_position_embeddings hidden_size"),
        norm("transformer.ln_f", "output_norm"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    source_block="transformer.h.{}.",
    spellings=(Rename(r"^(h\.|ln_f\.|wte\.|wpe\.)", r"transformer.\1"),),
    block=(
        norm("ln_1", "attn_norm"),
        norm("ln_2", "ffn_norm"),
        *conv1d("attn.c_attn", "attn_qkv", Role.ATTN_QKV, "3*hidden_size", "hidden_size"),
        *conv1d("attn.c_proj", "attn_output", Role.ATTN_OUTPUT, "hidden_size", "hidden_size"),
        *conv1d("mlp.c_fc", "ffn_up", Role.FFN_UP, "intermediate_size", "hidden_size"),
        *conv1d("mlp.c_proj", "ffn_down", Role.FFN_DOWN, "hidden_size", "intermediate_size"),
    ),
    keys=(
        *keys.without(keys.SIZES, "attention.head_count_kv"),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
    ),
    drop=(
        Drop("*.attn.bias", "the causal mask is computed at run time"),
        Drop("*.attn.masked_bias", "the causal mask is computed at run time"),
    ),
    aliases={
        "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings", "n_ctx": "max_position_embeddings",
    },
    computes=frozenset({
        "n_embd", "n_layer", "n_head", "n_positions", "n_inner", "layer_norm_epsilon", "activation_function",
        "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
    }),
    derive=(gpt2_numbers,),
    # not what values make: c_attn may stay as it is, and lies (in, out) in files
    folds=(Fold("ln_1", ("attn.c_attn",), norm=True), Fold("ln_2", ("mlp.c_fc",), norm=True)),
)  # fmt: skip


NORMS = "num_ln_in_parallel_attn"


def falcon_numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Falcon's inner width, its key heads, the rows of one group (queries, a key, a value), and a norm or two."""
    heads, head = hparams.count("num_attention_heads"), hparams.count("head")
    groups = hparams.count("num_kv_heads") if hparams.values.get("num_kv_heads") is not None else heads
    if hparams.flag("multi_query") and not hparams.flag("new_decoder_architecture"):
        groups = 1
    queries = heads // groups * head
    return {
        "intermediate_size": 4 * hparams.count("hidden_size"), "num_key_value_heads": groups, "queries": queries,
        "group": queries + 2 * head, "context": 2048,
        "two_norms": hparams.flag("new_decoder_architecture") and hparams.values.get(NORMS) in (None, 2),
    }  # fmt: skip


def which_falcon(hparams: Hparams) -> Mapping[str, Any]:
    """The first Falcons have one key head; of the later ones, some have a norm for attention and MLP each."""
    later = hparams.count("num_kv_heads") > 1
    two = "blk.0.attn_norm_2.weight" in hparams.values["file.tensors"]
    return {
        "multi_query": True, "parallel_attn": True, "new_decoder_architecture": later, NORMS: 2 if two else 1,
        "alibi": False, "bias": False,
    }  # fmt: skip


GROUPS = fold("num_key_value_heads", "group")
FALCON_NUMBERS = {
    "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
    "num_key_value_heads": None, "layer_norm_epsilon": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}  # fmt: skip
FALCON = Family(
    name="falcon",
    gguf="falcon",
    hf=("FalconForCausalLM", "RWForCausalLM"),
    defaults={
        "falcon": {**FALCON_NUMBERS, "multi_query": True, "new_decoder_architecture": False},
        # as first published, with code of its own: one model type with one key head, one with groups and two norms
        "RefinedWebModel": {**FALCON_NUMBERS, "multi_query": True, "new_decoder_architecture": False},
        "RefinedWeb": {**FALCON_NUMBERS, "multi_query": False, "new_decoder_architecture": True},
    },
    outside=(
        T("transformer.word_embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        norm("transformer.ln_f", "output_norm"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    source_block="transformer.h.{}.",
    block=(
        *at(not_(flagged("two_norms")), (norm("input_layernorm", "attn_norm"),)),
        *at(flagged("two_norms"), (norm("ln_mlp", "attn_norm"), norm("ln_attn", "attn_norm_2"))),
        T("self_attention.query_key_value.weight", "attn_qkv.weight", Role.ATTN_QKV,
          "num_key_value_heads*group hidden_size",
          joined(
              GROUPS >> rows("0", "queries") >> flat, GROUPS >> rows("queries", "queries+head") >> flat,
              GROUPS >> rows("queries+head", "group") >> flat,
          )),
        T("self_attention.dense.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
        T("mlp.dense_h_to_4h.weight", "ffn_up.weight", Role.FFN_UP, "4*hidden_size hidden_size"),
        T("mlp.dense_4h_to_h.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size 4*hidden_size"),
    ),
    keys=(
        keys.Key("context_length", "u32", "context"),
        keys.computed("tensor_data_layout", "string", lambda hparams: "jploski"),
        *keys.without(keys.SIZES, "context_length"),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
    ),
    aliases={
        "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_head_kv": "num_kv_heads",
    },
    computes=frozenset({
        "activation", "alibi", "bias", "ffn_hidden_size", "layer_norm_epsilon", "multi_query",
        "new_decoder_architecture", "num_kv_heads", NORMS, "parallel_attn",
    }),
    derive=(falcon_numbers,),
    back={"attention.head_count_kv": "num_kv_heads"},
    graph=which_falcon,
)  # fmt: skip

FAMILIES = (GPT_NEOX, BLOOM, GPT2, FALCON)
