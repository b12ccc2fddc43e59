"""The table: what each consumer refuses or warns of, why, what to choose instead, and where that was looked up.

"run" says that the consumer was given such a file, "read" that its source or a decision of its maintainers was read.
Reasons and alternatives may name {rows}, {cols}, {bits}, {group} of the layer, {heads}, {kv_heads}, {files}, {tp}, and
{lower}, the greatest number of devices below {tp} that the rule has nothing against.
"""

from __future__ import annotations

from quantkit.consumers.refusals_llama_cpp import RULES_OF_LLAMA_CPP
from quantkit.consumers.refusals_mlx import RULES_OF_LM_STUDIO, RULES_OF_MLX
from quantkit.consumers.refusals_ollama import RULES_OF_OLLAMA
from quantkit.consumers.refusals_tensorrt import RULES_OF_TENSORRT
from quantkit.consumers.refusals_transformers import RULES_OF_TRANSFORMERS
from quantkit.consumers.refusals_vllm import RULES_OF_SGLANG, RULES_OF_VLLM
from quantkit.consumers.row import CHECKED, Rule

__all__ = ["CHECKED", "RULES", "Rule"]

RULES: tuple[Rule, ...] = (
    *RULES_OF_TRANSFORMERS,
    *RULES_OF_VLLM,
    *RULES_OF_SGLANG,
    *RULES_OF_LLAMA_CPP,
    *RULES_OF_OLLAMA,
    *RULES_OF_LM_STUDIO,
    *RULES_OF_TENSORRT,
    *RULES_OF_MLX,
)
