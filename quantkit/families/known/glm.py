"""GLM-4 as transformers saves it: the first (GLM-4-9B-chat-hf) and 0414, with norms after attention and MLP as well.

Half of every head is rotated, in pairs side by side; gate and up are one matrix, which llama.cpp calls ffn_up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quantkit.families import assumptions, keys
from quantkit.families.folds import ATTENTION_IN, VALUES, Fold
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, FREQUENCIES, NORMS, OUTSIDE, Family, T, TokenizerRules, biased
from quantkit.metadata import KeyValue

END, USER = "<|endoftext|>", "<|user|>"
NUMBERS = {
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
    "attention_bias": True,
}  # fmt: skip
MLP = (
    T("mlp.gate_up_proj.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size"),
    T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
)
AFTER = (
    T("post_self_attn_layernorm.weight", "post_attention_norm.weight", Role.NORM, "hidden_size"),
    T("post_mlp_layernorm.weight", "post_ffw_norm.weight", Role.NORM, "hidden_size"),
)
IN = Fold("post_attention_layernorm", ("mlp.gate_up_proj",), norm=True)
OUT = Fold("mlp.gate_up_proj", ("mlp.down_proj",))


def frequencies(hparams: Hparams) -> Iterable[KeyValue]:
    """The base of the rotation, in the spelling of the model's own code where it is there."""
    ratio = hparams.number("rope_ratio")
    base = hparams.required("rope_theta") if ratio is None else 10000.0 * ratio
    yield KeyValue("rope.freq_base", "f32", base)


GLM4 = Family(
    name="glm4",
    gguf="glm4",
    hf=("Glm4ForCausalLM",),
    defaults={"glm4": NUMBERS},
    outside=OUTSIDE,
    block=(*NORMS, *biased(ATTENTION, output=None, others="attention_bias"), *MLP, *AFTER),
    keys=(*keys.COMMON, keys.partial_rope_of_head),
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.yarn_temperature),
    folds=(ATTENTION_IN, VALUES, IN, OUT),
    tokens=TokenizerRules(named={"eos": END, "eot": USER, "unk": END, "bos": END}),
    computes=frozenset({"partial_rotary_factor"}),
)
GLM = replace(
    GLM4,
    name="chatglm",
    gguf="chatglm",
    hf=("GlmForCausalLM",),
    defaults={"glm": NUMBERS},
    block=(*NORMS, *biased(ATTENTION, output=None, others="attention_bias"), *MLP),
    keys=(
        *keys.without(keys.SIZES, "context_length"),
        keys.FirstOf("context_length", "u32", ("seq_length", "max_position_embeddings")),
        keys.FirstOf("attention.layer_norm_rms_epsilon", "f32", ("layernorm_epsilon", "rms_norm_eps")),
        frequencies,
        keys.partial_rope,
    ),
    tokens=TokenizerRules(named={"eos": END, "eot": USER, "unk": END}, no_bos=True),
)

FAMILIES = (GLM, GLM4)
