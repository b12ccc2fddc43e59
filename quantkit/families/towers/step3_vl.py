"""Step3-VL and Step 3.7: a vision transformer with two convolutions behind it, each of which halves both sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.tower import HALF, Tower, constant
from quantkit.families.vit import F32, INNER_TEXT, KERNEL, epsilon, patches, root, vision_keys
from quantkit.untrusted import shown

TOWER, PROJECTOR = "vision_model.", "vit_large_projector."
STRIDE = 2  # of each convolution
MOST = 3024  # pixels of a side (processing_step3.py of Step3-VL-10B)
RATIO = 8960 / 1536  # of both widths of a layer in the published model
BUILT = {"hidden_act": ("quick_gelu", "the encoder's activation"), "stride": (STRIDE, "understand_projector_stride")}


def width(hparams: Hparams) -> Mapping[str, Any]:
    """The inner width of a layer, which may be said by its ratio alone."""
    if hparams.values.get("intermediate_size"):
        return {}
    ratio = Hparams({"mlp_ratio": hparams.values.get("mlp_ratio", RATIO)}).required("mlp_ratio")
    return {"intermediate_size": round(hparams.count("hidden_size") * ratio)}


def built(hparams: Hparams) -> Mapping[str, Any]:
    """Nothing. Raises UnsupportedError for an encoder that is not what llama.cpp computes."""
    said = {"stride": root("understand_projector_stride", STRIDE)(hparams), **hparams.values}
    for key, (value, what) in BUILT.items():
        if said[key] != value:
            message = f"config.json: {what} is {shown(repr(said[key]), 40)}, llama.cpp computes it with {value}"
            raise UnsupportedError(message, key=key, hint="use it with transformers")
    return {}


STEP3VL = Tower(
    name="step3vl",
    hf=("StepVLForConditionalGeneration", "Step3p7ForConditionalGeneration"),
    owns=(TOWER, PROJECTOR),
    outside=(
        T(f"{TOWER}conv1.weight", "v.patch_embd.weight", Role.OTHER, KERNEL),
        T(f"{TOWER}positional_embedding", "v.position_embd.weight", Role.POSITION, "patches hidden_size", stored=F32),
        T(f"{TOWER}ln_pre.weight", "v.pre_ln.weight", Role.NORM, "hidden_size", bias="always"),
        T(f"{TOWER}vit_downsampler1.weight", "mm.0.weight", Role.OTHER, "2*hidden_size hidden_size 3 3",
          bias="always", stored=HALF),
        T(f"{TOWER}vit_downsampler2.weight", "mm.1.weight", Role.OTHER, "4*hidden_size 2*hidden_size 3 3",
          bias="always", stored=HALF),
        T(f"{PROJECTOR}weight", "mm.model.fc.weight", Role.OTHER, "projection_dim 4*hidden_size"),
    ),
    block=(
        *with_biases((
            T("ln_1.weight", "ln1.weight", Role.NORM, "hidden_size"),
            T("ln_2.weight", "ln2.weight", Role.NORM, "hidden_size"),
            T("attn.out_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
            T("mlp.c_fc.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
            T("mlp.c_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
        )),
        T("attn.in_proj_weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
        T("attn.in_proj_bias", "attn_qkv.bias", Role.BIAS, "3*hidden_size"),
        T("ls_1.gamma", "ls1.weight", Role.NORM, "hidden_size"),
        T("ls_2.gamma", "ls2.weight", Role.NORM, "hidden_size"),
    ),
    source_block=f"{TOWER}transformer.resblocks.{{}}.",
    defaults={
        "hidden_size": 1536, "num_hidden_layers": 47, "num_attention_heads": 16, "num_channels": 3, "image_size": 728,
        "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    },
    aliases={"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"},
    derive=(width, patches, built),
    keys=vision_keys(
        "step3vl",
        epsilon(),
        constant("vision.projector.scale_factor", "u32", STRIDE**2),
        constant("vision.preproc_image_size", "u32", MOST),
    ),
    text=INNER_TEXT,
    expects={  # as the published models' own processor has it
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
)  # fmt: skip

TOWERS = (STEP3VL,)
