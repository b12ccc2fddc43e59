"""The copies that these tests make of real checkpoints have the tensors that were published."""

from __future__ import annotations

import json

import pytest
from real_folders import REALITY, beside, claimed, needs_reality, read_config, shapes, text_config

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PUBLISHED = [(name, index) for name in claimed() for index in INDEXES if (REALITY / name / index).is_file()]


@needs_reality
def test_every_kind_is_at_hand() -> None:
    assert len(claimed()) >= 28
    assert len(PUBLISHED) >= 15


@pytest.mark.parametrize(("name", "index"), PUBLISHED)
def test_tensors_are_those_of_the_published_index(name: str, index: str) -> None:
    published = set(json.loads((REALITY / name / index).read_text("utf-8"))["weight_map"])
    config = read_config(name)
    made = set(shapes(config)) | set(beside(name, text_config(config)["num_hidden_layers"]))
    left = {n for n in published - made if not n.endswith((".SCB", ".weight_format", ".scales", ".biases", "inv_freq"))}
    assert made <= published
    assert left == set()
