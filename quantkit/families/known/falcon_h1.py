"""Falcon-H1: attention and a Mamba 2 side by side in every layer, everything scaled by numbers of config.json.

llama.cpp knows none of those numbers: they are multiplied into the weights, in float32, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import assumptions, folds, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.mamba import SSM_KEYS, inner_sizes, mamba2, mixer_of_file, unclamped
from quantkit.families.layers import flagged
from quantkit.families.layouts import rows
from quantkit.families.roles import Role
from quantkit.families.rows import EMBEDDING, FREQUENCIES, HEAD, NORMS, Drop, Family, T

MULTIPLIERS = (
    "embedding_multiplier", "lm_head_multiplier", "key_multiplier", "attention_in_multiplier",
    "attention_out_multiplier", "ssm_in_multiplier", "ssm_out_multiplier",
)  # fmt: skip
OF_MLP, OF_MIXER = ("of_gate", "of_down"), ("of_z", "of_x", "of_b", "of_c", "of_dt")
IN_ROWS = "ssm_inner+ssm_channels+ssm_heads"


def multipliers(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of the two lists by names of their own. Raises InputError for a list of another length."""
    found: dict[str, Any] = {}
    for key, names in (("mlp_multipliers", OF_MLP), ("ssm_multipliers", OF_MIXER)):
        said = hparams.values.get(key)
        if said is not None and (not isinstance(said, list) or len(said) != len(names)):
            what = f"config.json: {key} is {str(said)[:80]}, expected {len(names)} numbers"
            raise InputError(what, key=key, path="config.json", hint=CONFIG_HINT)
        found |= dict(zip(names, said or [1.0] * len(names), strict=True))
    return found


def head_size(hparams: Hparams) -> Mapping[str, Any]:
    """The width of the mixer's heads, which config.json may leave to be computed, and the rows of its states.

    Raises InputError for heads that do not make up the mixer.
    """
    expanded, heads = hparams.values.get("mamba_d_ssm") is None, hparams.count("ssm_heads")
    inner = hparams.size("mamba_expand*hidden_size" if expanded else "mamba_d_ssm")
    head = hparams.values.get("ssm_head_dim")
    head = inner // heads if head in (None, "auto") else hparams.count("ssm_head_dim")
    if heads * head != inner:
        what = f"config.json: {heads} heads of {head} are not mamba_d_ssm ({inner})"
        raise InputError(what, key="mamba_d_ssm", path="config.json", hint=CONFIG_HINT)
    return {"ssm_head_dim": head, "of_state": hparams.count("ssm_groups") * hparams.count("ssm_state")}


def gated_before(hparams: Hparams) -> str | None:
    """The mixer's norm, where it has one, comes after its gate."""
    both = hparams.flag("mamba_rms_norm") and hparams.values.get("mamba_norm_before_gate", True) is not False
    return "mamba_norm_before_gate is true, it gates first" if both else None


def own_head(hparams: Hparams) -> Mapping[str, Any]:
    """Whether a head that is the embeddings has to be written, because it is scaled by another number."""
    embedding, head = hparams.number("embedding_multiplier"), hparams.number("lm_head_multiplier")
    return {"own_head": hparams.flag("tie_word_embeddings") and embedding != head}


def mixer() -> tuple[T, ...]:
    """A Mamba 2 that may have no norm, with an input projection scaled in five ranges of rows."""
    edges = ("0", "ssm_inner", "2*ssm_inner", "2*ssm_inner+of_state", "ssm_inner+ssm_channels", IN_ROWS)
    shape = f"{IN_ROWS} hidden_size"
    ranges = tuple(
        T("mamba.in_proj.weight", "ssm_in.weight", Role.OTHER, shape, rows(start, end), total=shape, order=order,
          value=f"*ssm_in_multiplier *{name}")
        for order, (name, start, end) in enumerate(zip(OF_MIXER, edges, edges[1:], strict=False))
    )  # fmt: skip
    others = (t for t in mamba2("mamba", bias=None) if t.target != "ssm_in.weight")
    values = {"ssm_out.weight": "*ssm_out_multiplier"}
    return (
        *ranges,
        *(
            replace(t, value=values.get(t.target, t.value), where=flagged("mamba_rms_norm"))
            if t.target == "ssm_norm.weight"
            else replace(t, value=values.get(t.target, t.value))
            for t in others
        ),
    )


def of_file(hparams: Hparams) -> Mapping[str, Any]:
    """Everything is scaled already: all numbers are 1."""
    normed = any(name.endswith(".ssm_norm.weight") for name in hparams.values["file.tensors"])
    return {
        **mixer_of_file(hparams),
        **dict.fromkeys(MULTIPLIERS, 1.0),
        "mlp_multipliers": [1.0] * len(OF_MLP),
        "ssm_multipliers": [1.0] * len(OF_MIXER),
        "mamba_d_ssm": hparams.values.get("ssm_inner"),
        "mamba_rms_norm": normed,
        "mamba_norm_before_gate": not normed,
    }


QUERIES = "*attention_in_multiplier"
FALCON_H1 = Family(
    name="falcon_h1",
    gguf="falcon-h1",
    hf=("FalconH1ForCausalLM",),
    defaults={
        "falcon_h1": {
            "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": None, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "mamba_d_ssm": 1024,
            "mamba_expand": 2, "ssm_heads": 128, "ssm_head_dim": None, "ssm_groups": 1, "ssm_state": 256,
            "ssm_conv": 4, "mamba_rms_norm": False, **dict.fromkeys(MULTIPLIERS, 1.0),
        },
    },
    outside=(
        replace(EMBEDDING, value="*embedding_multiplier"),
        T("model.final_layernorm.weight", "output_norm.weight", Role.NORM, "hidden_size"),
        replace(HEAD, value="*lm_head_multiplier"),
        # llama.cpp would take the embeddings, and their scale
        T("model.embed_tokens.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size",
          value="*lm_head_multiplier", where=flagged("own_head")),
    ),
    block=(
        NORMS[0],
        T("pre_ff_layernorm.weight", "ffn_norm", Role.NORM, "hidden_size"),
        *mixer(),
        T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size", value=QUERIES),
        T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "kv_rows hidden_size",
          value=f"*key_multiplier {QUERIES}"),
        T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "kv_rows hidden_size", value=QUERIES),
        T("self_attn.o_proj.weight", "attn_output.weight", Role.ATTN_OUTPUT, "hidden_size q_rows",
          value="*attention_out_multiplier"),
        T("feed_forward.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size",
          value="*of_gate"),
        T("feed_forward.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("feed_forward.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size",
          value="*of_down"),
    ),
    keys=(*keys.SIZES, keys.RMS_EPSILON, keys.FREQUENCY_BASE, *keys.HEAD_LENGTHS, keys.VOCAB_SIZE, *SSM_KEYS),
    drop=(FREQUENCIES, Drop("*.mamba.mup_vector", "it is made from ssm_multipliers")),
    aliases={
        "mamba_n_heads": "ssm_heads", "mamba_d_head": "ssm_head_dim", "mamba_n_groups": "ssm_groups",
        "mamba_d_state": "ssm_state", "mamba_d_conv": "ssm_conv",
    },
    derive=(multipliers, head_size, inner_sizes, own_head),
    assumes=(assumptions.silu, gated_before, unclamped),
    graph=of_file,
    computes=frozenset({*MULTIPLIERS, "mlp_multipliers", "ssm_multipliers"}),
    folds=(
        folds.Fold("input_layernorm", ("mamba.in_proj", *folds.QKV), norm=True),
        folds.VALUES,
        folds.Fold("pre_ff_layernorm", ("feed_forward.gate_proj", "feed_forward.up_proj"), norm=True),
        folds.Fold("feed_forward.up_proj", ("feed_forward.down_proj",)),
    ),
)  # fmt: skip

FAMILIES = (FALCON_H1,)
