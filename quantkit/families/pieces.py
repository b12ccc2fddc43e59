"""Matrices that files keep in one tensor, and loaders in several modules or under another name."""

from __future__ import annotations

from collections.abc import Iterator

from quantkit.families.model import Rows
from quantkit.tensors import TensorInfo

# Family -> the end of a module's name in files -> those in memory, one below the other, each of as many rows
# (conversion_mapping.py of transformers 5.24).
PIECES = {
    "hrm_text": {
        "attn.gqkv_proj": ("self_attn.gate_proj", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.o_proj": ("self_attn.o_proj",),
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    },
}


def pieces_of(family: str, info: TensorInfo) -> Iterator[tuple[str, Rows]]:
    """The modules that a matrix of a family becomes, by their names, and its rows; itself where it stays whole."""
    module = info.name.removesuffix(".weight")
    for end, names in PIECES.get(family, {}).items():
        if module.endswith(f".{end}"):
            step = info.rows // len(names)
            for number, name in enumerate(names):
                yield module.removesuffix(end) + name, Rows(info.name, number * step, (number + 1) * step)
            return
    yield module, Rows(info.name, 0, info.rows)
