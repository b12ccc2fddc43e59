"""CodeShell: StarCoder's blocks with rotated positions."""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, OWN_CODE, Drop, Family, T, with_biases
from quantkit.metadata import KeyValue


def positions(hparams: Hparams) -> Iterable[KeyValue]:
    """Numbers of the model's code."""
    yield KeyValue("rope.freq_base", "f32", 10000.0)
    yield KeyValue("rope.scaling.type", "string", "linear")
    yield KeyValue("rope.scaling.factor", "f32", 1.0)


CODESHELL = Family(
    name="codeshell",
    gguf="codeshell",
    hf=("CodeShellForCausalLM",),
    defaults={
        "kclgpt": {
            "vocab_size": 70144, "hidden_size": 4096, "num_hidden_layers": 42, "num_attention_heads": 32,
            "num_key_value_heads": 8, "max_position_embeddings": 8192, "layer_norm_epsilon": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": False,
        },
    },
    aliases={
        "n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers",
        "n_positions": "max_position_embeddings", "num_query_groups": "num_key_value_heads",
    },
    source_block="transformer.h.{}.",
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        *with_biases((T("transformer.ln_f.weight", "output_norm.weight", Role.NORM, "hidden_size"),)),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    block=with_biases((
        T("ln_1.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("ln_2.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("attn.c_attn.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
        T("attn.c_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("mlp.c_fc.weight", "ffn_up.weight", Role.FFN_UP, "4*hidden_size hidden_size"),
        T("mlp.c_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size 4*hidden_size"),
    )),
    keys=(
        *keys.without(keys.SIZES, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", "4*hidden_size"),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
        positions,
    ),
    drop=(FREQUENCIES, Drop("*.rotary_emb.inv_freq", "rotary frequencies are computed at run time")),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (CODESHELL,)
