"""Helpers for the tests of calibration: models, windows of tokens, and walks that only look."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import family_table
import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from quantkit.calibration.statistics.sums import Statistics, merge
from quantkit.calibration.text.samples import Samples, samples_of
from quantkit.calibration.walk.model import BlockModel, open_model
from quantkit.calibration.walk.walk import PLAINLY, BlockView, How, walk_blocks
from quantkit.source import open_source

TINY = Path(__file__).parent / "data" / "docs-llama-tiny"


def windows(vocabulary: int, count: int = 3, seqlen: int = 150, seed: int = 1) -> Samples:
    """Random tokens."""
    shape = (count, seqlen)
    return samples_of(np.random.default_rng(seed).integers(0, vocabulary, shape).astype(np.int32))


SHARING = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
CARRYING = {
    "gemma4-e": SHARING,
    "gemma3n": {**SHARING, "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0]},
    "qwen-3.8": {},
    "hy-4": {},
    "deepseek-v4": {},
    "glm-5.3-flash": {
        "layer_types": ["linear_attention", *["indexed_attention"] * 2, "linear_attention"],
        "index_topk": 24,
        "indexer_types": ["full", "full", "shared", "full"],
    },
    "hrm-text": {"num_hidden_layers": 2, "L_cycles": 2, "L_bp_cycles": [2, 2]},
    "glm-5": {"index_topk": 24, "indexer_types": ["full", "shared", "full", "shared"]},
}


def carrying(name: str, folder: Path) -> Path:
    """A checkpoint of four blocks that hand on more than a hidden state."""
    entry = family_table.TABLE[name]
    nested, numbers = entry.config.get("text_config"), {"num_hidden_layers": 4, **CARRYING[name]}
    config = {**entry.config, **numbers} if nested is None else {**entry.config, "text_config": {**nested, **numbers}}
    published = entry.published if name in {"hy-4", "deepseek-v4"} else None  # whose names are saved otherwise
    return family_table.write(replace(entry, config=config, published=published), folder / name)


def whole_model(folder: Path) -> PreTrainedModel:
    """A checkpoint in float32, in the class that its config.json names."""
    [name] = json.loads((folder / "config.json").read_text())["architectures"]
    kind = getattr(transformers, name, transformers.AutoModelForCausalLM)
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def model_of(folder: Path, threads: int = 2) -> BlockModel:
    return open_model(open_source(str(folder)), threads=threads)


def statistics_of(model: BlockModel, samples: Samples, *, hessian: bool = True) -> Statistics:
    """Statistics of every linear, the head's included."""
    found: list[Statistics] = []

    def visit(index: int, block: BlockView) -> dict[str, torch.Tensor]:
        found.append(block.statistics(hessian=hessian, final=True))
        return {}

    walk_blocks(model, samples, visit)
    return merge(found)


def logits_after(
    model: BlockModel,
    samples: Samples,
    visit: Callable[[int, BlockView], dict[str, torch.Tensor]] = lambda i, b: {},
    how: How = PLAINLY,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (n, seqlen, vocabulary) of a walk with this visit, and the reference's where the walk keeps one."""
    candidates: list[torch.Tensor] = []
    references: list[torch.Tensor] = []

    def see(index: int, block: BlockView) -> dict[str, torch.Tensor]:
        replaced = visit(index, block)
        if block.is_head:
            block.replace(replaced)
            for piece in block.logits():
                candidates.append(piece.candidate)
                if piece.reference is not None:
                    references.append(piece.reference)
            return {}
        return replaced

    walk_blocks(model, samples, see, how=how)
    shape = (*samples.tokens.shape, -1)
    return joined(candidates, shape), joined(references, shape) if references else None


def joined(pieces: Sequence[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    return torch.cat(list(pieces)).reshape(shape)


def same_bits(a: Statistics, b: Statistics) -> bool:
    """Whether two statistics hold the same sums, bit for bit."""
    if a.sites != b.sites or a.linears != b.linears:
        return False
    pairs = [(a.total(name), b.total(name)) for name in a.sites]
    return all(
        x.tokens == y.tokens
        and torch.equal(x.squares, y.squares)
        and torch.equal(x.magnitudes, y.magnitudes)
        and torch.equal(x.peaks, y.peaks)
        and (x.gram is None) == (y.gram is None)
        and (x.gram is None or torch.equal(x.gram.full(), y.gram.full()))
        for x, y in pairs
    )
