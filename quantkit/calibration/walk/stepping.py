"""Running on from what ran before: the key/value cache of some sequences, and the tokens that come next.

The cache is transformers' own, so that sliding windows, recurrent states and whatever else a block keeps between
calls are what its code makes them.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantkit.calibration.walk.model import CACHE_ARGUMENTS, BlockModel, largest_of_layers, read_embedding
from quantkit.calibration.walk.skeleton import Arguments, Reached, decoder_of


def new_cache(model: BlockModel) -> Any:
    """An empty cache for sequences of one length."""
    from transformers import DynamicCache

    return DynamicCache(config=model.skeleton.model.config)


def cache_token_bytes(model: BlockModel) -> int:
    """About how much memory the cache takes for one token of one sequence, float32; never less where attention keeps
    keys and values for all heads that it has of them."""
    config = model.skeleton.model.config
    heads = largest_of_layers(config, "num_key_value_heads") or largest_of_layers(config, "num_attention_heads")
    wider = int(getattr(config, "qk_nope_head_dim", None) or 0) + int(getattr(config, "qk_rope_head_dim", None) or 0)
    return 4 * model.count * heads * 2 * max(model.head_size, wider)


def run_on(model: BlockModel, rows: Tensor, cache: Any) -> tuple[Tensor, tuple[Arguments, ...]]:
    """Tokens behind those that a cache has seen, up to the first block: its input (n, tokens, hidden), and what every
    block is called with, the cache included. The blocks have to be run with them before the next call.

    `rows` int64 (n, tokens) are rows of the embedding's weight as it is at the moment, which has to be in memory.
    """
    calls = model.skeleton.calls
    calls.arguments, calls.inject, calls.hidden = {}, None, None
    decoder = decoder_of(model.skeleton.model)
    with suppress(Reached):
        decoder(input_ids=rows, use_cache=True, **{_cache_argument(decoder): cache})
    found = tuple(Arguments(*calls.arguments[index]) for index in range(model.count))
    hidden: Tensor = calls.hidden
    calls.arguments, calls.hidden = {}, None
    return hidden, found


def _cache_argument(decoder: nn.Module) -> str:
    known = inspect.signature(type(decoder).forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in known), CACHE_ARGUMENTS[-1])


class Table:
    """Rows of an embedding, read when a token first needs one and kept from then on."""

    def __init__(self, model: BlockModel) -> None:
        self._model = model
        self._places: dict[int, int] = {}
        self._rows: list[Tensor] = []
        self._empty = model.skeleton.model.get_input_embeddings().weight

    def hold(self, tokens: set[int]) -> None:
        """Have the rows of these tokens in the model. Raises InputError for a token without a row."""
        new = sorted(tokens - self._places.keys())
        if not new:
            return
        embedding = self._model.skeleton.model.get_input_embeddings()
        embedding.weight = self._empty  # by its shape the table is found
        self._rows.append(read_embedding(self._model, np.array(new, np.int64)))
        self._places.update({token: len(self._places) + at for at, token in enumerate(new)})
        embedding.weight = nn.Parameter(torch.cat(self._rows).to(self._model.device), requires_grad=False)

    def rows(self, tokens: list[list[int]]) -> Tensor:
        """Where these tokens' rows are: int64 of the same shape."""
        return torch.tensor([[self._places[token] for token in row] for row in tokens])
