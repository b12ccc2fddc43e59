"""Where llama.cpp multiplies by the factor of a matrix, the tensor NAME.scale beside NAME.weight.

Codes of NVFP4 come with such a factor. The loader takes it for any architecture; but the graphs multiply by it only in
places, and where they do not, a file predicts something else without a word. llama.cpp's converter writes it all the
same. Found by running every architecture with factors of 2 against weights that are twice as large (xllamacpp
2026.10.11549); what is not known to multiply counts as not multiplying.
"""

from __future__ import annotations

from collections.abc import Mapping

ATTENTION = frozenset({"attn_q", "attn_k", "attn_v", "attn_output"})
DENSE = frozenset({"ffn_gate", "ffn_up", "ffn_down"})
EXPERTS = frozenset({"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"})

MULTIPLIED: Mapping[str, frozenset[str]] = {
    "llama": ATTENTION | DENSE | EXPERTS,
    "qwen2": ATTENTION,
    "qwen2moe": ATTENTION,
    "qwen3": ATTENTION | DENSE,
    "qwen3moe": ATTENTION | EXPERTS,
}


def multiplies(architecture: str, tensor: str) -> bool:
    """Whether the graph of an architecture multiplies what a tensor (blk.N.KIND.weight) gives by its factor."""
    block, _, rest = tensor.partition(".")
    kind = rest.partition(".")[2].removesuffix(".weight") if block == "blk" else tensor.removesuffix(".weight")
    return kind in MULTIPLIED.get(architecture, frozenset())
