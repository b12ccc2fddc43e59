"""LFM2-Audio: a FastConformer and two linears; what makes sound is left out but for its embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families.expressions import ANY
from quantkit.families.general import ReadFile
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import column, line, split, squeeze
from quantkit.families.model import ModelTensor
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, with_biases
from quantkit.families.tower import AUDIO_BLOCK, Tower
from quantkit.families.towers.granite_speech import NORM, folded_norms
from quantkit.families.towers.whisper import audio_keys
from quantkit.families.vit import F32
from quantkit.tensors import TensorInfo

LAYERS = "conformer.layers.{}."
START = "conformer.pre_encode."
CONVOLUTIONS = {0: "channels 1 3 3", 2: "channels 1 3 3", 3: "channels channels 1 1", 5: "channels 1 3 3",
                6: "channels channels 1 1"}  # fmt: skip
NAMES = {
    "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "feat_in": "num_mel_bins", "subsampling_conv_channels": "channels",
}  # fmt: skip
MAKES = "llama.cpp makes no sound with this model"


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """The inner width, of which the file says that of the layers, as the reference does."""
    width = hparams.count("hidden_size")
    return {"intermediate_size": width, "inner": width * hparams.count("ff_expansion_factor")}


def norms(hparams: Hparams, tensors: Mapping[str, TensorInfo], read_file: ReadFile) -> tuple[ModelTensor, ...]:
    """The batch norms of all layers."""
    return folded_norms(hparams, tensors, LAYERS, hparams.count("hidden_size"))


def half_step(number: int, suffix: str) -> tuple[T, ...]:
    """One of the two MLPs of a layer."""
    source = f"feed_forward{number}."
    return with_biases((
        T(f"norm_feed_forward{number}.weight", f"ffn_norm{suffix}.weight", Role.NORM, "hidden_size"),
        T(f"{source}linear1.weight", f"ffn_up{suffix}.weight", Role.FFN_UP, "inner hidden_size"),
        T(f"{source}linear2.weight", f"ffn_down{suffix}.weight", Role.FFN_DOWN, "hidden_size inner"),
    ))  # fmt: skip


SQUARE = "hidden_size hidden_size"
LFM2_AUDIO = Tower(
    name="lfm2a",
    hf=("Lfm2AudioForConditionalGeneration",),
    owns=("conformer.", "audio_", "codebook_", "depth"),
    outside=(
        *(T(f"{START}conv.{n}.weight", f"a.conv1d.{n}.weight", Role.OTHER, shape, stored=F32)
          for n, shape in CONVOLUTIONS.items()),
        *(T(f"{START}conv.{n}.bias", f"a.conv1d.{n}.bias", Role.BIAS, "channels", column >> split("1", "1"))
          for n in CONVOLUTIONS),
        *with_biases((
            T(f"{START}out.weight", "a.pre_encode.out.weight", Role.OTHER, "hidden_size channels*(num_mel_bins//8)"),
            T("audio_adapter.model.0.weight", "mm.a.mlp.0.weight", Role.NORM, "hidden_size"),
            T("audio_adapter.model.1.weight", "mm.a.mlp.1.weight", Role.OTHER, "projection_dim hidden_size"),
            T("audio_adapter.model.3.weight", "mm.a.mlp.3.weight", Role.OTHER, "projection_dim projection_dim"),
        )),
        T("audio_embedding.embedding.weight", "a.position_embd.weight", Role.POSITION, ANY),
        T("audio_embedding.embedding_norm.weight", "a.position_embd_norm.weight", Role.NORM, "projection_dim"),
        T("audio_embedding.to_logits.weight", "a.embd_to_logits.weight", Role.OTHER, ANY),
    ),
    block=(
        *half_step(1, ""),
        *half_step(2, "_1"),
        *with_biases((
            T("norm_self_att.weight", "ln1.weight", Role.NORM, "hidden_size"),
            T("self_attn.linear_q.weight", "attn_q.weight", Role.ATTN_Q, SQUARE),
            T("self_attn.linear_k.weight", "attn_k.weight", Role.ATTN_K, SQUARE),
            T("self_attn.linear_v.weight", "attn_v.weight", Role.ATTN_V, SQUARE),
            T("self_attn.linear_out.weight", "attn_out.weight", Role.ATTN_OUTPUT, SQUARE),
            T("norm_conv.weight", "norm_conv.weight", Role.NORM, "hidden_size"),
            T("norm_out.weight", "ln2.weight", Role.NORM, "hidden_size"),
        )),
        T("self_attn.linear_pos.weight", "linear_pos.weight", Role.OTHER, SQUARE),
        T("self_attn.pos_bias_u", "pos_bias_u", Role.OTHER, "num_attention_heads head_dim"),
        T("self_attn.pos_bias_v", "pos_bias_v", Role.OTHER, "num_attention_heads head_dim"),
        T("conv.pointwise_conv1.weight", "conv_pw1.weight", Role.OTHER, "2*hidden_size hidden_size 1",
          line >> split("2*hidden_size", "hidden_size"), stored=F32),
        T("conv.pointwise_conv1.bias", "conv_pw1.bias", Role.BIAS, "2*hidden_size"),
        T("conv.depthwise_conv.weight", "conv_dw.weight", Role.OTHER, "hidden_size 1 conv_kernel_size", squeeze,
          stored=F32),
        T("conv.depthwise_conv.bias", "conv_dw.bias", Role.BIAS, "hidden_size"),
        T("conv.pointwise_conv2.weight", "conv_pw2.weight", Role.OTHER, "hidden_size hidden_size 1",
          line >> split("hidden_size", "hidden_size"), stored=F32),
        T("conv.pointwise_conv2.bias", "conv_pw2.bias", Role.BIAS, "hidden_size"),
    ),
    source_block=LAYERS,
    target_block=AUDIO_BLOCK,
    part="encoder",
    defaults={
        "hidden_size": 512, "num_hidden_layers": 17, "num_attention_heads": 8, "num_mel_bins": 128, "channels": 256,
        "ff_expansion_factor": 4, "conv_kernel_size": 9, "layer_norm_eps": 1e-5,
    },
    aliases=NAMES,
    derive=(numbers,),
    keys=audio_keys("lfm2a"),
    drop=(
        Drop(f"conformer.layers.*.{NORM}num_batches_tracked", "it counts batches of training"),
        Drop(f"conformer.layers.*.{NORM}*", "the four vectors of a batch norm become two"),
        Drop("audio_loss_weight*", "it is of training"),
        Drop("codebook_*", MAKES, told=True),
        Drop("depth*", MAKES, told=True),
    ),
    also=norms,
    sees=False,
)  # fmt: skip

TOWERS = (LFM2_AUDIO,)
