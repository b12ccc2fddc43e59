"""Qwen2-Audio, Voxtral and Audio Flamingo 3: the encoder of Whisper, and a projector behind it."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.layouts import column
from quantkit.families.roles import Role
from quantkit.families.rows import PRESENT, T
from quantkit.families.tower import AUDIO_BLOCK, Tower, constant
from quantkit.families.vit import INNER_TEXT

PREFIX, PROJECTOR = "audio_tower.", "multi_modal_projector."
NUMBERS = {
    "d_model": "hidden_size", "encoder_ffn_dim": "intermediate_size", "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
}  # fmt: skip
STACKED = 4  # of the frames that become one in Voxtral


def convolution(number: int, colours: str) -> tuple[T, ...]:
    """One of the two convolutions over time, always in 16 bit; of its bias llama.cpp wants a column."""
    source, target = f"{PREFIX}conv{number}", f"a.conv1d.{number}"
    return (
        T(f"{source}.weight", f"{target}.weight", Role.OTHER, f"hidden_size {colours} 3", stored="f16"),
        T(f"{source}.bias", f"{target}.bias", Role.BIAS, "hidden_size", column),
    )


def audio_keys(projector: str, *more: keys.KeyRow) -> tuple[keys.KeyRow, ...]:
    """The keys of every encoder of sound, and those of this one."""
    return (constant("projector_type", "string", projector), *audio_numbers(), *more)


def audio_numbers(before: str = "") -> tuple[keys.KeyRow, ...]:
    """The keys of every encoder of sound but for the name of its projector; `before` stands before its numbers."""
    return (
        constant("has_audio_encoder", "bool", True),
        keys.Key("audio.projection_dim", "u32", "projection_dim"),
        keys.Key("audio.embedding_length", "u32", f"{before}hidden_size"),
        keys.Key("audio.feed_forward_length", "u32", f"{before}intermediate_size"),
        keys.Key("audio.block_count", "u32", f"{before}num_hidden_layers"),
        keys.Key("audio.attention.head_count", "u32", f"{before}num_attention_heads"),
        keys.Key("audio.num_mel_bins", "u32", f"{before}num_mel_bins"),
        keys.Key("audio.attention.layer_norm_epsilon", "f32", f"{before}layer_norm_eps"),
    )


CONVOLUTIONS = (*convolution(1, "num_mel_bins"), *convolution(2, "hidden_size"))
WHISPER = (
    *CONVOLUTIONS,
    T(f"{PREFIX}embed_positions.weight", "a.position_embd.weight", Role.POSITION, "max_source_positions hidden_size"),
    T(f"{PREFIX}layer_norm.weight", "a.post_ln.weight", Role.NORM, "hidden_size", bias="always"),
)
LAYER = (
    T("self_attn_layer_norm.weight", "ln1.weight", Role.NORM, "hidden_size", bias="always"),
    T("final_layer_norm.weight", "ln2.weight", Role.NORM, "hidden_size", bias="always"),
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "hidden_size hidden_size", bias="always"),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "hidden_size hidden_size"),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "hidden_size hidden_size", bias="always"),
    T("self_attn.out_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size", bias="always"),
    T("fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size", bias="always"),
    T("fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias="always"),
)
QWEN2A = Tower(
    name="qwen2a",
    hf=("Qwen2AudioForConditionalGeneration",),
    owns=(PREFIX, PROJECTOR),
    outside=(
        *WHISPER,
        T(f"{PROJECTOR}linear.weight", "mm.a.fc.weight", Role.OTHER, "projection_dim hidden_size", bias="always"),
    ),
    block=LAYER,
    source_block=f"{PREFIX}layers.{{}}.",
    target_block=AUDIO_BLOCK,
    part="audio_config",
    defaults={
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "num_mel_bins": 128, "max_source_positions": 1500, "layer_norm_eps": 1e-5,
    },
    aliases=NUMBERS,
    keys=audio_keys("qwen2a"),
    text=INNER_TEXT,
    sees=False,
)  # fmt: skip
LINEARS = (
    T(f"{PROJECTOR}linear_1.weight", "mm.a.mlp.1.weight", Role.OTHER, "projection_dim read", bias=PRESENT),
    T(f"{PROJECTOR}linear_2.weight", "mm.a.mlp.2.weight", Role.OTHER, "projection_dim projection_dim", bias=PRESENT),
)
VOXTRAL = replace(
    QWEN2A,
    name="voxtral",
    hf=("VoxtralForConditionalGeneration",),
    outside=(*WHISPER, *LINEARS),
    derive=(lambda hparams: {"read": hparams.count("intermediate_size")},),
    keys=audio_keys("voxtral", constant("audio.projector.stack_factor", "u32", STACKED)),
)
FLAMINGO = replace(
    QWEN2A,
    name="musicflamingo",
    hf=("AudioFlamingo3ForConditionalGeneration",),
    outside=(*(replace(t, stored="f32") if t.stored else t for t in WHISPER), *LINEARS),
    derive=(lambda hparams: {"read": hparams.count("hidden_size")},),
    keys=audio_keys("musicflamingo"),
)

TOWERS = (QWEN2A, VOXTRAL, FLAMINGO)
