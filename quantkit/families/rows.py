"""The model families quantkit knows, one row each.

A family says which source tensor becomes which target tensor, in what shape, role and layout, and which metadata
keys are written. Source names are what `save_pretrained` and the Hub use; target names, and the choice of layouts,
are llama.cpp's (gguf-py/gguf/tensor_mapping.py and conversion/*.py, October 2026).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quantkit.families import assumptions, keys
from quantkit.families.hparams import Hparams
from quantkit.families.model import ModelTensor
from quantkit.families.placements import (
    Layout,
    expert,
    gate_half,
    longrope_factors,
    rope_freqs,
    rope_rows,
    up_half,
    vocabulary,
    whole,
)
from quantkit.families.roles import Role

ALWAYS = "always"


@dataclass(frozen=True)
class T:
    """Source tensor -> target tensor.

    In a block's rows both names are relative to the block, and "{}" in `source` is the number of an expert. `shape`
    names the source's axes by `Hparams` numbers ("2*name" is twice that). `bias` says that a bias may go with the
    weight: the name of the configuration flag that makes it mandatory, ALWAYS, or None for no bias at all. The
    tensor itself is mandatory, unless the flag `unless` is set. `add` is added to every value.
    """

    source: str
    target: str
    role: Role
    shape: str
    layout: Layout = whole
    bias: str | None = None
    unless: str | None = None
    add: float = 0.0


@dataclass(frozen=True)
class Drop:
    """Source tensors (a shell pattern) left out on purpose; only while the flag `when` is set, if it names one."""

    pattern: str
    reason: str
    when: str | None = None


@dataclass(frozen=True)
class Family:
    """One row of the table.

    `hf` are the architectures and `model_types` the model types of config.json that it serves; the defaults of the
    first model type apply where config.json names none. `strip` is cut out of source names. `extra` makes the
    tensors that come from the configuration. `assumes` are what llama.cpp takes for granted of it. `reranks` says
    that some of its checkpoints are rerankers (`families.reranker`).
    """

    name: str
    gguf: str
    hf: tuple[str, ...]
    model_types: tuple[str, ...]
    outside: tuple[T, ...]
    block: tuple[T, ...]
    keys: tuple[keys.Entry, ...]
    drop: tuple[Drop, ...] = ()
    strip: str = ""
    extra: Callable[[Hparams], tuple[ModelTensor, ...]] | None = None
    assumes: tuple[assumptions.Assumption, ...] = ()
    reranks: bool = False


SOURCE_BLOCK, TARGET_BLOCK = "model.layers.{}.", "blk.{}."

EMBEDDING = T("model.embed_tokens.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size")
FINAL_NORM = T("model.norm.weight", "output_norm.weight", Role.NORM, "hidden_size")
HEAD = T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size", unless="tie_word_embeddings")
OUTSIDE = (EMBEDDING, FINAL_NORM, HEAD)

NORMS = (
    T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
    T("post_attention_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
)
GEMMA_NORMS = (
    T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
    T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, "hidden_size"),
    T("pre_feedforward_layernorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
    T("post_feedforward_layernorm.weight", "post_ffw_norm.weight", Role.NORM, "hidden_size"),
)
QK_NORMS = (
    T("self_attn.q_norm.weight", "attn_q_norm.weight", Role.NORM, "head"),
    T("self_attn.k_norm.weight", "attn_k_norm.weight", Role.NORM, "head"),
)
ATTENTION = (
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size", bias="attention_bias"),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size", bias="attention_bias"),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size", bias="attention_bias"),
    T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows", bias="attention_bias"),
)
MLP = (
    T("mlp.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size", bias="mlp_bias"),
    T("mlp.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size", bias="mlp_bias"),
    T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias="mlp_bias"),
)


def rotated(rows: tuple[T, ...]) -> tuple[T, ...]:
    """The same attention with the rows of queries and keys in llama.cpp's rotation order."""
    return tuple(replace(t, layout=rope_rows) if t.role in {Role.ATTN_Q, Role.ATTN_K} else t for t in rows)


def biased(rows: tuple[T, ...], output: str | None) -> tuple[T, ...]:
    """The same attention where queries, keys and values always have a bias."""
    return tuple(replace(t, bias=output if t.role is Role.ATTN_OUTPUT else ALWAYS) for t in rows)


def centered(rows: tuple[T, ...]) -> tuple[T, ...]:
    """Norms that are stored as their distance from 1."""
    return tuple(replace(t, add=1.0) if t.role is Role.NORM else t for t in rows)


def experts(width: str, module: str, gate: str, up: str, down: str) -> tuple[T, ...]:
    """A mixture of experts of inner width `width`: one matrix per expert below `module`, or fused stacks.

    transformers computes with the fused stacks; tools that save what it holds in memory write those.
    """
    one, inner, outer = f"{module}.experts.{{}}.", f"{width} hidden_size", f"hidden_size {width}"
    fused = f"num_local_experts 2*{width} hidden_size"
    return (
        T(f"{module}.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
        T(f"{one}{gate}.weight", "ffn_gate_exps.weight", Role.FFN_GATE, inner, expert),
        T(f"{one}{up}.weight", "ffn_up_exps.weight", Role.FFN_UP, inner, expert),
        T(f"{one}{down}.weight", "ffn_down_exps.weight", Role.FFN_DOWN, outer, expert),
        T("mlp.experts.gate_up_proj", "ffn_gate_exps.weight", Role.FFN_GATE, fused, gate_half),
        T("mlp.experts.gate_up_proj", "ffn_up_exps.weight", Role.FFN_UP, fused, up_half),
        T("mlp.experts.down_proj", "ffn_down_exps.weight", Role.FFN_DOWN, f"num_local_experts {outer}"),
    )


FREQUENCIES = Drop("*.rotary_emb.inv_freq", "rotary frequencies are computed at run time")
VISION = tuple(
    Drop(pattern, "the vision encoder belongs into a file of its own")
    for pattern in (
        "vision_tower.*",
        "model.vision_tower.*",
        "multi_modal_projector.*",
        "model.multi_modal_projector.*",
    )
)

LLAMA = Family(
    name="llama",
    gguf="llama",
    hf=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"),
    model_types=("llama", "mistral"),
    outside=OUTSIDE,
    block=(*NORMS, *rotated(ATTENTION), *MLP),
    keys=keys.LLAMA,
    drop=(FREQUENCIES,),
    extra=rope_freqs,
    assumes=(assumptions.silu, assumptions.no_window, assumptions.yarn_temperature),
)
MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    hf=("MixtralForCausalLM",),
    model_types=("mixtral",),
    block=(
        *NORMS,
        *rotated(ATTENTION),
        *experts("intermediate_size", "block_sparse_moe", "w1", "w3", "w2"),
        T("mlp.gate.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
    ),
)
QWEN2 = Family(
    name="qwen2",
    gguf="qwen2",
    hf=("Qwen2ForCausalLM",),
    model_types=("qwen2",),
    outside=OUTSIDE,
    block=(*NORMS, *biased(ATTENTION, output=None), *MLP),
    keys=keys.QWEN,
    drop=(FREQUENCIES,),
    assumes=(assumptions.silu, assumptions.no_switched_window, assumptions.yarn_temperature),
)
QWEN3 = replace(
    QWEN2,
    name="qwen3",
    gguf="qwen3",
    hf=("Qwen3ForCausalLM",),
    model_types=("qwen3",),
    block=(*NORMS, *ATTENTION, *QK_NORMS, *MLP),
    keys=keys.QWEN3,
    reranks=True,
)
QWEN3_MOE = replace(
    QWEN3,
    name="qwen3_moe",
    gguf="qwen3moe",
    hf=("Qwen3MoeForCausalLM",),
    model_types=("qwen3_moe",),
    block=(
        *NORMS,
        *ATTENTION,
        *QK_NORMS,
        *experts("moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    keys=keys.QWEN3_MOE,
    reranks=False,
    assumes=(*QWEN3.assumes, assumptions.normalized_router),
)
GEMMA2 = Family(
    name="gemma2",
    gguf="gemma2",
    hf=("Gemma2ForCausalLM",),
    model_types=("gemma2",),
    outside=centered((EMBEDDING, FINAL_NORM)),
    block=centered((*GEMMA_NORMS, *ATTENTION, *MLP)),
    keys=keys.GEMMA2,
    drop=(FREQUENCIES, Drop("lm_head.weight", "the same values as the embeddings", when="tie_word_embeddings")),
    assumes=(
        assumptions.gelu_tanh,
        assumptions.windows_every(2),
        assumptions.attention_scaled_by_head(assumptions.GEMMA2_27B_LAYERS),
    ),
)
GEMMA3 = Family(
    name="gemma3",
    gguf="gemma3",
    hf=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_types=("gemma3_text",),
    outside=centered((replace(EMBEDDING, layout=vocabulary), FINAL_NORM, HEAD)),
    block=centered((*GEMMA_NORMS, *ATTENTION, *QK_NORMS, *MLP)),
    keys=keys.GEMMA3,
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
    assumes=(
        assumptions.gelu_tanh,
        assumptions.windows_every(6),
        assumptions.attention_scaled_by_head(assumptions.GEMMA3_27B_LAYERS),
        assumptions.no_attention_softcap,
    ),
)
PHI3 = Family(
    name="phi3",
    gguf="phi3",
    hf=("Phi3ForCausalLM",),
    model_types=("phi3",),
    outside=OUTSIDE,
    block=(
        *NORMS,
        T("self_attn.qkv_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "qkv_rows hidden_size"),
        T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows"),
        # gate and up in one tensor, which llama.cpp calls, and treats as, ffn_up
        T("mlp.gate_up_proj.weight", "ffn_up.weight", Role.FFN_UP, "2*intermediate_size hidden_size"),
        T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ),
    keys=keys.PHI3,
    drop=(FREQUENCIES,),
    extra=longrope_factors,
    assumes=(assumptions.silu, assumptions.no_window),
)

FAMILIES = (LLAMA, MIXTRAL, QWEN2, QWEN3, QWEN3_MOE, GEMMA2, GEMMA3, PHI3)
