"""Small random checkpoints, one per variant of a family, saved by transformers itself.

Every variant is a function that writes a folder. Weights are random but fixed; sizes are such that every number of
the configuration is different where it can be, so that a mix-up of two axes shows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

TESTS = Path(__file__).parent
SENTENCEPIECE = TESTS / "data" / "docs-llama-tiny"
BPE_TEXT = TESTS.parent / "LICENSE"
PRE = "qwen2"  # the pre-tokenizer that the BPE vocabulary made here claims

SIZES: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
BPE_SIZES = {**SIZES, "vocab_size": 400}
FACTORS = {"long_factor": [1 + 0.37 * i for i in range(8)], "short_factor": [1 + 0.01 * i for i in range(8)]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, **FACTORS}


@dataclass(frozen=True)
class Variant:
    """A checkpoint: model class and configuration, how it is saved, and what is changed in the folder afterwards.

    `edit` gets config.json as a dictionary and changes it in place; `files` are written beside it; `bare` takes the
    prefix "model." off every tensor, as sentence-transformers saves it; `headless` takes the output head away and names
    the architecture as AutoModel does. `words` are further tokens of a BPE vocabulary, `further` shapes of tensors that
    transformers does not know.
    """

    model: str
    config: Mapping[str, Any]
    bpe: bool = False
    dtype: str = "bfloat16"
    shard_size: str = "1GB"
    bare: bool = False
    headless: bool = False
    words: tuple[str, ...] = ()
    further: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    edit: Callable[[dict[str, Any]], object] | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The name of its class in transformers."""
        return self.model + ("" if self.model.endswith(("Generation", "Model")) else "ForCausalLM")


def _without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def edit(config: dict[str, Any]) -> None:
        for key in keys:
            config.pop(key)

    return edit


def _named(name: str) -> Callable[[dict[str, Any]], object]:
    """The name that transformers 4 left in config.json: of a repository, or a folder on somebody's machine."""
    return lambda config: config.update(_name_or_path=name)


def _as_transformers_4(**legacy: Any) -> Callable[[dict[str, Any]], object]:
    """Rope settings where transformers 4 and the Hub have them."""

    def edit(config: dict[str, Any]) -> None:
        config.pop("rope_parameters")
        config.update(legacy)

    return edit


def _edit_text(*absent: str, **legacy: Any) -> Callable[[dict[str, Any]], object]:
    """The text part of a model with vision as Google publishes it: only what differs from the defaults."""

    def edit(config: dict[str, Any]) -> None:
        text = config["text_config"]
        for key in absent:
            text.pop(key)
        text.update(legacy)

    return edit


CARD = """---
license: apache-2.0
license_name: some-licence
base_model:
- meta-llama/Llama-3.2-1B-Instruct
- https://huggingface.co/org/Other-Model-7B-v0.3
- {name: Third, organization: Somebody, repo_url: 'https://example.org/third'}
datasets: [HuggingFaceH4/ultrachat_200k, 'https://example.org/data']
language:
- en
- no
tags: [chat, tiny]
pipeline_tag: text-generation
model_creator: A. N. Author
description: two words
url: https://example.org/model
---
# A model
"""
GENERATION = '{"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05}'
POOLING = {
    "modules.json": '[{"type": "sentence_transformers.models.Transformer", "path": ""},'
    ' {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
    "1_Pooling/config.json": '{"pooling_mode_mean_tokens": false, "pooling_mode_lasttoken": true}',
}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LLAMA3 = {**BPE_SIZES, "max_position_embeddings": 131072}
PHI3 = {**SIZES, "vocab_size": 2064, "pad_token_id": 0, "eos_token_id": 2, "original_max_position_embeddings": 128}
PHI3_TOKENS = {"added_tokens.json": '{"<|endoftext|>": 2048, "<|user|>": 2049}'}
# Ids as the vocabulary names them: Gemma's own configuration has them the other way round.
NAMED = {"bos_token_id": 1, "eos_token_id": 2}
GEMMA2 = {**SIZES, **NAMED, "head_dim": 32, "query_pre_attn_scalar": 32}
GEMMA3 = {**GEMMA2, "num_hidden_layers": 7}
VISION = {  # more layers than the text has
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip

LINEAR_ATTENTION = {
    "num_hidden_layers": 4, "head_dim": 32, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SHARED_EXPERT = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}


def mtp_block() -> dict[str, tuple[int, ...]]:
    """The attention of the block that predicts one token more, of a model of 64, with heads of 32."""
    linear = {"q_proj": (256, 64), "k_proj": (64, 64), "v_proj": (64, 64), "o_proj": (64, 128)}
    return {
        "mtp.fc.weight": (64, 128), "mtp.norm.weight": (64,), "mtp.pre_fc_norm_embedding.weight": (64,),
        "mtp.pre_fc_norm_hidden.weight": (64,), "mtp.layers.0.input_layernorm.weight": (64,),
        "mtp.layers.0.post_attention_layernorm.weight": (64,),
        **{f"mtp.layers.0.self_attn.{name}.weight": shape for name, shape in linear.items()},
        **{f"mtp.layers.0.self_attn.{name}_norm.weight": (32,) for name in "qk"},
    }  # fmt: skip


def mtp_mlp(name: str = "mlp", width: int = 96) -> dict[str, tuple[int, ...]]:
    shapes = {"gate_proj": (width, 64), "up_proj": (width, 64), "down_proj": (64, width)}
    return {f"mtp.layers.0.{name}.{part}.weight": shape for part, shape in shapes.items()}


def mtp_experts() -> dict[str, tuple[int, ...]]:
    found = {"mtp.layers.0.mlp.gate.weight": (6, 64), "mtp.layers.0.mlp.shared_expert_gate.weight": (1, 64)}
    for number in range(6):
        found |= mtp_mlp(f"mlp.experts.{number}", 32)
    return {**found, **mtp_mlp("mlp.shared_expert", 48)}


GLM4_MOE = {
    **BPE_SIZES, "vocab_size": 408, "num_hidden_layers": 3, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "n_shared_experts": 2, "moe_intermediate_size": 32, "head_dim": 32, "routed_scaling_factor": 1.5,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def glm_mtp() -> dict[str, tuple[int, ...]]:
    """The block after three layers of a GLM-4.5, with biases."""
    block, hidden = "model.layers.3.", 64
    shapes: dict[str, tuple[int, ...]] = {
        "eh_proj": (hidden, 2 * hidden), "shared_head.head": (408, hidden), "embed_tokens": (408, hidden),
        "self_attn.q_proj": (128, hidden), "self_attn.k_proj": (64, hidden), "self_attn.v_proj": (64, hidden),
        "self_attn.o_proj": (hidden, 128), "mlp.gate": (6, hidden),
        **{n: (hidden,) for n in ("enorm", "hnorm", "shared_head.norm", "input_layernorm", "post_attention_layernorm")},
    }  # fmt: skip
    for module, width in (("shared_experts", 64), *((f"experts.{number}", 32) for number in range(6))):
        shapes |= {f"mlp.{module}.{p}_proj": (width, hidden) for p in ("gate", "up")}
        shapes[f"mlp.{module}.down_proj"] = (hidden, width)
    found = {f"{block}{name}.weight": shape for name, shape in shapes.items()}
    biases = {f"{block}self_attn.{p}_proj.bias": (128 if p == "q" else 64,) for p in "qkv"}
    return {**found, **biases, f"{block}mlp.gate.e_score_correction_bias": (6,)}


GPT_OSS_ROPE = {
    "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True,
}  # fmt: skip
SMALL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MLA = {
    "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8,
    "v_head_dim": 20, "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, **SMALL_IDS,
}  # fmt: skip
FALCON = {
    "vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False,
    "bias": False, **SMALL_IDS,
}  # fmt: skip

VARIANTS: dict[str, Variant] = {
    "llama-untied-gqa": Variant("Llama", SIZES, edit=_named("someone/Little-Llama-v0.7-chat")),
    "llama-f16": Variant("Llama", SIZES, dtype="float16"),
    "llama-sharded": Variant("Llama", SIZES, dtype="float32", shard_size="200KB"),
    "Llama-3x-tied-1B-Instruct-v3.2": Variant(
        "Llama", {**LLAMA3, "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 64}, bpe=True
    ),
    "llama-rope-in-two-keys": Variant(
        "Llama",
        {**LLAMA3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256},
        bpe=True,
        edit=_as_transformers_4(
            rope_theta=500000.0,
            rope_scaling={**{k: v for k, v in LLAMA3_ROPE.items() if k != "rope_theta"}, "factor": 32.0},
        ),
    ),
    "llama-linear": Variant("Llama", {**SIZES, "rope_parameters": {"rope_type": "linear", "factor": 2.5}}),
    "llama-yarn": Variant(
        "Llama",
        {
            **SIZES,
            "rope_parameters": {
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 24.0,
                "beta_slow": 2.0, "attention_factor": 0.75,
            },
        },
    ),
    "llama-yarn-from-defaults": Variant(
        "Llama",
        SIZES,
        edit=_as_transformers_4(rope_theta=1e6, rope_scaling={"type": "yarn", "factor": 2.0, "attn_factor": 0.9}),
    ),
    "llama-biases": Variant("Llama", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": Variant("Llama", {**SIZES, "head_dim": 24}, edit=_named("/home/someone/models/Other-v9-chat")),
    "llama-1-sparse-config": Variant(
        "Llama",
        {**SIZES, "num_key_value_heads": 4, "max_position_embeddings": 2048},
        edit=_without(
            "head_dim", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "rope_parameters",
            "tie_word_embeddings", "attention_bias", "mlp_bias",
        ),
    ),
    "llama-card": Variant("Llama", SIZES, files={"README.md": CARD, "generation_config.json": GENERATION}),
    "mistral-sliding": Variant("Mistral", {**SIZES, "sliding_window": 128}),
    "qwen2-tied": Variant("Qwen2", {**BPE_SIZES, "tie_word_embeddings": True}, bpe=True),
    "qwen2-untied": Variant("Qwen2", {**SIZES, **NAMED}, dtype="float32"),
    "qwen2.5-yarn": Variant(
        "Qwen2",
        BPE_SIZES,
        bpe=True,
        edit=_as_transformers_4(
            rope_theta=1e6, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
        ),
    ),
    "qwen3": Variant("Qwen3", {**BPE_SIZES, "head_dim": 32}, bpe=True),
    "Qwen3-Embedding-0.1B": Variant(
        "Qwen3", {**BPE_SIZES, "head_dim": 32, "tie_word_embeddings": True}, bpe=True, bare=True, files=POOLING
    ),
    **{
        f"{model}Model": Variant(model, {**BPE_SIZES, **more}, bpe=True, bare=True, headless=True)
        for model, more in (("Llama", {}), ("Qwen2", {"tie_word_embeddings": True}), ("Qwen3", {"head_dim": 32}))
    },
    **{
        f"Qwen3-Reranker-0.{1 + tied}B": Variant(
            "Qwen3",
            {**BPE_SIZES, "vocab_size": 408, "head_dim": 32, "tie_word_embeddings": tied},
            bpe=True,
            words=("yes", "no", "|"),
        )
        for tied in (False, True)
    },
    "a-reranker-by-its-card": Variant(
        "Qwen3",
        {**BPE_SIZES, "vocab_size": 408, "head_dim": 32},
        bpe=True,
        words=("yes", "no", "|"),
        files={"README.md": "# Qwen3-Reranker-0.6B\n"},
    ),
    "qwen3-moe": Variant(
        "Qwen3Moe",
        {
            **BPE_SIZES, "moe_intermediate_size": 32, "head_dim": 24, "num_experts": 12, "num_experts_per_tok": 3,
            "norm_topk_prob": True,
        },
        bpe=True,
        edit=lambda config: config.update(shared_expert_intermediate_size=0),
    ),
    "mixtral-4x1M": Variant("Mixtral", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": Variant(
        "Qwen2Moe",
        {
            **BPE_SIZES, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 160, "num_experts": 6,
            "num_experts_per_tok": 3,
        },
        bpe=True,
    ),
    "olmo3": Variant(
        "Olmo3", {**BPE_SIZES, "num_hidden_layers": 5, "eos_token_id": 2, "sliding_window": 64}, bpe=True
    ),
    "olmo3-from-defaults": Variant(
        "Olmo3",
        {**BPE_SIZES, "num_hidden_layers": 4, "eos_token_id": 2, "sliding_window": 64},
        bpe=True,
        edit=_as_transformers_4(
            rope_theta=5e5,
            rope_scaling={
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32.0,
                "beta_slow": 1.0, "attention_factor": 1.1386294361119891,
            },
        ),
    ),
    "olmoe": Variant(
        "Olmoe",
        {
            **BPE_SIZES, "num_key_value_heads": 4, "intermediate_size": 32, "num_experts": 6, "num_experts_per_tok": 2,
            "eos_token_id": 2,
        },
        bpe=True,
    ),
    "minimax-m2": Variant(
        "MiniMaxM2",
        {
            **BPE_SIZES, "intermediate_size": 32, "head_dim": 32, "rotary_dim": 16, "num_local_experts": 6,
            "num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 2,
        },
        bpe=True,
        edit=lambda config: config.update(scoring_func="sigmoid", rotary_dim=16),
    ),
    **{
        name: Variant(
            "Qwen3Next",
            {**BPE_SIZES, **LINEAR_ATTENTION, **SHARED_EXPERT, "num_experts": 6, "num_experts_per_tok": 2},
            bpe=True,
            further=further,
        )
        for name, further in (("qwen3-next", {}), ("qwen3-next-mtp", {**mtp_block(), **mtp_experts()}))
    },
    **{
        name: Variant(
            "Qwen3_5",
            {**BPE_SIZES, **LINEAR_ATTENTION, "mtp_num_hidden_layers": count},
            bpe=True,
            further=further,
        )
        for name, count, further in (("qwen3.5", 0, {}), ("qwen3.5-mtp", 1, {**mtp_block(), **mtp_mlp()}))
    },
    "qwen3.5-moe": Variant(
        "Qwen3_5Moe",
        {**BPE_SIZES, **LINEAR_ATTENTION, **SHARED_EXPERT, "num_experts": 6, "num_experts_per_tok": 2},
        bpe=True,
    ),
    **{
        name: Variant(
            "Glm4Moe",
            {**GLM4_MOE, "num_nextn_predict_layers": count, **more},
            bpe=True,
            words=("[gMASK]", "<|user|>", "<|observation|>"),
            further=further,
        )
        for name, count, more, further in (
            ("glm4-moe", 0, {"use_qk_norm": True}, {}),
            ("glm4-moe-mtp", 1, {"attention_bias": True}, glm_mtp()),
        )
    },
    "mamba": Variant(
        "Mamba", {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, **SMALL_IDS}, bpe=True
    ),
    "mamba2": Variant(
        "Mamba2",
        {
            "vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "num_heads": 8,
            "head_dim": 16, "n_groups": 2, "chunk_size": 32, **SMALL_IDS,
        },
        bpe=True,
    ),
    "gpt-oss": Variant(
        "GptOss",
        {
            **BPE_SIZES, "head_dim": 64, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
            "sliding_window": 64, "num_hidden_layers": 4, **SMALL_IDS, "rope_parameters": GPT_OSS_ROPE,
        },
        bpe=True,
    ),
    "deepseek-v3": Variant(
        "DeepseekV3",
        {
            **BPE_SIZES, **MLA, "num_hidden_layers": 3, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
            "num_nextn_predict_layers": 0,
        },
        bpe=True,
        edit=lambda config: config.update(scoring_func="sigmoid"),
    ),
    "deepseek-v3-yarn": Variant(
        "DeepseekV3",
        {
            **BPE_SIZES, **MLA, "n_shared_experts": 2, "first_k_dense_replace": 1, "norm_topk_prob": False,
            "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
                "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
            },
        },
        bpe=True,
        edit=lambda config: config.update(scoring_func="sigmoid"),
    ),
    "deepseek-v2": Variant(
        "DeepseekV2",
        {**BPE_SIZES, **MLA, "num_hidden_layers": 3, "first_k_dense_replace": 1, "topk_method": "greedy"},
        bpe=True,
        edit=lambda config: config.update(scoring_func="softmax"),
    ),
    "lfm2": Variant(
        "Lfm2",
        {
            **BPE_SIZES, **SMALL_IDS, "num_hidden_layers": 4, "block_multiple_of": 32,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        },
        bpe=True,
    ),
    "lfm2-moe": Variant(
        "Lfm2Moe",
        {
            **BPE_SIZES, **SMALL_IDS, "num_hidden_layers": 3, "num_experts": 6, "num_experts_per_tok": 2,
            "moe_intermediate_size": 32, "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"],
        },
        bpe=True,
    ),
    "pythia": Variant(
        "GPTNeoX",
        {**BPE_SIZES, **SMALL_IDS, "rotary_pct": 0.5, "use_parallel_residual": True},
        bpe=True,
        edit=lambda config: config.update(rotary_pct=0.5),
    ),
    "gpt-neox-serial": Variant(
        "GPTNeoX",
        {**BPE_SIZES, **SMALL_IDS, "rotary_pct": 1.0, "use_parallel_residual": False},
        bpe=True,
        edit=lambda config: config.update(rotary_pct=1.0),
    ),
    "bloom": Variant(
        "Bloom",
        {"vocab_size": 400, "hidden_size": 64, "n_layer": 2, "n_head": 4, "seq_length": 512, **SMALL_IDS},
        bpe=True,
    ),
    "gpt2": Variant(
        "GPT2LMHeadModel",
        {"vocab_size": 400, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, **SMALL_IDS},
        bpe=True,
        edit=lambda config: config.update(n_ctx=512),
    ),
    "falcon": Variant(
        "Falcon", {**FALCON, "multi_query": True, "num_kv_heads": 1, "parallel_attn": True}, bpe=True
    ),
    "falcon-groups": Variant(
        "Falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "parallel_attn": True}, bpe=True
    ),
    "granite": Variant(
        "Granite",
        {
            **SIZES, "attention_multiplier": 0.5, "embedding_multiplier": 3.0, "residual_multiplier": 0.4,
            "logits_scaling": 2.5, "tie_word_embeddings": True,
        },
    ),
    "olmo2": Variant("Olmo2", {**BPE_SIZES, "eos_token_id": 2}, bpe=True),
    "gemma2": Variant(
        "Gemma2",
        {**GEMMA2, "sliding_window": 64, "attn_logit_softcapping": 40.0, "final_logit_softcapping": 20.0},
    ),
    "gemma3": Variant("Gemma3", {**GEMMA3, "sliding_window": 64}),
    "gemma3-linear": Variant(
        "Gemma3",
        {**GEMMA3, "sliding_window": 64},
        edit=_as_transformers_4(
            rope_theta=2e6, rope_local_base_freq=5000.0, rope_scaling={"rope_type": "linear", "factor": 8.0},
            sliding_window_pattern=6, final_logit_softcapping=20.0,
        ),
    ),
    "gemma3-with-vision": Variant(
        "Gemma3ForConditionalGeneration",
        {
            **NAMED,
            "text_config": {**SIZES, **NAMED, "num_attention_heads": 8, "num_key_value_heads": 4},
            "vision_config": VISION,
        },
        edit=_edit_text(
            "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_parameters",
            "tie_word_embeddings", rope_scaling={"rope_type": "linear", "factor": 8.0},
        ),
    ),
    "phi3": Variant(
        "Phi3",
        {**PHI3, "sliding_window": 2047},
        edit=_without("original_max_position_embeddings", "rms_norm_eps"),
        files=PHI3_TOKENS,
    ),
    "phi3-longrope": Variant("Phi3", {**PHI3, "rope_parameters": LONGROPE}, files=PHI3_TOKENS),
    "phi3-su": Variant(
        "Phi3",
        PHI3,
        edit=_as_transformers_4(rope_theta=1e4, rope_scaling={"type": "su", **FACTORS}),
        files=PHI3_TOKENS,
    ),
    "phi4": Variant(
        "Phi3",
        {**PHI3, "vocab_size": 400},
        bpe=True,
        files={"tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}'},
    ),
    "phi4-mini": Variant(
        "Phi3",
        {
            **PHI3, "vocab_size": 400, "tie_word_embeddings": True,
            "rope_parameters": {
                **LONGROPE, "partial_rotary_factor": 0.75, "long_factor": FACTORS["long_factor"][:6],
                "short_factor": FACTORS["short_factor"][:6],
            },
        },
        bpe=True,
        files={"tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}'},
    ),
}  # fmt: skip


def build(name: str, folder: Path, spread: float = 0.05) -> Path:
    """Write the checkpoint `name` below `folder` and return its own folder, which bears the name."""
    return build_variant(VARIANTS[name], folder / name, spread)


def build_variant(variant: Variant, out: Path, spread: float = 0.05) -> Path:
    """Write a checkpoint to `out`. `spread` is the standard deviation of all weights, norms included."""
    import torch
    import transformers

    model_class = getattr(transformers, variant.architecture)
    config = model_class.config_class(**json.loads(json.dumps(dict(variant.config))))
    model = model_class(config)
    random = torch.Generator().manual_seed(crc32(out.name.encode()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * spread)
    model.to(getattr(torch, variant.dtype)).save_pretrained(out, max_shard_size=variant.shard_size)
    if variant.further:
        _add(out / "model.safetensors", variant, random, spread)
    if variant.bare:
        _take_prefix_off(out / "model.safetensors", variant.headless)
    if variant.headless:
        config_json = json.loads((out / "config.json").read_text())
        config_json["architectures"] = [f"{variant.model}Model"]
        (out / "config.json").write_text(json.dumps(config_json))
    if variant.edit:
        config_json = json.loads((out / "config.json").read_text())
        variant.edit(config_json)
        (out / "config.json").write_text(json.dumps(config_json, indent=1))
    _write_tokenizer(out, variant)
    for file, text in variant.files.items():
        (out / file).parent.mkdir(exist_ok=True)
        (out / file).write_text(text)
    return out


def _add(path: Path, variant: Variant, random: Any, spread: float) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    dtype = getattr(torch, variant.dtype)
    added = {n: (torch.randn(shape, generator=random) * spread).to(dtype) for n, shape in variant.further.items()}
    save_file({**load_file(path), **added}, path, metadata={"format": "pt"})


def _take_prefix_off(path: Path, headless: bool) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    if headless:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, path)


def _write_tokenizer(out: Path, variant: Variant) -> None:
    if variant.model.startswith("Gemma4"):
        (out / "tokenizer.json").write_text(gemma4_tokenizer())
        (out / "tokenizer_config.json").write_text(json.dumps(GEMMA4_SETTINGS))
        return
    if variant.bpe:
        (out / "tokenizer.json").write_text(bpe_tokenizer(variant.words))
        (out / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        return
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(SENTENCEPIECE / file, out / file)
    if variant.model.startswith("Gemma"):
        _without_space_prefix(out / "tokenizer.model")


def _without_space_prefix(path: Path) -> None:
    """Gemma's vocabularies put no space before a text; its converter counts on that."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    path.write_bytes(model.SerializeToString())


GEMMA4_SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>",
    "unk_token": "<unk>", "mask_token": "<mask>", "add_bos_token": True,
    "extra_special_tokens": ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_call>"],
}  # fmt: skip


@cache
def gemma4_tokenizer() -> str:
    """A tokenizer.json of Gemma 4's kind with 640 tokens: pieces and bytes, merged by rank, runs of line breaks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *GEMMA4_SETTINGS["extra_special_tokens"]]
    fixed = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "\n\n", "\n\n\n"]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=640 - len(fixed), initial_alphabet=["\n", "▁"], show_progress=False)
    trained.train_from_iterator(BPE_TEXT.read_text().splitlines(), trainer)
    learned = json.loads(trained.to_str())["model"]
    vocab = {text: number for number, text in enumerate([*fixed, *learned["vocab"]])}
    merges = [("\n", "\n"), ("\n\n", "\n"), *map(tuple, learned["merges"])]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return tokenizer.to_str()


@cache
def bpe_tokenizer(words: tuple[str, ...] = ()) -> str:
    """A byte-level tokenizer.json with 398 tokens, two added ones and `words`, trained on the licence text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=398, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(BPE_TEXT.read_text().splitlines(), trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens([AddedToken(word) for word in words])
    return tokenizer.to_str()


def stack_experts(tensors: dict[str, Any]) -> None:
    """The experts of a small Mixtral as transformers 5 holds them in memory, in place: two stacks a layer."""
    import torch

    for layer in range(2):
        old, new = f"model.layers.{layer}.block_sparse_moe.", f"model.layers.{layer}.mlp."
        parts = {w: [tensors.pop(f"{old}experts.{e}.{w}.weight") for e in range(4)] for w in ("w1", "w2", "w3")}
        fused = [torch.cat(pair) for pair in zip(parts["w1"], parts["w3"], strict=True)]
        tensors[f"{new}experts.gate_up_proj"] = torch.stack(fused)
        tensors[f"{new}experts.down_proj"] = torch.stack(parts["w2"])
        tensors[f"{new}gate.weight"] = tensors.pop(f"{old}gate.weight")
