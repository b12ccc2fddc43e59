"""StarCoder 1 and SantaCoder: GPT-2's blocks with keys and values of one head, and learned positions."""

from __future__ import annotations

from quantkit.families import assumptions, keys
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, Family, T, with_biases

BIGCODE = Family(
    name="gpt_bigcode",
    gguf="starcoder",
    hf=("GPTBigCodeForCausalLM",),
    defaults={
        "gpt_bigcode": {
            "vocab_size": 50257, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "num_key_value_heads": 1, "max_position_embeddings": 1024, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
    },
    aliases={
        "n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers",
        "n_positions": "max_position_embeddings",
    },
    source_block="transformer.h.{}.",
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.wpe.weight", "position_embd.weight", Role.POSITION, "max_position_embeddings hidden_size"),
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
        *keys.without(keys.SIZES, "feed_forward_length", "attention.head_count_kv"),
        keys.Key("feed_forward_length", "u32", "4*hidden_size"),
        keys.computed("attention.head_count_kv", "u32", lambda hparams: 1),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
    ),
    drop=(Drop("transformer.h.*.attn.bias", "the mask is made at run time"),),
    computes=frozenset({
        "n_embd", "n_head", "n_layer", "n_positions", "n_inner", "layer_norm_epsilon", "activation_function",
        "multi_query", "scale_attn_weights", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32",
    }),
    assumes=(assumptions.activation("activation_function", "gelu_pytorch_tanh", "gelu_new"),),
)  # fmt: skip

FAMILIES = (BIGCODE,)
