"""walk_blocks against transformers: the head's logits are those of the whole model, for every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import VARIANTS, build
from transformers import AutoModelForCausalLM

from quantkit.calibration.blocks import next_token_logits, open_model, walk_blocks
from quantkit.calibration.samples import Samples, samples_of
from quantkit.source import open_source

# float32 in another order of summation: relative to the largest logit
TOLERANCE = 2e-5


def windows(vocabulary: int, shape: tuple[int, int] = (3, 150)) -> Samples:
    return samples_of(np.random.default_rng(1).integers(0, vocabulary, shape).astype(np.int32))


def whole_model(folder: Path, tokens: np.ndarray) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    with torch.no_grad():
        return model.eval()(input_ids=torch.from_numpy(tokens).long()).logits


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_the_whole_models(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path)
    checkpoint = open_source(str(folder))
    model = open_model(checkpoint, threads=2)
    samples = windows(min(model.rows, 400))
    found = torch.zeros(*samples.tokens.shape, model.rows)

    def visit(index, block):
        if block.is_head:
            for piece in block.logits():
                found[piece.position, piece.start : piece.start + len(piece.candidate)] = piece.candidate
        return {}

    walk_blocks(model, samples, visit)
    expected = whole_model(folder, samples.tokens)
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= TOLERANCE * scale
