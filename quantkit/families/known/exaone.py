"""EXAONE 3 and 3.5: a Llama under GPT-2's names."""

from __future__ import annotations

from quantkit.families import assumptions, keys
from quantkit.families.placements import rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import FREQUENCIES, OWN_CODE, Family, T

EXAONE = Family(
    name="exaone",
    gguf="exaone",
    hf=("ExaoneForCausalLM",),
    defaults={
        "exaone": {
            "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
            "layer_norm_epsilon": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        },
    },
    aliases={"num_layers": "num_hidden_layers"},
    source_block="transformer.h.{}.",
    outside=(
        T("transformer.wte.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        T("transformer.ln_f.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings"),
    ),
    block=(
        T("ln_1.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("ln_2.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
        T("attn.attention.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size"),
        T("attn.attention.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size"),
        T("attn.attention.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size"),
        T("attn.attention.out_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        T("mlp.c_fc_0.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size"),
        T("mlp.c_fc_1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("mlp.c_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ),
    keys=(
        *keys.SIZES,
        keys.rope_scaling,
        keys.FREQUENCY_BASE,
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
        keys.Key("attention.layer_norm_rms_epsilon", "f32", "layer_norm_epsilon"),  # the one that llama.cpp reads
        *keys.HEAD_LENGTHS,
        keys.partial_rope,
    ),
    drop=(FREQUENCIES,),
    extra=rope_freqs,
    assumes=(assumptions.activation("activation_function", "silu"),),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (EXAONE,)
