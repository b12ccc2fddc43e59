"""Granite Speech: a conformer, and a Q-Former that makes few embeddings of a window of sound.

The reference calls a batch norm conv_norm_var, as another model's variance; llama.cpp reads conv_norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.general import ReadFile
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.layouts import line, rows, split, squeeze
from quantkit.families.model import ModelTensor
from quantkit.families.parts import Folded
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, Stack, T, with_biases
from quantkit.families.tower import AUDIO_BLOCK, MODEL, WHOLE, Tower
from quantkit.families.towers.whisper import audio_keys
from quantkit.families.vit import F32, INNER_TEXT
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

ENCODER, PROJECTOR = "encoder.", "projector."
LAYERS, FORMER = f"{ENCODER}layers.{{}}.", f"{PROJECTOR}qformer.encoder.layer.{{}}."
NORM = "conv.batch_norm."
STATISTICS = ("weight", "bias", "running_mean", "running_var")
NAMES = {
    "hidden_dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
    "input_dim": "num_mel_bins",
}  # fmt: skip
BLIP = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "encoder_hidden_size": 1408}  # fmt: skip


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Sizes of the conformer, and those of the Q-Former with "p_" before them."""
    config = hparams.values[WHOLE]
    part = config.get("projector_config")
    said = Hparams({**BLIP, **(part if isinstance(part, Mapping) else {})})
    window = Hparams({key: config.get(key, other) for key, other in (("window_size", 15), ("downsample_rate", 5))})
    return {
        "intermediate_size": hparams.count("hidden_size") * hparams.count("feedforward_mult"),
        "inner": hparams.count("hidden_size") * hparams.count("conv_expansion_factor"),
        "attended": hparams.count("num_attention_heads") * hparams.count("dim_head"),
        "window_size": window.count("window_size"), "downsample_rate": window.count("downsample_rate"),
        "queries": window.count("window_size") // window.count("downsample_rate"),
        **{f"p_{key}": said.count(key) for key in BLIP},
    }  # fmt: skip


def layers_of_former(hparams: Hparams) -> int:
    return hparams.count("p_num_hidden_layers")


def norms(hparams: Hparams, tensors: Mapping[str, TensorInfo], read_file: ReadFile) -> tuple[ModelTensor, ...]:
    """The batch norms of all layers."""
    start = MODEL if any(name.startswith(MODEL + ENCODER) for name in tensors) else ""
    return folded_norms(hparams, tensors, start + LAYERS, hparams.count("inner"))


def folded_norms(
    hparams: Hparams, tensors: Mapping[str, TensorInfo], layers: str, channels: int
) -> tuple[ModelTensor, ...]:
    """The batch norms of a conformer, each of which becomes a scale and a shift.

    `layers` is what layers are called, with "{}" for the number. Raises InputError for one that is missing.
    """
    found = []
    for layer in range(hparams.count("num_hidden_layers")):
        source = f"{layers.format(layer)}{NORM}"
        for name in (f"{source}{statistic}" for statistic in STATISTICS):
            if name not in tensors or tensors[name].shape != (channels,):
                what = f'the checkpoint has no tensor "{name}" of {channels} numbers'
                raise InputError(what, tensor=name, hint="is a shard missing, or config.json of another model?")
        for shift, kind in ((False, "weight"), (True, "bias")):
            target = f"{AUDIO_BLOCK.format(layer)}conv_norm.{kind}"
            part = Folded(source, channels, shift)
            found.append(ModelTensor(target, Role.NORM, (channels,), (part,), stored="f32"))
    return tuple(found)


def layers_added(hparams: Hparams) -> Iterable[KeyValue]:
    """The layers of the conformer whose outputs the Q-Former reads beside that of the last, where it does.

    Raises InputError for what are no layers, or do not fit the Q-Former.
    """
    said = hparams.values.get("cat_hidden_layers")
    if not said:
        return ()
    if not isinstance(said, list) or not all(type(one) is int and 0 <= one < 1 << 14 for one in said):
        what = f"config.json: cat_hidden_layers is {shown(repr(said), 80)}, expected numbers of layers"
        raise InputError(what, key="cat_hidden_layers", path="config.json", hint=CONFIG_HINT)
    width = hparams.count("hidden_size") * (len(said) + 1)
    if hparams.count("p_encoder_hidden_size") != width:
        what = f"config.json: encoder_hidden_size is {hparams.count('p_encoder_hidden_size')}, layers give {width}"
        raise InputError(what, key="encoder_hidden_size", path="config.json", hint=CONFIG_HINT)
    return (KeyValue("audio.feature_layer", "i32", tuple(said), array=True),)


def half_step(number: int, suffix: str) -> tuple[T, ...]:
    """One of the two MLPs of a conformer's layer."""
    return with_biases((
        T(f"ff{number}.pre_norm.weight", f"ffn_norm{suffix}.weight", Role.NORM, "hidden_size"),
        T(f"ff{number}.up_proj.weight", f"ffn_up{suffix}.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T(f"ff{number}.down_proj.weight", f"ffn_down{suffix}.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ))  # fmt: skip


def attention(source: str, target: str, width: str) -> tuple[T, ...]:
    """One of both attentions of the Q-Former, whose keys and values are of what is `width` wide."""
    return with_biases((
        T(f"{source}.attention.query.weight", f"{target}_q.weight", Role.ATTN_Q, "p_hidden_size p_hidden_size"),
        T(f"{source}.attention.key.weight", f"{target}_k.weight", Role.ATTN_K, f"p_hidden_size {width}"),
        T(f"{source}.attention.value.weight", f"{target}_v.weight", Role.ATTN_V, f"p_hidden_size {width}"),
        T(f"{source}.output.dense.weight", f"{target}_out.weight", Role.ATTN_OUTPUT, "p_hidden_size p_hidden_size"),
        T(f"{source}.output.LayerNorm.weight", f"{target}_norm.weight", Role.NORM, "p_hidden_size"),
    ))  # fmt: skip


CONFORMER = (
    *half_step(1, ""),
    *half_step(2, "_1"),
    T("attn.pre_norm.weight", "ln1.weight", Role.NORM, "hidden_size", bias="always"),
    T("attn.to_q.weight", "attn_q.weight", Role.ATTN_Q, "attended hidden_size"),
    T("attn.to_kv.weight", "attn_k.weight", Role.ATTN_K, "2*attended hidden_size", rows("0", "attended")),
    T("attn.to_kv.weight", "attn_v.weight", Role.ATTN_V, "2*attended hidden_size", rows("attended", "2*attended")),
    T("attn.to_out.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size attended", bias="always"),
    T("attn.rel_pos_emb.weight", "attn_rel_pos_emb", Role.POSITION, "2*max_pos_emb+1 dim_head"),
    T("conv.norm.weight", "norm_conv.weight", Role.NORM, "hidden_size", bias="always"),
    T("conv.up_conv.weight", "conv_pw1.weight", Role.OTHER, "2*inner hidden_size 1",
      line >> split("2*inner", "hidden_size"), stored=F32),
    T("conv.up_conv.bias", "conv_pw1.bias", Role.BIAS, "2*inner"),
    T("conv.depth_conv.conv.weight", "conv_dw.weight", Role.OTHER, "inner 1 conv_kernel_size", squeeze, stored=F32),
    T("conv.down_conv.weight", "conv_pw2.weight", Role.OTHER, "hidden_size inner 1",
      line >> split("hidden_size", "inner"), stored=F32),
    T("conv.down_conv.bias", "conv_pw2.bias", Role.BIAS, "hidden_size"),
    T("post_norm.weight", "ln2.weight", Role.NORM, "hidden_size", bias="always"),
)  # fmt: skip
QFORMER = (
    *attention("attention", "self_attn", "p_hidden_size"),
    *attention("crossattention", "cross_attn", "p_encoder_hidden_size"),
    *with_biases(
        (
            T("intermediate_query.dense.weight", "ffn_up.weight", Role.FFN_UP, "p_intermediate_size p_hidden_size"),
            T("output_query.dense.weight", "ffn_down.weight", Role.FFN_DOWN, "p_hidden_size p_intermediate_size"),
            T("output_query.LayerNorm.weight", "ffn_norm.weight", Role.NORM, "p_hidden_size"),
        )
    ),
)
GRANITE_SPEECH = Tower(
    name="granite_speech",
    hf=("GraniteSpeechForConditionalGeneration",),
    owns=(ENCODER, PROJECTOR),
    outside=(
        *with_biases(
            (
                T(f"{ENCODER}input_linear.weight", "a.input_projection.weight", Role.OTHER, "hidden_size num_mel_bins"),
                T(f"{ENCODER}out.weight", "a.enc_ctc_out.weight", Role.OTHER, "output_dim hidden_size"),
                T(f"{ENCODER}out_mid.weight", "a.enc_ctc_out_mid.weight", Role.OTHER, "hidden_size output_dim"),
                T(f"{PROJECTOR}qformer.layernorm.weight", "a.proj_norm.weight", Role.NORM, "p_hidden_size"),
                T(f"{PROJECTOR}linear.weight", "a.proj_linear.weight", Role.OTHER, "projection_dim p_hidden_size"),
            )
        ),
        T(f"{PROJECTOR}query", "a.proj_query", Role.OTHER, "1 queries p_hidden_size"),
    ),
    block=CONFORMER,
    source_block=LAYERS,
    target_block=AUDIO_BLOCK,
    stacks=(Stack(FORMER, "a.proj_blk.{}.", layers_of_former, QFORMER),),
    part="encoder_config",
    defaults={
        "hidden_size": 1024,
        "num_hidden_layers": 10,
        "num_attention_heads": 8,
        "num_mel_bins": 160,
        "output_dim": 42,
        "feedforward_mult": 4,
        "conv_expansion_factor": 2,
        "dim_head": 128,
        "conv_kernel_size": 15,
        "max_pos_emb": 512,
        "context_size": 200,
        "layer_norm_eps": 1e-5,
    },
    aliases=NAMES,
    derive=(numbers,),
    keys=audio_keys(
        "granite_speech",
        keys.Key("audio.chunk_size", "u32", "context_size"),
        keys.Key("audio.conv_kernel_size", "u32", "conv_kernel_size"),
        keys.Key("audio.max_pos_emb", "u32", "max_pos_emb"),
        keys.Key("audio.projector.window_size", "u32", "window_size"),
        keys.Key("audio.projector.downsample_rate", "u32", "downsample_rate"),
        keys.Key("audio.projector.head_count", "u32", "p_num_attention_heads"),
    ),
    drop=(
        Drop(f"{ENCODER}layers.*.{NORM}num_batches_tracked", "it counts batches of training"),
        Drop(f"{ENCODER}layers.*.{NORM}*", "the four vectors of a batch norm become two"),
        Drop(f"{ENCODER}layers.*.attention_dists", "distances are computed at run time"),
    ),
    text=INNER_TEXT,
    also=norms,
    sees=False,
)
PLUS = replace(
    GRANITE_SPEECH,
    hf=("GraniteSpeechPlusForConditionalGeneration",),
    keys=(*GRANITE_SPEECH.keys, layers_added),
)

TOWERS = (GRANITE_SPEECH, PLUS)
