"""DeepSeek V4: one head of keys that are values, compressed beyond a window, several streams of hidden states, and
experts that the first layers choose by a table of tokens.

Source: conversion/deepseek.py of llama.cpp, October 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.deepseek32 import INDEXER_KEYS
from quantkit.families.layers import KINDS, TRUNK, before, block_count, from_, kind
from quantkit.families.placements import expert
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, Family, T, at
from quantkit.families.spellings import Published, Rename
from quantkit.untrusted import shown

STREAMS, HASHED, RATIOS = "hc_mult", "num_hash_layers", "compress_ratios"
MIX = f"{STREAMS}*{STREAMS}+2*{STREAMS}"
WINDOW, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
KIND_OF = {0: WINDOW, 4: SPARSE, 128: HEAVY}  # how many tokens become one -> the kind of a layer
HASHES, CHOOSES = "hash_moe", "moe"
CUT_OFF = "file.limits"
FIRST_HASHED = 3  # as transformers fills it in


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """What DeepSeek published, of numbers as transformers saves them: compression and hashing of layers, rotation.

    Raises InputError for lists that do not fit the layers, UnsupportedError for a compression that llama.cpp has not.
    """
    ratios = hparams.values.get(RATIOS)
    if ratios is None:
        ratios = _ratios_of_kinds(hparams)
    trunk = hparams.count(TRUNK)
    if not isinstance(ratios, list) or len(ratios) < trunk:
        raise _bad(RATIOS, f"is {shown(repr(ratios)[:80])}, expected a number for each of {trunk} layers")
    others = [ratio for ratio in ratios if type(ratio) is not int or ratio not in KIND_OF]
    if others:
        what = f"{RATIOS} has {shown(repr(others[0])[:80])}, llama.cpp compresses {', '.join(map(str, KIND_OF))} tokens"
        raise UnsupportedError(what, key=RATIOS, hint="run it with transformers or vLLM")
    return {
        RATIOS: ratios, KINDS: [KIND_OF[ratio] for ratio in ratios[:trunk]], HASHED: _hashed(hparams),
        "qk_rope_head_dim": hparams.values.get("qk_rope_head_dim") or _rotated(hparams),
        **_scaling(hparams),
    }  # fmt: skip


def _ratios_of_kinds(hparams: Hparams) -> object:
    """How many tokens become one in each layer, from a list of the kinds of layers."""
    kinds, rates = hparams.values.get("layer_types"), hparams.values.get("compress_rates")
    of = {WINDOW: 0, SPARSE: 4, HEAVY: 128, **(rates if isinstance(rates, Mapping) else {})}
    if kinds is None:  # as transformers fills it in
        kinds = [SPARSE if layer > 2 and layer % 2 else HEAVY for layer in range(hparams.count(TRUNK))]
    if not isinstance(kinds, list) or len(kinds) < hparams.count(TRUNK):
        raise _bad("layer_types", f"is {shown(repr(kinds)[:80])}, expected a word for each layer")
    unknown = [word for word in kinds if not isinstance(word, str) or word not in of]
    if unknown:
        raise _bad("layer_types", f"has {shown(repr(unknown[0])[:80])}, known are {', '.join(KIND_OF.values())}")
    return [of[word] for word in kinds]


def _hashed(hparams: Hparams) -> int:
    """How many layers choose experts by a table. Raises InputError where they are not the first ones."""
    words, said = hparams.values.get("mlp_layer_types"), hparams.number(HASHED)
    if not isinstance(words, list):
        return min(FIRST_HASHED if said is None else int(said), hparams.count(TRUNK))
    hashed = next((layer for layer, word in enumerate(words) if word != HASHES), len(words))
    if any(word != CHOOSES for word in words[hashed:]):
        raise _bad("mlp_layer_types", f'is no list of "{HASHES}" first and "{CHOOSES}" for all others')
    return hashed


def _rotated(hparams: Hparams) -> int:
    """The dimensions of a head that are rotated, where config.json says which part they are."""
    return int(hparams.count("head_dim") * (hparams.number("partial_rotary_factor") or 0.125))


def _scaling(hparams: Hparams) -> Mapping[str, Any]:
    """transformers says the rotation of compressed layers, the only one that is stretched, beside that of windows."""
    found = hparams.values.get("rope_parameters")
    main, compress = (found.get(key) if isinstance(found, Mapping) else None for key in ("main", "compress"))
    if not isinstance(compress, Mapping) or not isinstance(main, Mapping):
        return {}
    said = Hparams(compress)
    scaled = {f"rope_{key}": said.number(key) for key in ("factor", "beta_fast", "beta_slow")}
    original = said.number("original_max_position_embeddings")
    return {
        "rope_type": compress.get("rope_type", "default"), "rope_original_context": original,
        "rope_theta": Hparams(main).required("rope_theta"), "compress_rope_theta": said.required("rope_theta"),
        **scaled,
    }  # fmt: skip


def _bad(key: str, what: str) -> InputError:
    return InputError(f"config.json: {key} {what}", key=key, path="config.json", hint=CONFIG_HINT)


def limits(hparams: Hparams) -> object:
    """What the gates of experts are cut off at, in each block."""
    return (hparams.required("swiglu_limit"),) * block_count(hparams)


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """One limit for all layers, of the list of a file; another list is one of another model."""
    said = hparams.values.get(CUT_OFF)
    return {"swiglu_limit": said[0] if isinstance(said, list) and said else said}


def streams(source: str, target: str, rows: str, scales: int) -> tuple[T, ...]:
    """How streams are mixed: a matrix that stays f32, what is added, and a scale for each kind of weight."""
    return (
        T(f"{source}_fn", f"{target}_fn.weight", Role.OTHER, f"{rows} {STREAMS}*hidden_size", f32=True),
        T(f"{source}_base", f"{target}_base.weight", Role.OTHER, rows),
        T(f"{source}_scale", f"{target}_scale.weight", Role.OTHER, str(scales)),
    )


def compressor(source: str, target: str, width: str, series: int, tokens: int) -> tuple[T, ...]:
    """How `tokens` tokens become `series` rows of `width`: values, weights of them, and weights of places."""
    rows = f"{series}*{width}"
    return (
        T(f"{source}.wkv.weight", f"{target}_kv.weight", Role.OTHER, f"{rows} hidden_size"),
        T(f"{source}.wgate.weight", f"{target}_gate.weight", Role.OTHER, f"{rows} hidden_size"),
        T(f"{source}.ape", f"{target}_ape.weight", Role.OTHER, f"{tokens} {rows}", f32=True),
        T(f"{source}.norm.weight", f"{target}_norm.weight", Role.NORM, width),
    )


HEADS = "num_attention_heads*head_dim"
ATTENTION = (
    T("attn.attn_sink", "attn_sinks.weight", Role.OTHER, "num_attention_heads"),
    T("attn.wq_a.weight", "attn_q_a.weight", Role.OTHER, "q_lora_rank hidden_size"),
    T("attn.q_norm.weight", "attn_q_a_norm.weight", Role.NORM, "q_lora_rank"),
    T("attn.wq_b.weight", "attn_q_b.weight", Role.OTHER, f"{HEADS} q_lora_rank"),
    T("attn.wkv.weight", "attn_kv.weight", Role.OTHER, "head_dim hidden_size"),
    T("attn.kv_norm.weight", "attn_kv_a_norm.weight", Role.NORM, "head_dim"),
    T("attn.wo_a.weight", "attn_output_a.weight", Role.OTHER, f"o_groups*o_lora_rank {HEADS}//o_groups"),
    T("attn.wo_b.weight", "attn_output_b.weight", Role.OTHER, "hidden_size o_groups*o_lora_rank"),
)
INDEXER = (
    T("attn.indexer.wq_b.weight", "indexer.attn_q_b.weight", Role.OTHER, "index_n_heads*index_head_dim q_lora_rank"),
    T("attn.indexer.weights_proj.weight", "indexer.proj.weight", Role.OTHER, "index_n_heads hidden_size",
      f32=False),
    *compressor("attn.indexer.compressor", "indexer_compressor", "index_head_dim", 2, 4),
)  # fmt: skip
INNER, OUTER = "moe_intermediate_size hidden_size", "hidden_size moe_intermediate_size"
SHARED = "n_shared_experts*moe_intermediate_size"
# Of tokens that stand for images, where the model sees: in layers with a table, in the others, in both, or in none.
IMAGES = T("ffn.gate.bias_vl", "exp_probs_b_vl.bias", Role.BIAS, "num_local_experts", optional=True)
MIXTURE = (
    T("ffn.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size", f32=False),
    T("ffn.experts.{}.w1.weight", "ffn_gate_exps.weight", Role.FFN_GATE, INNER, expert),
    T("ffn.experts.{}.w3.weight", "ffn_up_exps.weight", Role.FFN_UP, INNER, expert),
    T("ffn.experts.{}.w2.weight", "ffn_down_exps.weight", Role.FFN_DOWN, OUTER, expert),
    T("ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight", Role.FFN_GATE, f"{SHARED} hidden_size"),
    T("ffn.shared_experts.w3.weight", "ffn_up_shexp.weight", Role.FFN_UP, f"{SHARED} hidden_size"),
    T("ffn.shared_experts.w2.weight", "ffn_down_shexp.weight", Role.FFN_DOWN, f"hidden_size {SHARED}"),
    *at(from_(HASHED), (T("ffn.gate.bias", "exp_probs_b.bias", Role.BIAS, "num_local_experts"),)),
    *at(before(HASHED), (
        T("ffn.gate.tid2eid", "ffn_gate_tid2eid.weight", Role.OTHER, "vocab_size num_experts_per_tok", stored="i32",
          value="<num_local_experts"),
    )),
    *(replace(IMAGES, where=where) for where in (before(HASHED), from_(HASHED))),
)  # fmt: skip

# What loaders call the matrices of attention that stay as they are.
LEFT_ALONE = (
    "o_a_proj", "compressor.kv_proj", "compressor.gate_proj",
    *(f"compressor.indexer.{name}" for name in ("kv_proj", "gate_proj", "q_b_proj", "scorer.weights_proj")),
)  # fmt: skip

# What transformers calls them in memory -> in files that were published, one after the other.
PUBLISHED = (
    (r"^model\.embed_tokens\.", "embed."),
    (r"^lm_head\.", "head."),
    (r"^model\.hc_head\.hc_", "hc_head_"),
    (r"^model\.", ""),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.(attn|ffn)_hc\.", r".hc_\1_"),
    (r"\.self_attn\.sinks$", ".attn.attn_sink"),
    (r"\.compressor\.indexer\.scorer\.", ".indexer."),
    (r"\.compressor\.indexer\.q_b_proj\.", ".indexer.wq_b."),
    (r"\.compressor\.indexer\.", ".indexer.compressor."),
    (r"\.compressor\.kv_norm\.", ".compressor.norm."),
    (r"\.position_bias$", ".ape"),
    (r"\.compressor\.gate_proj\.", ".compressor.wgate."),
    (r"\.q_a_norm\.", ".q_norm."),
    (r"\.(q_a|q_b|kv|o_a|o_b)_proj\.", r".w\1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.e_score_correction_bias$", ".bias"),
    (r"\.gate_proj\.", ".w1."),
    (r"\.down_proj\.", ".w2."),
    (r"\.up_proj\.", ".w3."),
    (r"\.mlp\.", ".ffn."),
)

DEEPSEEK4 = Family(
    name="deepseek4",
    gguf="deepseek4",
    hf=("DeepseekV4ForCausalLM",),
    defaults={
        "deepseek_v4": {
            "vocab_size": 129280, "hidden_size": 4096, "moe_intermediate_size": 2048, "num_hidden_layers": 43,
            "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512, "q_lora_rank": 1024,
            "num_experts_per_tok": 6, "num_local_experts": 256, "n_shared_experts": 1,
            "scoring_func": "sqrtsoftplus", "norm_topk_prob": True, "routed_scaling_factor": 1.5,
            "max_position_embeddings": 1048576, "rope_theta": 10000.0, "compress_rope_theta": 160000.0, STREAMS: 4,
            "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "swiglu_limit": 10.0, "sliding_window": 128, "o_groups": 8,
            "o_lora_rank": 1024, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
        },
    },
    outside=(
        T("embed.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("model.norm.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        T("head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size"),
        *streams("hc_head", "output_hc", STREAMS, 1),
    ),
    block=(
        T("attn_norm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("ffn_norm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        *streams("hc_attn", "hc_attn", MIX, 3),
        *streams("hc_ffn", "hc_ffn", MIX, 3),
        *ATTENTION,
        *at(kind(SPARSE), compressor("attn.compressor", "attn_compressor", "head_dim", 2, 4)),
        *at(kind(HEAVY), compressor("attn.compressor", "attn_compressor", "head_dim", 1, 128)),
        *at(kind(SPARSE), INDEXER),
        *MIXTURE,
    ),
    keys=(
        *keys.COMMON,
        *keys.ROUTED,
        keys.Key("rope.dimension_count", "u32", "qk_rope_head_dim"),
        keys.Key("attention.q_lora_rank", "u32", "q_lora_rank"),
        keys.SLIDING_WINDOW,
        keys.Key("expert_feed_forward_length", "u32", "moe_intermediate_size"),
        keys.Key("expert_shared_count", "u32", "n_shared_experts"),
        keys.Key("expert_weights_scale", "f32", "routed_scaling_factor"),
        keys.Key("expert_weights_norm", "bool", "norm_topk_prob"),
        keys.computed("swiglu_clamp_exp", "f32", limits),
        keys.computed("swiglu_clamp_shexp", "f32", limits),
        *INDEXER_KEYS,
        keys.Key("attention.output_group_count", "u32", "o_groups"),
        keys.Key("attention.output_lora_rank", "u32", "o_lora_rank"),
        keys.Key("attention.compress_ratios", "i32", RATIOS, array=True),
        keys.Key("attention.compress_rope_freq_base", "f32", "compress_rope_theta"),
        keys.Key("hyper_connection.count", "u32", STREAMS),
        keys.Key("hyper_connection.sinkhorn_iterations", "u32", "hc_sinkhorn_iters"),
        keys.Key("hyper_connection.epsilon", "f32", "hc_eps"),
        keys.Key("hash_layer_count", "u32", HASHED),
        keys.Key("embedding_length_out", "u32", f"hidden_size*{STREAMS}"),
    ),
    drop=(
        Drop("mtp.*", "llama.cpp runs blocks that predict further tokens from a file of their own"),
        Drop("*.ffn.gate.bias", "layers with a table of tokens choose no experts by it", where=before(HASHED)),
        *(Drop(f"{part}*", "the language model alone is converted") for part in ("vision.", "aligner.", "image_")),
    ),
    spellings=(
        Rename(r"^(?=layers\.|norm\.)", "model.", back=""),
        # of transformers 5
        Rename(r"^model\.embed_tokens\.", "embed."),
        Rename(r"^model\.hc_head\.hc_", "hc_head_"),
        Rename(r"\.attn\.norm\.", ".attn.kv_norm."),
    ),
    aliases={"n_routed_experts": "num_local_experts", "intermediate_size": "moe_intermediate_size"},
    back={"swiglu_clamp_exp": CUT_OFF},
    graph=of_file,
    derive=(numbers,),
    assumes=(assumptions.silu,),
    computes=frozenset({
        STREAMS, "hc_sinkhorn_iters", "hc_eps", HASHED, RATIOS, "compress_rates", "compress_rope_theta", "o_groups",
        "o_lora_rank", "index_n_heads", "index_head_dim", "index_topk", "scoring_func",
    }),
    renamed=("model.layers.{}.mlp.gate", *(f"model.layers.{{}}.self_attn.{name}" for name in LEFT_ALONE)),
    published=Published(PUBLISHED),
)  # fmt: skip

FAMILIES = (DEEPSEEK4,)
