"""gpt-oss: experts with biases, gate and up in alternating columns, and a sink in every head's softmax."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import every, turn
from quantkit.families.roles import Role
from quantkit.families.rows import ALWAYS, ATTENTION, FREQUENCIES, OUTSIDE, Family, T, biased

EXPERTS = "mlp.experts"
GATE_UP, WIDE = "num_local_experts hidden_size 2*intermediate_size", "num_local_experts 2*intermediate_size"


def alternating_windows(hparams: Hparams) -> str | None:
    """Every second layer attends to a window, the first one among them."""
    kinds = hparams.values.get("layer_types")
    if not isinstance(kinds, list) or kinds == [("sliding", "full")[i % 2] + "_attention" for i in range(len(kinds))]:
        return None
    return "layer_types do not alternate, it takes every second layer for a window"


def clamped(hparams: Hparams) -> str | None:
    """The experts' activation has an alpha of 1.702 and a limit of 7."""
    for key, taken in (("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)):
        said = hparams.number(key)
        if said is not None and said != taken:
            return f"{key} is {said:g}, it takes {taken:g}"
    return None


def whole_bands(hparams: Hparams) -> str | None:
    """yarn begins and ends at whole dimensions. What OpenAI published does not; the difference is small."""
    settings = hparams.values.get("rope_scaling") or hparams.values.get("rope_parameters")
    if not isinstance(settings, Mapping) or settings.get("truncate") is not False:
        return None
    return "truncate of yarn is false, it rounds to whole dimensions (a small difference)"


GPT_OSS = Family(
    name="gpt_oss",
    gguf="gpt-oss",
    hf=("GptOssForCausalLM",),
    defaults={
        "gpt_oss": {
            "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "tie_word_embeddings": False, "sliding_window": 128,
            "num_local_experts": 128, "num_experts_per_tok": 4,
        },
    },
    outside=OUTSIDE,
    block=(
        T("input_layernorm.weight", "attn_norm.weight", Role.NORM, "hidden_size"),
        T("post_attention_layernorm.weight", "post_attention_norm.weight", Role.NORM, "hidden_size"),
        *biased(ATTENTION, output=ALWAYS),
        T("self_attn.sinks", "attn_sinks.weight", Role.OTHER, "num_attention_heads"),
        T("mlp.router.weight", "ffn_gate_inp.weight", Role.ROUTER, "num_local_experts hidden_size", bias=ALWAYS),
        T(f"{EXPERTS}.gate_up_proj", "ffn_gate_exps.weight", Role.FFN_GATE, GATE_UP, turn >> every(0, 2)),
        T(f"{EXPERTS}.gate_up_proj", "ffn_up_exps.weight", Role.FFN_UP, GATE_UP, turn >> every(1, 2)),
        T(f"{EXPERTS}.gate_up_proj_bias", "ffn_gate_exps.bias", Role.BIAS, WIDE, turn >> every(0, 2) >> turn),
        T(f"{EXPERTS}.gate_up_proj_bias", "ffn_up_exps.bias", Role.BIAS, WIDE, turn >> every(1, 2) >> turn),
        T(
            f"{EXPERTS}.down_proj",
            "ffn_down_exps.weight",
            Role.FFN_DOWN,
            "num_local_experts intermediate_size hidden_size",
            turn,
        ),
        T(f"{EXPERTS}.down_proj_bias", "ffn_down_exps.bias", Role.BIAS, "num_local_experts hidden_size"),
    ),
    keys=(
        *keys.COMMON,
        keys.SLIDING_WINDOW,
        keys.Key("expert_feed_forward_length", "u32", "intermediate_size"),
    ),
    drop=(FREQUENCIES,),
    assumes=(assumptions.yarn_temperature, alternating_windows, clamped, whole_bands),
    folds=(folds.ATTENTION_IN, folds.VALUES),  # loaders take no rounded experts, and these get no other scales then
)  # fmt: skip

FAMILIES = (GPT_OSS,)
