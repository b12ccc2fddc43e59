"""A source model that GGUF files are made of, and what was found out about it for all of them."""

from __future__ import annotations

from quantkit.families.model import Model
from quantkit.quality.checks.tokenizer import Compared
from quantkit.source import Checkpoint


class Reference:
    """A source, what it becomes in a GGUF file, and what came of comparing tokenizers with its own."""

    def __init__(self, checkpoint: Checkpoint, model: Model) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self.compared = Compared(checkpoint)
