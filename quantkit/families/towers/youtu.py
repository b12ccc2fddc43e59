"""Youtu-VL: a SigLIP 2 tower with rotated positions, most of whose layers attend to windows."""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, with_biases
from quantkit.families.tower import Tower, layers_listed
from quantkit.families.towers.qwen_vl import IMAGE, MERGED
from quantkit.families.vit import GELU, INNER_TEXT, MERGED_SIDE, SIGLIP, SIGLIP_BLOCK, SILU, epsilon, vision_keys
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

PREFIX, MERGER = "siglip2.vision_model.", "merger."
KINDS = dict.fromkeys(("gelu", "gelu_pytorch_tanh", "gelu_fast", "gelu_new", "gelu_accurate"), GELU) | {"silu": SILU}


def activation(hparams: Hparams) -> Iterable[KeyValue]:
    """The key of the activation. Raises UnsupportedError for one that llama.cpp lacks."""
    said = str(hparams.values.get("hidden_act")).lower()
    row = KINDS.get(said)
    if row is None or isinstance(row, keys.Key):
        what = f"config.json: the encoder's hidden_act is {shown(said, 40)}"
        raise UnsupportedError(what, key="hidden_act", hint=f"llama.cpp knows {', '.join(KINDS)} there")
    return row(hparams)


def whole_layers(hparams: Hparams) -> Iterable[KeyValue]:
    """The layers that attend to the whole image."""
    listed = tuple(layers_listed(hparams, "fullatt_block_indexes"))
    return (KeyValue("vision.wa_layer_indexes", "i32", listed, array=True),)


YOUTU = Tower(
    name="youtuvl",
    hf=("YoutuVLForConditionalGeneration",),
    owns=("siglip2.", MERGER),
    outside=(
        T(f"{PREFIX}embeddings.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER,
          "hidden_size num_channels*patch_size*patch_size", bias="always"),
        T(f"{PREFIX}post_layernorm.weight", "v.post_ln.weight", Role.NORM, "hidden_size", bias="always"),
        T(f"{MERGER}ln_q.weight", "mm.input_norm.weight", Role.NORM, "hidden_size", bias="present"),
        *with_biases((
            T(f"{MERGER}mlp.0.weight", "mm.0.weight", Role.OTHER, f"{MERGED} {MERGED}"),
            T(f"{MERGER}mlp.2.weight", "mm.2.weight", Role.OTHER, f"projection_dim {MERGED}"),
        )),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults={
        **SIGLIP, "image_size": IMAGE, "spatial_merge_size": 2, "window_size": 256, "fullatt_block_indexes": [],
    },
    keys=vision_keys(
        "youtuvl", epsilon(), activation, MERGED_SIDE, keys.Key("vision.window_size", "u32", "window_size"),
        whole_layers,
    ),
    drop=(Drop(f"{PREFIX}head.*", "the head that pools an image into one vector is not used"),),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (YOUTU,)
