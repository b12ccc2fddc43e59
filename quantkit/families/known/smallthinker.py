"""SmallThinker: a mixture whose router reads what attention reads, with ReLU in its experts."""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.placements import expert
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, FREQUENCIES, NORMS, OUTSIDE, OWN_CODE, Family, T
from quantkit.metadata import KeyValue

WIDTH = "moe_ffn_hidden_size"
ONE, INNER, OUTER = "block_sparse_moe.experts.{}.", f"{WIDTH} hidden_size", f"hidden_size {WIDTH}"


def scores(hparams: Hparams) -> int:
    """llama.cpp's number of how scores become weights: softmax 1, sigmoid 2."""
    return 1 if hparams.flag("moe_primary_router_apply_softmax") else 2


def window(hparams: Hparams) -> Iterable[KeyValue]:
    """The window, where any layer attends to one."""
    layout = hparams.values.get("sliding_window_layout")
    if isinstance(layout, list) and any(layout):
        yield from keys.number(keys.Key("attention.sliding_window", "u32", "sliding_window_size"), hparams)


SMALLTHINKER = Family(
    name="smallthinker",
    gguf="smallthinker",
    hf=("SmallThinkerForCausalLM",),
    defaults={
        "smallthinker": {
            "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 32, "num_attention_heads": 12,
            "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
            "rope_theta": 1e6, "tie_word_embeddings": True, "moe_ffn_hidden_size": 768,
        },
    },
    aliases={"moe_num_primary_experts": "num_local_experts", "moe_num_active_primary_experts": "num_experts_per_tok"},
    outside=OUTSIDE,
    block=(
        *NORMS,
        *ATTENTION,
        T("block_sparse_moe.primary_router.weight", "ffn_gate_inp.weight", Role.ROUTER,
          "num_local_experts hidden_size"),
        T(f"{ONE}gate.weight", "ffn_gate_exps.weight", Role.FFN_GATE, INNER, expert),
        T(f"{ONE}up.weight", "ffn_up_exps.weight", Role.FFN_UP, INNER, expert),
        T(f"{ONE}down.weight", "ffn_down_exps.weight", Role.FFN_DOWN, OUTER, expert),
    ),
    keys=(
        *keys.without(keys.COMMON, "feed_forward_length"),
        keys.Key("feed_forward_length", "u32", WIDTH),
        keys.Key("expert_feed_forward_length", "u32", WIDTH),
        keys.computed("expert_gating_func", "u32", scores),
        window,
    ),
    drop=(FREQUENCIES,),
    unserved=OWN_CODE,
)  # fmt: skip

FAMILIES = (SMALLTHINKER,)
