"""Small checkpoints as transformers saves them, turned into the layout that their models are published in."""

from __future__ import annotations

import json
from pathlib import Path

import family_table
from safetensors.torch import load_file, save_file


def as_qwen(saved: Path, folder: Path) -> Path:
    """The same language model with the names and the config.json of Qwen's own Qwen3-ASR."""
    folder.mkdir()
    tensors = load_file(saved / "model.safetensors")
    inner = {name.replace("model.language_model.", "model."): tensor for name, tensor in tensors.items()}
    save_file({f"thinker.{name}": tensor for name, tensor in inner.items()}, folder / "model.safetensors")
    config = json.loads((saved / "config.json").read_text())
    parts = {key: config.pop(key) for key in ("text_config", "audio_config")}
    parts["text_config"] |= {"model_type": "qwen3_asr_text", "tie_word_embeddings": True}
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps({**config, "thinker_config": parts}))
    return folder


def as_deepseek(saved: Path, folder: Path) -> Path:
    """The same language model with the config.json of the first DeepSeek-OCR; its names are those of the second."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    text = json.loads((saved / "config.json").read_text())["text_config"]
    own = {key: text[key] for key in family_table.OCR_TEXT if key != "mlp_layer_types"}
    own |= {
        "first_k_dense_replace": 1, "topk_method": "greedy", "use_mla": False, "q_lora_rank": None,
        "kv_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0,
    }  # fmt: skip
    named = {"architectures": ["DeepseekOCRForCausalLM"], "model_type": "deepseek_vl_v2", "language_config": own}
    (folder / "config.json").write_text(json.dumps({**named, **own}))
    return folder
