"""Language models as they were published, in layouts that transformers itself does not open."""

from __future__ import annotations

import json
from pathlib import Path

import family_table
import pytest
import torch
from published_layouts import as_deepseek, as_qwen
from walks import logits_after, model_of, windows

from quantkit.errors import UnsupportedError


def test_a_published_thinker_gives_what_the_saved_one_does(tmp_path: Path) -> None:
    saved = family_table.build("qwen3-asr-saved", tmp_path)
    samples = windows(400, count=1, seqlen=40)
    published, _ = logits_after(model_of(as_qwen(saved, tmp_path / "published")), samples)
    assert torch.equal(published, logits_after(model_of(saved), samples)[0])


def test_the_first_deepseek_ocr_computes_as_the_second(tmp_path: Path) -> None:
    saved = family_table.build("deepseek-ocr-2-saved", tmp_path)
    samples = windows(400, count=1, seqlen=40)
    published, _ = logits_after(model_of(as_deepseek(saved, tmp_path / "published")), samples)
    assert torch.equal(published, logits_after(model_of(saved), samples)[0])


def test_weights_of_experts_that_add_up_to_one_are_refused(tmp_path: Path) -> None:
    folder = as_deepseek(family_table.build("deepseek-ocr-2-saved", tmp_path), tmp_path / "published")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["language_config"]["norm_topk_prob"] = True
    path.write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="weights of experts to a sum of 1"):
        model_of(folder)
