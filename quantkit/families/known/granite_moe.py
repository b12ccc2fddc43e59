"""Granite mixtures: experts in one stack, gate and up of each in one matrix; some share an expert for every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.families import folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.known.granite import GRANITE
from quantkit.families.layers import flagged
from quantkit.families.placements import first_half, gate_half, second_half, up_half
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, NORMS, T, at, rotated

FUSED, SHARED = "num_local_experts 2*intermediate_size hidden_size", "2*shared_intermediate_size hidden_size"

MIXTURE = (
    T("block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size"),
    T("block_sparse_moe.input_linear.weight", "ffn_gate_exps.weight", Role.FFN_GATE, FUSED, gate_half),
    T("block_sparse_moe.input_linear.weight", "ffn_up_exps.weight", Role.FFN_UP, FUSED, up_half),
    T("block_sparse_moe.output_linear.weight", "ffn_down_exps.weight", Role.FFN_DOWN,
      "num_local_experts hidden_size intermediate_size"),
)  # fmt: skip
SHARED_EXPERT = (
    T("shared_mlp.input_linear.weight", "ffn_gate_shexp.weight", Role.FFN_GATE, SHARED, first_half),
    T("shared_mlp.input_linear.weight", "ffn_up_shexp.weight", Role.FFN_UP, SHARED, second_half),
    T("shared_mlp.output_linear.weight", "ffn_down_shexp.weight", Role.FFN_DOWN,
      "hidden_size shared_intermediate_size"),
)  # fmt: skip


def named(hparams: Hparams) -> Mapping[str, Any]:
    """Which of the two architectures a file's model is."""
    if not hparams.number("shared_intermediate_size"):
        return {}
    return {"architectures": ["GraniteMoeSharedForCausalLM"], "model_type": "granitemoeshared"}


GRANITE_MOE = replace(
    GRANITE,
    name="granite_moe",
    gguf="granitemoe",
    hf=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    defaults={
        model_type: {**GRANITE.defaults["granite"], "num_local_experts": 8, "num_experts_per_tok": 2, **more}
        for model_type, more in (("granitemoe", {}), ("granitemoeshared", {"shared_intermediate_size": 0}))
    },
    derive=(lambda hparams: {"shares": bool(hparams.number("shared_intermediate_size"))},),
    graph=named,
    block=(
        *NORMS,
        *rotated(ATTENTION),
        *MIXTURE,
        *at(flagged("shares"), SHARED_EXPERT),
    ),
    keys=(
        *GRANITE.keys,
        keys.Key("expert_shared_feed_forward_length", "u32", "shared_intermediate_size", nonzero=True),
    ),
    folds=(folds.ATTENTION_IN, folds.VALUES),
)  # fmt: skip

FAMILIES = (GRANITE_MOE,)
