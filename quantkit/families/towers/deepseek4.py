"""DeepSeek V4 Flash with eyes: a vision transformer that rotates, and two linears over squares of its patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.expressions import ANY
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import rows, split
from quantkit.families.roles import Role
from quantkit.families.rows import PRESENT, Condition, T
from quantkit.families.tower import WHOLE, Tower
from quantkit.families.vit import INNER_TEXT, SILU, epsilon, vision_keys
from quantkit.untrusted import shown

NUMBERS = {  # of the root of config.json
    "vision_n_layers": "num_hidden_layers", "vision_dim": "hidden_size", "vision_n_heads": "num_attention_heads",
    "vision_inter_dim": "intermediate_size", "vision_patch_size": "patch_size", "vision_downsample_ratio": "merge",
    "vision_min_pixels": "fewest",
}  # fmt: skip
BUILT = {"vision_max_n_token": 384, "vision_max_wh_ratio": 8}  # into llama.cpp
WARM = 16  # squares of a side of the image that llama.cpp warms up with
FUSED = "2*intermediate_size hidden_size"


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Those of the encoder. Raises UnsupportedError for limits of images other than those of llama.cpp."""
    config = hparams.values[WHOLE]
    for key, value in BUILT.items():
        if config.get(key, value) != value:
            what = f"config.json: {key} is {shown(repr(config[key]), 40)}, llama.cpp has {value}"
            raise UnsupportedError(what, key=key, hint="use it with the code of the model")
    said = {name: Hparams(config).count(key) for key, name in NUMBERS.items()}
    return {**said, "image_size": said["patch_size"] * said["merge"] * WARM}


DEEPSEEK4V = Tower(
    name="deepseek4v",
    hf=("DeepseekV4ForCausalLM",),
    owns=("vision.", "aligner.", "image_"),
    outside=(
        T("vision.patch_embed.proj.weight", "v.patch_embd.weight", Role.OTHER,
          "hidden_size num_channels*patch_size*patch_size",
          split("num_channels", "patch_size*patch_size") >> split("patch_size", "patch_size")),
        T("vision.patch_embed.proj.bias", "v.patch_embd.bias", Role.BIAS, "hidden_size", optional=True),
        T("vision.norm.weight", "v.post_ln.weight", Role.NORM, "hidden_size"),
        T("aligner.w1.weight", "mm.1.weight", Role.OTHER, ANY, bias=PRESENT),
        T("aligner.w2.weight", "mm.2.weight", Role.OTHER, ANY, bias=PRESENT),
        T("image_newline", "v.image_newline", Role.OTHER, "projection_dim"),
        *(T(f"image_{which}", f"v.token_embd.img_{which}", Role.OTHER, "projection_dim")
          for which in ("start", "end", "pad")),
    ),
    block=(
        T("norm1.weight", "ln1.weight", Role.NORM, "hidden_size"),
        T("norm2.weight", "ln2.weight", Role.NORM, "hidden_size"),
        T("attn.wqkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size", bias=PRESENT),
        T("attn.wo.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size", bias=PRESENT),
        T("mlp.w1.weight", "ffn_gate.weight", Role.FFN_GATE, FUSED, rows("0", "intermediate_size"), bias=PRESENT),
        T("mlp.w1.weight", "ffn_up.weight", Role.FFN_UP, FUSED, rows("intermediate_size", "2*intermediate_size"),
          bias=PRESENT),
        T("mlp.w2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias=PRESENT),
    ),
    source_block="vision.blocks.{}.",
    part=None,
    defaults={"num_channels": 3, "layer_norm_eps": 1e-6},  # of torch's norm, not of the language model
    derive=(numbers,),
    keys=vision_keys(
        "deepseek4v",
        epsilon(),
        SILU,
        keys.Key("vision.image_min_pixels", "u32", "fewest"),
        keys.Key("vision.projector.scale_factor", "u32", "merge"),
    ),
    text=INNER_TEXT,
    when=Condition("config.json has vision_n_layers", lambda config: bool(config.get("vision_n_layers"))),
    expects={"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},  # as the model's own code has it
)  # fmt: skip

TOWERS = (DEEPSEEK4V,)
