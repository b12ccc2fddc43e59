"""An encoder and the decoder that reads it, one window of text through both: half of its tokens through each.

    | source: what the encoder makes of it | target: what the decoder makes of it |
    | seqlen // 2 tokens                   | the others                           |

A block of the encoder runs on the source and hands the target on as its embeddings are; the last one is followed by the
encoder's norm. A block of the decoder runs on the target, reads the source, and hands it on. So a walk has one sequence
of blocks, and activations are as large as those of any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantkit.calibration.text.samples import source_length
from quantkit.records import record

READS = "encoder_hidden_states"  # what blocks of a decoder call the source
SHARING = frozenset({"T5Block", "MT5Block"})  # blocks that take the distances of the first one of their stack


@record
class Paired:
    """What blocks hand on: hidden states of `width` channels. The first `encoding` blocks are the encoder's, `norm` is
    what follows them."""

    encoding: int
    norm: nn.Module
    width: int
    vector: int = 0

    @property
    def begins(self) -> tuple[int, ...]:
        """The blocks before which embeddings are seen: the first of each stack."""
        return 0, self.encoding

    def alone(self) -> Paired:
        """The same: the model keeps nothing of it itself."""
        return self

    def pack(self, hidden: Tensor, tokens: Tensor, vectors: Sequence[Tensor] = ()) -> Tensor:
        """The rows before the first block: embeddings of source and target (batch, tokens, width)."""
        return hidden

    def hidden_of(self, rows: Tensor) -> Tensor:
        """The hidden states as the model has them."""
        return rows

    def through(self, index: int, block: Callable[..., Any], rows: Tensor) -> Tensor:
        """The rows behind block `index`, a function of what it makes and of keywords."""
        at = source_length(rows.shape[1])
        source, target = rows[:, :at].contiguous(), rows[:, at:].contiguous()  # what reads one of them is one site
        if index >= self.encoding:
            return torch.cat([source, _first(block(target, **{READS: source}))], 1)
        made = _first(block(source))
        return torch.cat([self.norm(made) if index == self.encoding - 1 else made, target], 1)

    def anew(self, index: int, seqlen: int) -> slice:
        """The source in the encoder, the target in the decoder."""
        at = source_length(seqlen)
        return slice(0, at) if index < self.encoding else slice(at, seqlen)


def is_paired(model: Any) -> bool:
    """Whether a class has an encoder and a decoder."""
    return hasattr(model, "encoder") and hasattr(model, "decoder")


def paired(model: Any) -> Paired:
    """What the blocks of a class with an encoder and a decoder hand on."""
    return Paired(len(model.encoder.block), model.encoder.final_layer_norm, model.config.hidden_size)


def ask(model: Any, rows: Tensor, **settings: Any) -> None:
    """Run windows of tokens (batch, seqlen) through such a class."""
    at = source_length(rows.shape[1])
    model(input_ids=rows[:, :at], decoder_input_ids=rows[:, at:], **settings)


def predicted(model: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """The logits of a class whose last block gives `hidden` (batch, tokens, width) for these ids."""
    logits: Tensor = model(encoder_outputs=(hidden,), decoder_input_ids=ids, use_cache=False).logits
    return logits


def with_distances(record: Callable[..., Tensor], attention: Any) -> Callable[..., tuple[Tensor, Tensor, None]]:
    """What stands for a block that hands on the distances of the first one of its stack, whose `attention` has them in
    a table."""
    return partial(_recorded, record, attention)


def _recorded(
    record: Callable[..., Tensor], attention: Any, hidden: Tensor, mask: Any, distances: Tensor | None, *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor, None]:  # fmt: skip
    given, count = record(hidden, mask, distances, *args, **kwargs), hidden.shape[1]
    if distances is None:
        distances = attention.compute_bias(count, count, device=hidden.device)
    return given, distances, None


def _first(given: Any) -> Tensor:
    found: Tensor = given[0] if isinstance(given, tuple) else given
    return found
