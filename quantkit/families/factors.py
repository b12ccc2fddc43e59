"""Where llama.cpp multiplies by the factor of a matrix, the tensor NAME.scale beside NAME.weight.

Codes of NVFP4 come with such a factor. The loader takes it for any architecture; but the graphs multiply by it only in
places, and where they do not, a file predicts something else without a word. llama.cpp's converter writes it all the
same. Found by running every architecture with factors of 2 against weights that are twice as large (xllamacpp
2026.10.11549); what is not known to multiply counts as not multiplying.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from quantkit.families.model import Model, ModelTensor
from quantkit.records import record
from quantkit.tensors import F32

WEIGHT, SCALE, INPUT_SCALE = ".weight", ".scale", ".input_scale"

ATTENTION = frozenset({"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"})
LINEAR = frozenset({"attn_gate", "ssm_alpha", "ssm_beta", "ssm_out"})  # attention without softmax
DENSE = frozenset({"ffn_gate", "ffn_up", "ffn_down"})
EXPERTS = frozenset({"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"})
SHARED = frozenset({"ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"})

# Of these the attention alone is multiplied.
ATTENTION_ALONE = (
    "arcee", "bailingmoe", "bailingmoe2", "bloom", "chatglm", "codeshell", "command-r", "dots1", "dream", "ernie4_5",
    "ernie4_5-moe", "exaone", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "glm4", "glm4moe", "gpt-oss", "gpt2",
    "gptneox", "granite", "granitemoe", "hunyuan-dense", "internlm2", "jais2", "lfm2", "lfm2moe", "llada-moe",
    "maincoder", "minicpm", "minimax-m2", "mpt", "nemotron", "olmo", "olmo2", "olmoe", "orion", "pangu-embedded",
    "phi2", "phi3", "phimoe", "qwen2", "qwen2moe", "refact", "seed_oss", "smallthinker", "smollm3", "stablelm",
    "starcoder", "starcoder2",
)  # fmt: skip

MULTIPLIED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(ATTENTION_ALONE, ATTENTION),
    "cohere2": ATTENTION | DENSE,
    "deepseek2": frozenset({"attn_output"}),
    "llama": ATTENTION | DENSE | EXPERTS,
    "mamba": frozenset({"ssm_in", "ssm_out"}),
    "mamba2": frozenset({"ssm_in", "ssm_out"}),
    "mellum": ATTENTION | EXPERTS,
    "mistral3": ATTENTION | DENSE,
    "qwen3": ATTENTION | DENSE,
    "qwen35": ATTENTION | LINEAR | DENSE,
    "qwen35moe": ATTENTION | LINEAR | EXPERTS | SHARED,
    "qwen3moe": ATTENTION | EXPERTS,
    "qwen3next": EXPERTS | SHARED,
}


@record
class Graph:
    """What llama.cpp computes with a model: the name of its architecture, and the blocks that predict further tokens,
    for whose factors the loader has no place."""

    architecture: str
    further: frozenset[int | None] = frozenset()

    def multiplies(self, tensor: ModelTensor) -> bool:
        """Whether what a tensor (blk.N.KIND.weight) gives is multiplied by its factor."""
        block, _, rest = tensor.name.partition(".")
        kind = rest.partition(".")[2].removesuffix(".weight")
        known = MULTIPLIED.get(self.architecture, frozenset())
        return block == "blk" and kind in known and tensor.layer not in self.further


def graph_of(model: Model) -> Graph:
    """The graph of a model that is described."""
    return Graph(model.gguf_architecture, frozenset(t.layer for t in model.tensors if ".nextn." in t.name))


def factor_of(name: str) -> str | None:
    """The name of a tensor's factors; None for what is no weight."""
    return name.removesuffix(WEIGHT) + SCALE if name.endswith(WEIGHT) else None


def of_rows(factors: F32, count: int, rows: NDArray[np.int64]) -> F32:
    """The factor of each of these rows, (rows, 1), of a tensor that has `count`: one for all, or one for each matrix of
    a stack."""
    factors = factors.reshape(-1)
    height = max(count // factors.size, 1)
    return factors[np.minimum(rows // height, factors.size - 1)][:, None]
