"""What blocks hand on for a token besides one hidden state, all of it in one row of the activations.

    | hidden states, one or several | a vector for each block | keys and values for later blocks  | chosen tokens |
    | streams * hidden              | blocks * vector         | 2 * width for each kind of layers | chosen        |

The small models from Gemma 3n on have vectors, keys and values, GLM-5 has the places of the tokens that a block has
chosen to attend to, for the blocks behind it that choose none. Whatever is in the row goes through a walk like a hidden
state: it is saved and put back with it, and gradients come back through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

VECTOR, SHARED, CHOSEN = "per_layer_input", "shared_kv_states", "prev_topk_indices"  # what blocks call them
STORES = "store_full_length_kv"  # of attention whose keys and values later blocks may read

Shared = dict[str, tuple[Tensor, Tensor]]  # keys and values (batch, heads, tokens, head) by the kind of layers


@dataclass(frozen=True)
class Carried:
    """How a row is cut: hidden states of `hidden` channels each, `blocks` vectors of `vector` numbers, and by the kind
    of layers (heads, channels of a head) of shared keys and values. The last `chosen` numbers are places of tokens,
    some of them twice where there are fewer."""

    streams: int
    hidden: int
    blocks: int = 0
    vector: int = 0
    shared: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    chosen: int = 0

    @property
    def width(self) -> int:
        """Numbers of the hidden states, which come first."""
        return self.streams * self.hidden

    def alone(self) -> Carried:
        """Without what a model itself keeps from block to block."""
        return Carried(self.streams, self.hidden, chosen=self.chosen)

    def pack(self, hidden: Tensor, vectors: Sequence[Tensor] = ()) -> Tensor:
        """The rows (batch, tokens, numbers) before the first block: nothing is shared yet. `hidden` is as the model has
        it: (batch, tokens, hidden), or (streams, batch, tokens, hidden); `vectors` are (batch, tokens, vector)."""
        flat = self._flat(hidden)
        later = sum(2 * heads * head for heads, head in self.shared.values()) + self.chosen
        return torch.cat([flat, *vectors, flat.new_zeros((*flat.shape[:-1], later))], -1)

    def hidden_of(self, rows: Tensor) -> Tensor:
        """The hidden states as the model has them; rows may end behind them."""
        flat = rows[..., : self.width]
        if self.streams == 1:
            return flat
        return flat.reshape(*flat.shape[:-1], self.streams, self.hidden).movedim(-2, 0)

    def through(self, index: int, block: Callable[..., Any], rows: Tensor) -> Tensor:
        """The rows behind block `index`, a function of what the model has and of keywords."""
        start = self.width + index * self.vector
        more: dict[str, Any] = {VECTOR: rows[..., start : start + self.vector]} if self.vector else {}
        shared = self._shared(rows)
        if shared:
            more[SHARED] = shared
        if self.chosen:
            more[CHOSEN] = rows[..., -self.chosen :].int()
        given = block(self.hidden_of(rows), **more)
        flat = self._flat(given[0] if isinstance(given, tuple) else given)
        later = [one.transpose(1, 2).flatten(-2) for kind in self.shared for one in shared[kind]]
        if self.chosen:
            places = given[1].to(flat)
            later += [places, places[..., :1].expand(*places.shape[:-1], self.chosen - places.shape[-1])]
        return torch.cat([flat, rows[..., self.width : self.width + self.blocks * self.vector], *later], -1)

    def _flat(self, hidden: Tensor) -> Tensor:
        return hidden if self.streams == 1 else hidden.movedim(0, -2).flatten(-2)

    def _shared(self, rows: Tensor) -> Shared:
        found: Shared = {}
        start = self.width + self.blocks * self.vector
        for kind, (heads, head) in self.shared.items():
            stop = start + 2 * heads * head
            both = rows[..., start:stop].reshape(*rows.shape[:-1], 2, heads, head).transpose(1, 3)
            found[kind] = both[:, :, 0], both[:, :, 1]
            start = stop
        return found


def carried_by(config: Any, blocks: Sequence[Any]) -> Carried | None:
    """What these blocks hand on; None where it is a hidden state alone."""
    streams = int(getattr(config, "altup_num_inputs", 1))
    vector = int(getattr(config, "hidden_size_per_layer_input", None) or 0)
    attentions: list[Any] = [getattr(block, "self_attn", None) for block in blocks]
    reading = {one.layer_type for one in attentions if getattr(one, "is_kv_shared_layer", False)}
    storing = [one for one in attentions if getattr(one, STORES, False) and one.layer_type in reading]
    shared = {one.layer_type: (one.k_proj.out_features // one.head_dim, one.head_dim) for one in storing}
    chosen = config.index_topk if any(getattr(one, "skip_topk", False) for one in attentions) else 0
    if streams == 1 and not vector and not shared and not chosen:
        return None
    return Carried(streams, config.hidden_size, len(blocks), vector, shared, chosen)
