"""A thinker as it was published, which transformers itself does not open."""

from __future__ import annotations

import json
from pathlib import Path

import family_table
import torch
from safetensors.torch import load_file, save_file
from walks import logits_after, model_of, windows


def as_published(saved: Path, folder: Path) -> Path:
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


def test_a_published_thinker_gives_what_the_saved_one_does(tmp_path: Path) -> None:
    saved = family_table.build("qwen3-asr-saved", tmp_path)
    samples = windows(400, count=1, seqlen=40)
    published, _ = logits_after(model_of(as_published(saved, tmp_path / "published")), samples)
    assert torch.equal(published, logits_after(model_of(saved), samples)[0])
