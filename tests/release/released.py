"""A source with a card, and what releases are made of: the folder of its GGUF files, and a measurement of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCE_CARD = """---
license: apache-2.0
language: [en, "no"]
tags: [code, distillation]
datasets: [org/texts, other/texts]
base_model: org/larger-model
base_model_relation: finetune
pipeline_tag: text-generation
---
# Model
"""
RECIPES = {"q4_0": "src-Q4_0", "q8_0": "src-Q8_0", "bf16": "src-BF16"}


@dataclass(frozen=True)
class Made:
    """The source, the folder of its GGUF files by rising size, and what eval measured of the smaller two."""

    source: Path
    out: Path
    record: Path

    @property
    def labels(self) -> list[str]:
        return list(RECIPES.values())
