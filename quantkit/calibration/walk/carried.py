"""What blocks hand on for a token besides one hidden state, all of it in one row of the activations.

    | hidden states, one or more | a vector for each block | its id | keys and values for later blocks | chosen tokens |
    | streams * hidden           | blocks * vector         | 0 or 1 | 2 * width for each kind of them  | chosen        |

The small models from Gemma 3n on have vectors, keys and values, DeepSeek V4 and Qwen 3.8 blocks that look something up
by the token's id, GLM-5 and Hy4 the places of the tokens that a block has chosen to attend to, for the blocks behind it
that choose none. Whatever is in the row goes through a walk like a hidden state: it is saved and put back with it, and
gradients come back through it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from quantkit.calibration.walk.handing import all_of
from quantkit.records import record

VECTOR, SHARED, CHOSEN = "per_layer_input", "shared_kv_states", "prev_topk_indices"  # what blocks call them
TOKENS = ("ple_input_ids", "input_ids")  # the same of ids
STORES = "store_full_length_kv"  # of attention whose keys and values later blocks may read

Shared = dict[str, tuple[Tensor, Tensor]]  # keys and values (batch, heads, tokens, head) by the kind of layers


@record
class Carried:
    """How a row is cut: hidden states of `hidden` channels each, `blocks` vectors of `vector` numbers, and by the kind
    of layers (heads, channels of a head) of shared keys and values. The last `chosen` numbers are places of tokens,
    some of them twice where there are fewer. `token` is the keyword of blocks that look something up by ids, None
    where no block does; `axis` is where the model has its streams: 0 before samples, -2 behind tokens."""

    streams: int
    hidden: int
    blocks: int = 0
    vector: int = 0
    shared: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    chosen: int = 0
    token: str | None = None
    axis: int = 0

    @property
    def width(self) -> int:
        """Numbers of the hidden states, which come first."""
        return self.streams * self.hidden

    def alone(self) -> Carried:
        """Without what a model itself keeps from block to block."""
        return Carried(self.streams, self.hidden, chosen=self.chosen, token=self.token, axis=self.axis)

    def pack(self, hidden: Tensor, tokens: Tensor, vectors: Sequence[Tensor] = ()) -> Tensor:
        """The rows (batch, tokens, numbers) before the first block: nothing is shared yet. `hidden` is as the model has
        it: (batch, tokens, hidden), or with streams at `axis`; `tokens` are ids (batch, tokens), `vectors` (batch,
        tokens, vector)."""
        flat = self._flat(hidden)
        ids = [tokens.to(flat).unsqueeze(-1)] if self.token else []  # below 2^24: exact in float32
        later = sum(2 * heads * head for heads, head in self.shared.values()) + self.chosen
        return torch.cat([flat, *vectors, *ids, flat.new_zeros((*flat.shape[:-1], later))], -1)

    def hidden_of(self, rows: Tensor) -> Tensor:
        """The hidden states as the model has them; rows may end behind them."""
        flat = rows[..., : self.width]
        if self.streams == 1:
            return flat
        return flat.reshape(*flat.shape[:-1], self.streams, self.hidden).movedim(-2, self.axis)

    def through(self, index: int, block: Callable[..., Any], rows: Tensor) -> Tensor:
        """The rows behind block `index`, a function of what the model has and of keywords."""
        start = self.width + index * self.vector
        more: dict[str, Any] = {VECTOR: rows[..., start : start + self.vector]} if self.vector else {}
        if self.token:
            more[self.token] = rows[..., self._kept - 1].long()
        shared = self._shared(rows)
        if shared:
            more[SHARED] = shared
        if self.chosen:
            more[CHOSEN] = rows[..., -self.chosen :].int()
        given = block(self.hidden_of(rows), **more)
        flat = self._flat(given[0] if isinstance(given, tuple) else given)
        later = [one.transpose(1, 2).flatten(-2) for kind in self.shared for one in shared[kind]]
        if self.chosen and given[1] is None:  # the next block chooses for itself
            later.append(flat.new_zeros((*flat.shape[:-1], self.chosen)))
        elif self.chosen:
            places = given[1].to(flat)
            later += [places, places[..., :1].expand(*places.shape[:-1], self.chosen - places.shape[-1])]
        return torch.cat([flat, rows[..., self.width : self._kept], *later], -1)

    def anew(self, index: int, seqlen: int) -> slice:
        """Every token."""
        return all_of(seqlen)

    @property
    def _kept(self) -> int:
        """Where what stays the same from block to block ends."""
        return self.width + self.blocks * self.vector + (self.token is not None)

    def _flat(self, hidden: Tensor) -> Tensor:
        return hidden if self.streams == 1 else hidden.movedim(self.axis, -2).flatten(-2)

    def _shared(self, rows: Tensor) -> Shared:
        found: Shared = {}
        start = self._kept
        for kind, (heads, head) in self.shared.items():
            stop = start + 2 * heads * head
            both = rows[..., start:stop].reshape(*rows.shape[:-1], 2, heads, head).transpose(1, 3)
            found[kind] = both[:, :, 0], both[:, :, 1]
            start = stop
        return found


def carried_by(config: Any, blocks: Sequence[Any]) -> Carried | None:
    """What these blocks hand on; None where it is a hidden state alone."""
    vector = int(getattr(config, "hidden_size_per_layer_input", None) or 0)
    attentions: list[Any] = [getattr(block, "self_attn", None) for block in blocks]
    reading = {one.layer_type for one in attentions if getattr(one, "is_kv_shared_layer", False)}
    storing = [one for one in attentions if getattr(one, STORES, False) and one.layer_type in reading]
    shared = {one.layer_type: (one.k_proj.out_features // one.head_dim, one.head_dim) for one in storing}
    chosen = _chosen(config) if any(getattr(one, "skip_topk", False) for one in attentions) else 0
    token = next((_keyword(block) for block in blocks if _looks_up(block)), None)
    streams, hidden, axis = _streams(config)
    if streams == 1 and not (vector or shared or chosen or token):
        return None
    return Carried(streams, hidden, len(blocks), vector, shared, chosen, token, axis)


def _streams(config: Any) -> tuple[int, int, int]:
    """How many streams there are, their channels, and where the model has them; those of Qwen 3.8 are one state."""
    if hasattr(config, "hc_mult"):
        return config.hc_mult, config.hidden_size, -2
    return getattr(config, "altup_num_inputs", 1), config.hidden_size * getattr(config, "hc_count", 1), 0


def _chosen(config: Any) -> int:
    """How many tokens are chosen at most; with pools, those of the last one that is not full come on top."""
    tail = getattr(config, "index_kpool_always_select_tail", False)
    return int(config.index_topk + (config.index_kpool - 1 if tail else 0))


def _looks_up(block: Any) -> bool:
    """Whether a block has a table of n-grams, or one of experts, that it reads by ids."""
    return getattr(block, "ple", None) is not None or getattr(getattr(block, "mlp", None), "is_hash", False)


def _keyword(block: Any) -> str:
    """What a block that looks something up calls the ids."""
    known = inspect.signature(type(block).forward).parameters
    return next(name for name in TOKENS if name in known)
