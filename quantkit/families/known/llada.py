"""LLaDA: a Llama under names of its own, which attends in both directions and fills in masked tokens."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.llada_moe import unshifted
from quantkit.families.known.llama import LLAMA
from quantkit.families.rows import OWN_CODE, TokenizerRules, without_biases
from quantkit.families.spellings import Rename

INSIDE = {
    "attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm", "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj",
}  # fmt: skip
OUTSIDE = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
BLOCK = r"^model\.transformer\.blocks\.([0-9]+)"

LLADA = replace(
    LLAMA,
    name="llada",
    gguf="llada",
    hf=("LLaDAModelLM",),
    defaults={
        "llada": {
            "vocab_size": 126464, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
        },
    },
    block=without_biases(LLAMA.block),
    aliases={
        "d_model": "hidden_size", "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads",
        "n_layers": "num_hidden_layers", "mlp_hidden_size": "intermediate_size",
        "max_sequence_length": "max_position_embeddings", "weight_tying": "tie_word_embeddings",
    },
    spellings=(
        *(Rename(rf"{BLOCK}\.{old}\.", rf"model.layers.\1.{new}.") for old, new in INSIDE.items()),
        *(Rename(rf"^model\.transformer\.{old}\.", f"{new}.") for old, new in OUTSIDE.items()),
    ),
    keys=(
        *(key for key in keys.LLAMA if key is not keys.causality),
        keys.POOLING_TYPE,
        keys.both_ways,
        unshifted,
    ),
    folds=(),
    tokens=TokenizerRules(adds_bos=True),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (LLADA,)
