"""LLaVA 1.5 and 1.6: CLIP or SigLIP, from some of whose layers two linears read.

The reference converter writes no such file. Names and keys are what llama.cpp reads (tools/mtmd/clip.cpp, October 2026)
and what its older tools wrote (tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import Condition, Drop, T
from quantkit.families.tower import WHOLE, Tower, constant
from quantkit.families.vit import (
    GELU,
    INNER_TEXT,
    KERNEL,
    SIGLIP,
    SIGLIP_BLOCK,
    UNWRAPPED,
    epsilon,
    patches,
    vision_keys,
    without_head,
)
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

PREFIX, PROJECTOR = "vision_tower.", "multi_modal_projector."
CLIP, SIGLIP_KIND = "clip_vision_model", "siglip_vision_model"
WITHOUT_CLASS = {CLIP: "default", SIGLIP_KIND: "full"}  # what of a layer is read: all patches, and never a class token
QUICK, TANH = "quick_gelu", "gelu_pytorch_tanh"  # llama.cpp computes the former where no key says otherwise
MAX_SIZES = 1 << 10
CLIP_NUMBERS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": QUICK, "layer_norm_eps": 1e-5,
}  # fmt: skip


def selected(hparams: Hparams) -> Mapping[str, Any]:
    """The layers that are read, and how many are run for that.

    Raises InputError for what are no layers, UnsupportedError where llama.cpp would read others.
    """
    config, layers = hparams.values[WHOLE], hparams.count("num_hidden_layers")
    said = config.get("vision_feature_layer", -2)
    listed = said if isinstance(said, list) else [said]
    if not listed or not all(_is_layer(one, layers) for one in listed):
        what = f"config.json: vision_feature_layer is {shown(repr(said), 80)}, expected numbers of {layers} layers"
        raise InputError(what, key="vision_feature_layer", path="config.json", hint=CONFIG_HINT)
    found = [one if one >= 0 else layers + one + 1 for one in listed]
    if found != sorted(set(found)):
        what = f"config.json: vision_feature_layer is {shown(repr(said), 80)}"
        raise UnsupportedError(what, key="vision_feature_layer", hint="llama.cpp reads layers in ascending order")
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy != WITHOUT_CLASS[hparams.values["model_type"]]:
        what = f"config.json: vision_feature_select_strategy is {shown(str(strategy), 80)}"
        hint = "llama.cpp reads all patches, and no class token"
        raise UnsupportedError(what, key="vision_feature_select_strategy", hint=hint)
    return {"read": found, "read_rows": len(found), "run": found[-1]}


def _is_layer(one: object, layers: int) -> bool:
    """Whether it is the number of a layer, from 1, or that of one from the last, -1."""
    return isinstance(one, int) and not isinstance(one, bool) and one != 0 and -layers <= one <= layers


def layers_read(hparams: Hparams) -> Iterable[KeyValue]:
    """The numbers of the layers that are read."""
    return (KeyValue("vision.feature_layer", "i32", tuple(hparams.values["read"]), array=True),)


def activation(hparams: Hparams) -> Iterable[KeyValue]:
    """The key of the activation, none for CLIP's own. Raises UnsupportedError for one that llama.cpp lacks."""
    said = hparams.values.get("hidden_act")
    if said not in (QUICK, "gelu", TANH):
        what = f"config.json: the encoder's hidden_act is {shown(str(said), 40)}"
        raise UnsupportedError(what, key="hidden_act", hint=f"llama.cpp knows {QUICK}, gelu and {TANH} there")
    return () if said == QUICK or isinstance(GELU, keys.Key) else GELU(hparams)


def sizes(hparams: Hparams) -> Iterable[KeyValue]:
    """The widths and heights to which large images are brought before they are cut into tiles; LLaVA 1.5 has none.

    Raises InputError for what are no sizes.
    """
    said = hparams.values[WHOLE].get("image_grid_pinpoints")
    if said is None:
        return ()
    if not isinstance(said, list) or len(said) > MAX_SIZES or not all(map(_is_size, said)):
        what = f"config.json: image_grid_pinpoints is {shown(repr(said), 80)}, expected pairs of numbers"
        raise InputError(what, key="image_grid_pinpoints", path="config.json", hint=CONFIG_HINT)
    flat = tuple(side for height, width in said for side in (width, height))
    return (
        KeyValue("vision.image_grid_pinpoints", "i32", flat, array=True),
        KeyValue("vision.mm_patch_merge_type", "string", "spatial_unpad"),
    )


def _is_size(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(one) is int and 0 < one < 1 << 16 for one in pair)


def class_token_last(hparams: Hparams) -> str:
    """Seen with a small encoder and in the graph's source (tools/mtmd/models/llava.cpp)."""
    return (
        "it reads CLIP's class token after the patches and counts it as the first, so that a patch has the position of "
        "the one before it (github.com/ggml-org/llama.cpp/issues/25814, builds of October 2026)"
    )


EMBEDDINGS = {
    CLIP: (
        T(f"{PREFIX}embeddings.class_embedding", "v.class_embd", Role.OTHER, "hidden_size"),
        T(f"{PREFIX}embeddings.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER, KERNEL),
        T(f"{PREFIX}embeddings.position_embedding.weight", "v.position_embd.weight", Role.POSITION,
          "patches+1 hidden_size"),
        T(f"{PREFIX}pre_layrnorm.weight", "v.pre_ln.weight", Role.NORM, "hidden_size", bias="always"),
    ),
    SIGLIP_KIND: (
        T(f"{PREFIX}embeddings.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER, KERNEL, bias="always"),
        T(f"{PREFIX}embeddings.position_embedding.weight", "v.position_embd.weight", Role.POSITION,
          "patches hidden_size"),
    ),
}  # fmt: skip
LINEARS = (
    T(f"{PROJECTOR}linear_1.weight", "mm.0.weight", Role.OTHER, "projection_dim read_rows*hidden_size", bias="always"),
    T(f"{PROJECTOR}linear_2.weight", "mm.2.weight", Role.OTHER, "projection_dim projection_dim", bias="always"),
)
NEWLINE = (T("image_newline", "model.image_newline", Role.OTHER, "projection_dim"),)  # what ends a row of tiles


def llava(architecture: str, kind: str, more: tuple[T, ...] = ()) -> Tower:
    """The tower of an architecture whose encoder is of a kind."""
    return Tower(
        name="mlp",
        hf=(architecture,),
        owns=(PREFIX, PROJECTOR, "image_newline"),
        outside=(*EMBEDDINGS[kind], *LINEARS, *more),
        block=SIGLIP_BLOCK,
        source_block=f"{PREFIX}encoder.layers.{{}}.",
        defaults=CLIP_NUMBERS if kind == CLIP else SIGLIP,
        derive=(patches, selected),
        runs="run",
        keys=(
            constant("has_llava_projector", "bool", True),
            *keys.without(vision_keys("mlp", epsilon(), activation, layers_read, sizes), "vision.block_count"),
            keys.Key("vision.block_count", "u32", "run"),
        ),
        drop=(
            without_head(PREFIX),
            Drop(f"{PREFIX}post_layernorm.*", "layers are read before the last norm"),
            Drop(f"{PREFIX}embeddings.position_ids", "positions are counted at run time"),
        ),
        spellings=(UNWRAPPED,),
        text=INNER_TEXT,
        when=Condition(f"its encoder is {kind}", lambda config: _kind(config) == kind),
        assumes=(class_token_last,) if kind == CLIP else (),
    )


def _kind(config: Mapping[str, Any]) -> object:
    part = config.get("vision_config")
    return part.get("model_type") if isinstance(part, Mapping) else None


LLAVA, LLAVA_NEXT = "LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"
TOWERS = tuple(
    llava(architecture, kind, more)
    for architecture, more in ((LLAVA, ()), (LLAVA_NEXT, NEWLINE))
    for kind in EMBEDDINGS
)
