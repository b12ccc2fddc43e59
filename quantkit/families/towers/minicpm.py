"""MiniCPM-V 4.6: a SigLIP tower that makes one of four patches inside, unless told not to, and of four again behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.layers import flagged, not_
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, at, with_biases
from quantkit.families.tower import SAID, WHOLE, Tower
from quantkit.families.vit import (
    GELU,
    INNER_TEXT,
    SIGLIP,
    SIGLIP_BLOCK,
    epsilon,
    patches,
    siglip_outside,
    vision_keys,
)
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

PREFIX, INSIDE, BEHIND = "vision_tower.", "vision_tower.vit_merger.", "merger.mlp.0."
FOUR = "4*hidden_size"
MODES = {"4x": 2, "16x": 4}  # patches that become one -> of each side
ONCE = "once"


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """What the processor says: the side of a slice of an image, and how many patches become one.

    Raises UnsupportedError for a mode that is not known.
    """
    said = hparams.values[SAID]
    mode = said.get("downsample_mode", "16x")
    if not isinstance(mode, str) or mode not in MODES:
        what = f"the processor's downsample_mode is {shown(str(mode), 40)}"
        raise UnsupportedError(what, key="downsample_mode", hint=f"known are {' and '.join(MODES)}")
    size = said.get("scale_resolution")
    return {
        "side": MODES[mode],
        ONCE: mode == "4x",
        "image_size": hparams.count("image_size") if size is None else Hparams({"size": size}).count("size"),
    }


def inserted(hparams: Hparams) -> Iterable[KeyValue]:
    """The layer before which patches become one."""
    said = hparams.values[WHOLE].get("insert_layer_id", hparams.values.get("insert_layer_id", 6))
    layer = int(Hparams({"insert_layer_id": said}).required("insert_layer_id"))
    return (KeyValue("vision.wa_layer_indexes", "i32", (layer,), array=True),)


MERGER = with_biases((
    T(f"{INSIDE}layer_norm1.weight", "v.vit_merger.ln1.weight", Role.NORM, "hidden_size"),
    *(
        T(f"{INSIDE}self_attn.{source}.weight", f"v.vit_merger.{target}.weight", role, "hidden_size hidden_size")
        for source, target, role in (
            ("q_proj", "attn_q", Role.ATTN_Q), ("k_proj", "attn_k", Role.ATTN_K), ("v_proj", "attn_v", Role.ATTN_V),
            ("out_proj", "attn_out", Role.ATTN_OUTPUT),
        )
    ),
    T(f"{INSIDE}pre_norm.weight", "v.vit_merger.ds_ln.weight", Role.NORM, FOUR),
    T(f"{INSIDE}linear_1.weight", "v.vit_merger.ds_ffn_up.weight", Role.FFN_UP, f"4*intermediate_size {FOUR}"),
    T(f"{INSIDE}linear_2.weight", "v.vit_merger.ds_ffn_down.weight", Role.FFN_DOWN, "hidden_size 4*intermediate_size"),
))  # fmt: skip
MINICPM = Tower(
    name="minicpmv4_6",
    hf=("MiniCPMV4_6ForConditionalGeneration",),
    owns=(PREFIX, "merger."),
    outside=(
        *siglip_outside(PREFIX, stored=None),
        *at(not_(flagged(ONCE)), MERGER),
        *with_biases((
            T(f"{BEHIND}pre_norm.weight", "mm.input_norm.weight", Role.NORM, FOUR),
            T(f"{BEHIND}linear_1.weight", "mm.up.weight", Role.OTHER, f"{FOUR} {FOUR}"),
            T(f"{BEHIND}linear_2.weight", "mm.down.weight", Role.OTHER, f"projection_dim {FOUR}"),
        )),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults=SIGLIP,
    derive=(patches, numbers),
    keys=vision_keys(
        "minicpmv4_6", epsilon(), GELU, keys.Key("vision.projector.scale_factor", "u32", "side"), inserted
    ),
    drop=(Drop(f"{INSIDE}*", "the processor asks for four times as many patches", when=ONCE),),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (MINICPM,)
