"""Running on from what ran before: the key/value cache of some sequences, and the tokens that come next.

The cache is transformers' own, so that sliding windows, recurrent states and whatever else a block keeps between
calls are what its code makes them.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantkit.calibration.walk.model import (
    CACHE_ARGUMENTS,
    BlockModel,
    largest_of_layers,
    load_start,
    read_embedding,
    read_further,
)
from quantkit.calibration.walk.skeleton import Arguments, Tokens, cache_class, decoder_of, run_on_to_blocks


def new_cache(model: BlockModel) -> Any:
    """An empty cache for sequences of one length."""
    kind, config = cache_class(model.skeleton.blocks[0]), model.skeleton.model.config
    return kind(config=config) if "config" in inspect.signature(kind).parameters else kind()


def cache_token_bytes(model: BlockModel) -> int:
    """About how much memory the cache takes for one token of one sequence, float32; never less where attention keeps
    keys and values for all heads that it has of them."""
    config = model.skeleton.model.config
    heads = largest_of_layers(config, "num_key_value_heads") or largest_of_layers(config, "num_attention_heads")
    wider = int(getattr(config, "qk_nope_head_dim", None) or 0) + int(getattr(config, "qk_rope_head_dim", None) or 0)
    return 4 * len(model.steps) * heads * 2 * max(model.head_size, wider)


def run_on(model: BlockModel, tokens: Tokens, cache: Any) -> tuple[Tensor, tuple[Arguments, ...]]:
    """Tokens behind those that a cache has seen, up to the first block: its input (n, tokens, hidden), and what every
    block is called with, the cache included. The blocks have to be run with them before the next call.

    The tables have to be in memory as `Table` has them when it gives the tokens.
    """
    argument = _cache_argument(decoder_of(model.skeleton.model))
    return run_on_to_blocks(model.skeleton, tokens, **{argument: cache})


def _cache_argument(decoder: nn.Module) -> str:
    known = inspect.signature(type(decoder).forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in known), CACHE_ARGUMENTS[-1])


class Table:
    """Rows of the tables of tokens, read when a token first needs them and kept from then on."""

    def __init__(self, model: BlockModel) -> None:
        self._model = model
        self._places: dict[int, int] = {}
        self._tables = model.skeleton.tables
        self._rows: list[list[Tensor]] = [[] for _ in self._tables]
        self._empty = [table.weight for table in self._tables]
        load_start(model)

    def hold(self, tokens: set[int]) -> None:
        """Have the rows of these tokens in the model. Raises InputError for a token without a row."""
        new = sorted(tokens - self._places.keys())
        if not new:
            return
        for table, empty in zip(self._tables, self._empty, strict=True):
            table.weight = empty  # by its shape the table is found
        wanted = np.array(new, np.int64)
        found = read_embedding(self._model, wanted), *read_further(self._model, wanted)
        for table, rows, values in zip(self._tables, self._rows, found, strict=True):
            rows.append(values)
            table.weight = nn.Parameter(torch.cat(rows).to(self._model.device), requires_grad=False)
        self._places.update({token: len(self._places) + at for at, token in enumerate(new)})

    def tokens(self, ids: list[list[int]]) -> Tokens:
        """These tokens, whose rows are held."""
        return Tokens(torch.tensor(ids), torch.tensor([[self._places[token] for token in row] for row in ids]))
