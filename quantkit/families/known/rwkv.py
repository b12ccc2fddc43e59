"""RWKV 6 and 7: no attention at all. Every layer mixes a token with the one before it, and keeps a state of fixed size.

Names of RWKV 6 are those of its first checkpoints for Hugging Face, of RWKV 7 those of flash-linear-attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.mamba import ENDLESS, NO_ATTENTION
from quantkit.families.layers import before, from_
from quantkit.families.layouts import line, squeeze, turn
from quantkit.families.roles import Role
from quantkit.families.rows import OWN_CODE, Drop, Family, T, TokenizerRules, at, with_biases
from quantkit.families.spellings import Rename

# narrow matrices by the name of their width, and what that is where config.json does not say it
RANKS = {
    "decay_low_rank_dim": (0.5, 1.8), "a_low_rank_dim": (0.5, 1.8), "v_low_rank_dim": (0.5, 1.3),
    "gate_low_rank_dim": (0.8, 0.6),
}  # fmt: skip
MIXED = ("r", "w", "k", "v", "a", "g")  # what a token and the one before it are mixed for, in llama.cpp's order
HIDDEN, SQUARE = "hidden_size", "hidden_size hidden_size"


def sizes(hparams: Hparams) -> Mapping[str, Any]:
    """The widths that config.json may leave to be computed. Raises UnsupportedError for layers of attention."""
    if hparams.values.get("attn") is not None:
        what = "some layers are of attention, which llama.cpp has no place for in RWKV 7"
        raise UnsupportedError(what, key="attn", hint="run it with flash-linear-attention")
    hidden = hparams.count(HIDDEN)
    ranks = {
        name: hparams.count(name)
        if hparams.values.get(name) is not None
        else max(1, round(float(hidden) ** power * factor / 32)) * 32
        for name, (power, factor) in RANKS.items()
    }
    inner = hparams.values.get("intermediate_size")
    ratio = hparams.number("hidden_ratio") or 4.0
    return {
        **ranks, "endless": ENDLESS, "max_position_embeddings": ENDLESS, "zero": 0, "one": 1,
        "intermediate_size": int(hidden * ratio) if inner is None else inner,
        "rwkv_heads": hidden // hparams.count("head_dim"),
    }  # fmt: skip


def lora(source: str, target: str, rank: str, *, bias: bool = True) -> tuple[T, ...]:
    """Two narrow matrices one after the other, and what is added to their product."""
    found = (
        T(f"attn.{source}_lora.lora.0.weight", f"time_mix_{target}1.weight", Role.OTHER, f"{rank} {HIDDEN}"),
        T(f"attn.{source}_lora.lora.2.weight", f"time_mix_{target}2.weight", Role.OTHER, f"{HIDDEN} {rank}"),
    )
    if not bias:
        return found
    return (*found, T(f"attn.{source}_lora.lora.2.bias", f"time_mix_{target}0.weight", Role.OTHER, HIDDEN))


def normalized(hparams: Hparams) -> str | None:
    """Embeddings are normalized before the first layer, and norms have a bias."""
    odd = [key for key in ("norm_bias", "norm_first") if hparams.values.get(key, True) is not True]
    return f"{odd[0]} is {str(hparams.values[odd[0]])[:20]}, it takes true" if odd else None


RWKV7 = Family(
    name="rwkv7",
    gguf="rwkv7",
    hf=("RWKV7ForCausalLM", "Rwkv7ForCausalLM"),
    defaults={
        "rwkv7": {
            **NO_ATTENTION, "vocab_size": 65536, HIDDEN: 2048, "num_hidden_layers": 24, "head_dim": 64,
            "norm_eps": 1e-5, "intermediate_size": None,
        },
    },
    outside=(
        T("model.embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        *with_biases((
            T("model.layers.0.pre_norm.weight", "token_embd_norm.weight", Role.NORM, HIDDEN),
            T("model.norm.weight", "output_norm.weight", Role.NORM, HIDDEN),
        )),
        T("lm_head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size"),
    ),
    block=(
        *with_biases((
            T("attn_norm.weight", "attn_norm.weight", Role.NORM, HIDDEN),
            T("ffn_norm.weight", "attn_norm_2.weight", Role.NORM, HIDDEN),
            T("attn.g_norm.weight", "time_mix_ln.weight", Role.OTHER, HIDDEN),
        )),
        *(T(f"attn.x_{what}", "time_mix_lerp_fused.weight", Role.OTHER, f"1 1 {HIDDEN}", total=f"6 1 1 {HIDDEN}",
            order=order) for order, what in enumerate(MIXED)),
        *lora("w", "w", "decay_low_rank_dim"),
        *lora("a", "a", "a_low_rank_dim"),
        *at(from_("one"), lora("v", "v", "v_low_rank_dim")),
        # nothing reads these of the first layer, and llama.cpp wants them
        *at(before("one"), lora("a", "v", "a_low_rank_dim")),
        *lora("g", "g", "gate_low_rank_dim", bias=False),
        T("attn.k_k", "time_mix_k_k.weight", Role.OTHER, HIDDEN),
        T("attn.k_a", "time_mix_k_a.weight", Role.OTHER, HIDDEN),
        T("attn.r_k", "time_mix_r_k.weight", Role.OTHER, "rwkv_heads head_dim", line),
        T("attn.r_proj.weight", "time_mix_receptance.weight", Role.OTHER, SQUARE),
        T("attn.k_proj.weight", "time_mix_key.weight", Role.OTHER, SQUARE),
        T("attn.v_proj.weight", "time_mix_value.weight", Role.OTHER, SQUARE),
        T("attn.o_proj.weight", "time_mix_output.weight", Role.OTHER, SQUARE),
        T("ffn.x_k", "channel_mix_lerp_k.weight", Role.OTHER, HIDDEN),
        T("ffn.key.weight", "channel_mix_key.weight", Role.OTHER, "intermediate_size hidden_size"),
        T("ffn.value.weight", "channel_mix_value.weight", Role.OTHER, "hidden_size intermediate_size"),
    ),
    keys=(
        keys.Key("context_length", "u32", "endless"),
        keys.Key("embedding_length", "u32", HIDDEN),
        keys.blocks,
        keys.Key("feed_forward_length", "u32", "intermediate_size"),
        keys.Key("attention.head_count", "u32", "zero"),
        keys.Key("attention.layer_norm_epsilon", "f32", "norm_eps"),
        keys.Key("wkv.head_size", "u32", "head_dim"),
        keys.Key("attention.decay_lora_rank", "u32", "decay_low_rank_dim"),
        keys.Key("attention.iclr_lora_rank", "u32", "a_low_rank_dim"),
        keys.Key("attention.value_residual_mix_lora_rank", "u32", "v_low_rank_dim"),
        keys.Key("attention.gate_lora_rank", "u32", "gate_low_rank_dim"),
    ),
    drop=(Drop("unread.v_lora.*", "the first layer has no values of an earlier one"),),
    spellings=(Rename(r"^model\.layers\.0\.attn\.v_lora\.", "unread.v_lora."),),
    derive=(sizes,),
    assumes=(assumptions.activation("hidden_act", "sqrelu", "relu2"), normalized),
    tokens=TokenizerRules(own="rwkv", ids={"bos": 0, "eos": 0}, named={"eot": "\\n\\n"}),
    unserved=OWN_CODE,
)  # fmt: skip


def sizes_of_6(hparams: Hparams) -> Mapping[str, Any]:
    """The widths of RWKV 6, most of which no file says, and by what each block is divided.

    llama.cpp halves what runs through the model after every so many layers, and what is added has to be halved as
    often.
    """
    hidden, blocks = hparams.count(HIDDEN), hparams.count("num_hidden_layers")
    inner, large = hparams.values.get("intermediate_size"), hidden == 4096
    every = int(hparams.number("rescale_every") or 0)
    if every < 0:
        what = f"config.json: rescale_every is {every}"
        raise InputError(what, key="rescale_every", path="config.json", hint=CONFIG_HINT)
    return {
        "endless": ENDLESS, "max_position_embeddings": ENDLESS, "zero": 0,
        "intermediate_size": int(hidden * 3.5 // 32 * 32) if inner is None else inner,
        "mix_rank": 64 if large else 32, "decay_rank": 128 if large else 64, "rescale_every": every,
        "rwkv_heads": hidden // hparams.count("head_size"),
        "halved": tuple(0.5 ** min(block // every, 64) if every else 1.0 for block in range(blocks)),
    }  # fmt: skip


MIX = f"1 1 {HIDDEN}"
RWKV6 = replace(
    RWKV7,
    name="rwkv6",
    gguf="rwkv6",
    hf=("Rwkv6ForCausalLM",),
    defaults={
        "rwkv6": {
            **NO_ATTENTION, "vocab_size": 65536, HIDDEN: 4096, "num_hidden_layers": 32, "head_size": 64,
            "layer_norm_epsilon": 1e-5, "intermediate_size": None, "rescale_every": 6,
        },
    },
    source_block="rwkv.blocks.{}.",
    outside=(
        T("rwkv.embeddings.weight", "token_embd.weight", Role.TOKEN_EMBD, "vocab_size hidden_size"),
        *with_biases((
            T("rwkv.blocks.0.pre_ln.weight", "token_embd_norm.weight", Role.NORM, HIDDEN),
            T("rwkv.ln_out.weight", "output_norm.weight", Role.NORM, HIDDEN),
        )),
        T("head.weight", "output.weight", Role.OUTPUT, "vocab_size hidden_size"),
    ),
    block=(
        *with_biases((
            T("ln1.weight", "attn_norm.weight", Role.NORM, HIDDEN),
            T("ln2.weight", "attn_norm_2.weight", Role.NORM, HIDDEN),
            T("attention.ln_x.weight", "time_mix_ln.weight", Role.OTHER, HIDDEN),
        )),
        T("attention.time_maa_x", "time_mix_lerp_x.weight", Role.OTHER, MIX, squeeze),
        *(T(f"attention.time_maa_{what}", "time_mix_lerp_fused.weight", Role.OTHER, MIX, total=f"5 1 1 {HIDDEN}",
            order=order) for order, what in enumerate("wkvrg")),
        T("attention.time_maa_w1", "time_mix_w1.weight", Role.OTHER, f"{HIDDEN} 5*mix_rank", turn),
        T("attention.time_maa_w2", "time_mix_w2.weight", Role.OTHER, f"5 mix_rank {HIDDEN}", turn),
        T("attention.time_decay", "time_mix_decay.weight", Role.OTHER, MIX, squeeze),
        T("attention.time_decay_w1", "time_mix_decay_w1.weight", Role.OTHER, f"{HIDDEN} decay_rank", turn),
        T("attention.time_decay_w2", "time_mix_decay_w2.weight", Role.OTHER, f"decay_rank {HIDDEN}", turn),
        T("attention.time_faaaa", "time_mix_first.weight", Role.OTHER, "rwkv_heads head_size"),
        *(T(f"attention.{what}.weight", f"time_mix_{what}.weight", Role.OTHER, SQUARE)
          for what in ("receptance", "key", "value", "gate")),
        T("attention.output.weight", "time_mix_output.weight", Role.OTHER, SQUARE, value="*halved"),
        T("feed_forward.time_maa_k", "channel_mix_lerp_k.weight", Role.OTHER, MIX, squeeze),
        T("feed_forward.time_maa_r", "channel_mix_lerp_r.weight", Role.OTHER, MIX, squeeze),
        T("feed_forward.key.weight", "channel_mix_key.weight", Role.OTHER, "intermediate_size hidden_size"),
        T("feed_forward.receptance.weight", "channel_mix_receptance.weight", Role.OTHER, SQUARE),
        T("feed_forward.value.weight", "channel_mix_value.weight", Role.OTHER, "hidden_size intermediate_size",
          value="*halved"),
    ),
    keys=(
        *keys.without(RWKV7.keys[:6], "attention.layer_norm_epsilon"),
        keys.Key("attention.layer_norm_epsilon", "f32", "layer_norm_epsilon"),
        keys.Key("rescale_every_n_layers", "u32", "rescale_every"),
        keys.Key("wkv.head_size", "u32", "head_size"),
        keys.Key("time_mix_extra_dim", "u32", "mix_rank"),
        keys.Key("time_decay_extra_dim", "u32", "decay_rank"),
    ),
    drop=(),
    spellings=(),
    derive=(sizes_of_6,),
    assumes=(),
)  # fmt: skip

FAMILIES = (RWKV6, RWKV7)
