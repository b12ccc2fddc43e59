"""One row for each architecture beyond those of `checkpoints`: its configuration, its sizes, what is odd about it.

Checkpoints are made by transformers where it has the model, and from a list of names and shapes where it has not.
Rows of all matrices have 256 weights or a multiple, so that every block fits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import checkpoints
from checkpoints import Variant

SPREAD = 0.15  # standard deviation of all weights: attention is far from uniform

SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SPM = {**SIZES, "vocab_size": 2048}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8}  # of families without grouped queries
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
FOUR = {**SIZES, "num_hidden_layers": 4}


@dataclass(frozen=True)
class Entry:
    """A checkpoint of a family: made by the class `model` of transformers, or of `shapes` (None: not made so).

    `words` are tokens that its vocabulary needs; `edit` changes config.json afterwards; `files` lie beside it.
    `differs` are keys in which the file is meant to differ from that of the reference, with the value. `unlike`
    says why its predictions are not compared.
    """

    model: str | None
    config: Mapping[str, Any]
    bpe: bool = True
    words: tuple[str, ...] = ()
    shapes: Callable[[Mapping[str, Any]], Mapping[str, tuple[int, ...]]] | None = None
    edit: Callable[[dict[str, Any]], object] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    differs: Mapping[str, Any] = field(default_factory=dict)
    unlike: str | None = None


def llama_shapes(
    config: Mapping[str, Any], *, norms: tuple[str, ...] = ("weight",), qkv: bool = False, bias: bool = False,
    extra: Mapping[str, tuple[int, ...]] = {},
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Names and shapes of a Llama, with what norms have, biases of queries, keys and values, and of all linears."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = (
        config["num_attention_heads"] * head,
        config.get("num_key_value_heads", config["num_attention_heads"]) * head,
    )
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found |= {f"{block}{norm}.{part}": (hidden,) for part in norms}
        linears = {
            "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        for name, shape in linears.items():
            found[f"{block}{name}.weight"] = shape
            if bias or (qkv and name[10:11] in "qkv" and "self_attn" in name):
                found[f"{block}{name}.bias"] = shape[:1]
        found |= {block + name: shape for name, shape in extra.items()}
    found |= {f"model.norm.{part}": (hidden,) for part in norms}
    if not config.get("tie_word_embeddings", False):
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def internlm2_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    fused = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * head
    found: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        found |= {
            f"{block}attention_norm.weight": (hidden,), f"{block}ffn_norm.weight": (hidden,),
            f"{block}attention.wqkv.weight": (fused, hidden), f"{block}attention.wo.weight": (hidden, hidden),
            f"{block}feed_forward.w1.weight": (inner, hidden), f"{block}feed_forward.w3.weight": (inner, hidden),
            f"{block}feed_forward.w2.weight": (hidden, inner),
        }  # fmt: skip
    return {**found, "model.norm.weight": (hidden,), "output.weight": (config["vocab_size"], hidden)}


def own(architecture: str, model_type: str, **numbers: Any) -> dict[str, Any]:
    """The config.json of a model whose code is its own."""
    return {**SIZES, "architectures": [architecture], "model_type": model_type, **numbers}


SPACED = {"tokenizer_config.json": '{"tokenizer_class": "LlamaTokenizer", "add_prefix_space": false}'}
HEAD64 = {"head_dim": 64}
GLM_WORDS = ("[gMASK]", "<|user|>", "<|observation|>")
GLM_SIZES = {**SIZES, **HEAD64, "vocab_size": 408, "num_attention_heads": 4, "num_key_value_heads": 2}
MINISTRAL = {
    "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
}  # fmt: skip

TABLE: dict[str, Entry] = {
    "gemma": Entry("Gemma", {**SPM, **HEAD64}, bpe=False),
    "seed-oss": Entry("SeedOss", {**SIZES, **HEAD64}),
    "starcoder2": Entry("Starcoder2", SIZES),
    "starcoder2-untied": Entry("Starcoder2", {**SIZES, "tie_word_embeddings": False}),
    "command-r": Entry("Cohere", SIZES, edit=lambda config: config.update(model_max_length=1024)),
    "cohere2": Entry(
        "Cohere2", {**FOUR, "head_dim": 32, "sliding_window": 64}, edit=lambda config: config.update(rotary_pct=1.0)
    ),
    "smollm3": Entry("SmolLM3", FOUR),
    "arcee": Entry("Arcee", SIZES),
    "arcee-yarn": Entry("Arcee", {**SIZES, "rope_parameters": YARN}),
    "nemotron": Entry("Nemotron", SPM, bpe=False),
    "nemotron-biases": Entry("Nemotron", {**SPM, "attention_bias": True, "mlp_bias": True}, bpe=False),
    "ernie4.5": Entry("Ernie4_5", {**SPM, **HEAD64}, bpe=False, files=SPACED),
    "phi-2": Entry("Phi", {**SIZES, **HEADS, "intermediate_size": 1024}),
    "glm-4-hf": Entry(
        "Glm", GLM_SIZES, words=GLM_WORDS,
        differs={"chatglm.context_length": 512, "chatglm.attention.layer_norm_rms_epsilon": 1.5625e-07},
    ),
    "glm-4-0414": Entry("Glm4", GLM_SIZES, words=GLM_WORDS),
    "hunyuan-dense": Entry(
        "HunYuanDenseV1", {**SIZES, **HEAD64, "eod_token_id": 5},
        files={"generation_config.json": '{"eos_token_id": [7, 8]}'},
    ),
    "hunyuan-dense-tied": Entry(
        "HunYuanDenseV1", {**SIZES, "tie_word_embeddings": True, "head_dim": 32, "eod_token_id": 4}
    ),
    "olmo": Entry("Olmo", {**SIZES, "clip_qkv": 8.0}),
    "jais2": Entry("Jais2", SIZES),
    "stablelm": Entry("StableLm", SIZES),
    "stablelm-parallel": Entry("StableLm", {**SIZES, "use_qkv_bias": True, "use_parallel_residual": True}),
    "exaone4": Entry("Exaone4", {**FOUR, "sliding_window": 64}, unlike="windows are those of the model of 64 layers"),
    "exaone4-without-windows": Entry(
        "Exaone4", {**FOUR, "sliding_window": None, "layer_types": ["full_attention"] * 4}
    ),
    "ministral3": Entry("Ministral3", {**SIZES, "head_dim": 32, **MINISTRAL}),
    "internlm2": Entry(
        None, own("InternLM2ForCausalLM", "internlm2", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=1e6), bpe=False,
        shapes=internlm2_shapes,
    ),
    "internlm3": Entry(
        None,
        own("InternLM3ForCausalLM", "internlm3", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=5e7, head_dim=32,
            qkv_bias=True, bias=False, tie_word_embeddings=False),
        bpe=False, files=SPACED, shapes=lambda config: llama_shapes(config, qkv=True),
    ),
    "minicpm": Entry(
        None,
        own("MiniCPMForCausalLM", "minicpm", vocab_size=2048, rms_norm_eps=1e-5, scale_emb=12, dim_model_base=128,
            scale_depth=1.4, rope_theta=10000.0, tie_word_embeddings=True),
        bpe=False, shapes=llama_shapes,
    ),
    "orion": Entry(
        None,
        own("OrionForCausalLM", "orion", vocab_size=2048, rms_norm_eps=1e-5, max_sequence_length=256,
            rope_theta=10000.0),
        bpe=False, shapes=lambda config: llama_shapes(config, norms=("weight", "bias")),
    ),
    "maincoder": Entry(
        None,
        own("MaincoderForCausalLM", "maincoder", rms_norm_eps=1e-5, head_dim=32, rope_theta=1e6,
            tie_word_embeddings=True),
        shapes=lambda config: llama_shapes(
            config, extra={"self_attn.q_norm.weight": (32,), "self_attn.k_norm.weight": (32,)}
        ),
    ),
    "pangu": Entry(
        None,
        own("PanguEmbeddedForCausalLM", "PanguEmbedded", vocab_size=2048, rms_norm_eps=1e-5, rope_theta=16e6,
            bias=True),
        bpe=False, files=SPACED,
        shapes=lambda config: {
            name: shape
            for name, shape in llama_shapes(config, bias=True).items()
            if "mlp" not in name or not name.endswith("bias")
        },
    ),
    "dream": Entry(
        None, own("DreamModel", "Dream", rms_norm_eps=1e-6, rope_theta=1e6, mask_token_id=399),
        shapes=lambda config: llama_shapes(config, qkv=True),
    ),
    "nanbeige": Entry(
        None, own("NanbeigeForCausalLM", "nanbeige", rms_norm_eps=1e-5, rope_theta=1e6, num_loops=2),
        shapes=llama_shapes,
    ),
}  # fmt: skip


def build(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` below `folder` and return its own folder, which bears the name."""
    entry, out = TABLE[name], folder / name
    if entry.model is not None:
        variant = Variant(
            entry.model, entry.config, bpe=entry.bpe, words=entry.words, edit=entry.edit, files=entry.files
        )
        return checkpoints.build_variant(variant, out, SPREAD)
    return _build_from_shapes(entry, out)


def _build_from_shapes(entry: Entry, out: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    assert entry.shapes is not None
    out.mkdir(parents=True)
    random = torch.Generator().manual_seed(crc32(out.name.encode()))
    tensors = {
        name: (torch.randn(shape, generator=random) * SPREAD).to(torch.bfloat16)
        for name, shape in entry.shapes(entry.config).items()
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(dict(entry.config)))
    if entry.bpe:
        (out / "tokenizer.json").write_text(checkpoints.bpe_tokenizer(entry.words))
        (out / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    else:
        for file in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copyfile(checkpoints.SENTENCEPIECE / file, out / file)
    for file, text in entry.files.items():
        (out / file).write_text(text)
    return out
