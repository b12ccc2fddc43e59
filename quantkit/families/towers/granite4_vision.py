"""Granite 4 Vision: a SigLIP tower, and several window Q-Formers that feed layers of the language model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import CONFIG_HINT, Hparams, nested_part, part_of
from quantkit.families.layers import Layers, block_count
from quantkit.families.roles import Role
from quantkit.families.rows import Stack, T, at, with_biases
from quantkit.families.tower import WHOLE, Tower
from quantkit.families.towers.llava import sizes
from quantkit.families.vit import (
    GELU,
    INNER_TEXT,
    SIGLIP,
    SIGLIP_BLOCK,
    UNWRAPPED,
    epsilon,
    patches,
    siglip_outside,
    vision_keys,
    without_head,
)
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

PREFIX, LAYERWISE, SPATIAL = "vision_tower.", "layerwise_projectors.", "spatial_projectors."
BY_LAYERS, BY_PLACE = "layerwise_at", "spatial_at"  # the place of each projector among all
FORMER = "qformer.encoder.layer.0."


def projectors(hparams: Hparams) -> Mapping[str, Any]:
    """All projectors in the order of the layers that they feed: which layer of the tower each reads.

    Raises InputError for what does not say it.
    """
    config = hparams.values[WHOLE]
    text = Hparams(nested_part(config) or {}).count("num_hidden_layers")
    layers = hparams.count("num_hidden_layers")
    mapped = config.get("deepstack_layer_map") or []
    targets = config.get("spatial_target_layers") or []
    last = config.get("spatial_vision_layer", -1)
    if not isinstance(mapped, list) or not all(_is_list(pair) and len(pair) == 2 for pair in mapped):
        raise _bad("deepstack_layer_map", mapped)
    if not _is_list([last]) or not _is_list(targets):
        raise _bad("spatial_target_layers", [last, targets])
    found = [
        (read + layers * (read < 0), fed + text * (fed < 0), BY_LAYERS, number)
        for number, (read, fed) in enumerate(sorted(mapped))
    ]
    found += [(last + layers * (last < 0), fed, BY_PLACE, number) for number, fed in enumerate(targets)]
    found.sort(key=lambda entry: entry[1])
    places = {kind: sorted((number, at) for at, (_, _, of, number) in enumerate(found) if of == kind)
              for kind in (BY_LAYERS, BY_PLACE)}  # fmt: skip
    query, window = _sides(config.get("downsample_rate"))
    return {
        "read": tuple(entry[0] for entry in found),
        "offsets": tuple(entry[3] if entry[2] == BY_PLACE else -1 for entry in found),
        **{kind: [at for _, at in listed] for kind, listed in places.items()},
        "query_side": query, "window_side": window,
        "former": (part_of(config, "qformer_config") or {}).get("intermediate_size", 3072),
    }  # fmt: skip


def _is_list(value: object) -> bool:
    """Whether it is a list of numbers of layers, from either end."""
    return isinstance(value, list) and all(type(one) is int and abs(one) < 1 << 14 for one in value)


def _bad(key: str, value: object) -> InputError:
    what = f"config.json: {key} is {shown(repr(value), 80)}, expected numbers of layers"
    return InputError(what, key=key, path="config.json", hint=CONFIG_HINT)


def _sides(rate: object) -> tuple[int, int]:
    """The sides of queries and of the window that they read: "4/8"."""
    parts = rate.split("/") if isinstance(rate, str) else []
    if len(parts) != 2 or not all(part.isdecimal() and int(part[:5]) > 0 for part in parts):
        what = f'config.json: downsample_rate is {shown(repr(rate), 40)}, expected two sides, as "4/8"'
        raise InputError(what, key="downsample_rate", path="config.json", hint=CONFIG_HINT)
    return int(parts[0][:5]), int(parts[1][:5])


def listed_in(key: str) -> Layers:
    """Among the places of one kind of projectors."""
    return lambda hparams, place: place in hparams.values[key]


def flows(hparams: Hparams) -> Iterable[KeyValue]:
    """Which layers are read, and which quarter of the patches each projector takes; -1 for all."""
    return (
        KeyValue("vision.feature_layer", "i32", hparams.values["read"], array=True),
        KeyValue("vision.projector.spatial_offsets", "i32", hparams.values["offsets"], array=True),
    )


def resolutions(hparams: Hparams) -> Iterable[KeyValue]:
    """Sizes of images as of LLaVA 1.6."""
    return tuple(entry for entry in sizes(hparams) if entry.array)


def attention(source: str, target: str) -> tuple[T, ...]:
    """One of both attentions of a Q-Former."""
    square = "hidden_size hidden_size"
    return (
        T(f"{FORMER}{source}.attention.query.weight", f"{target}_q.weight", Role.ATTN_Q, square),
        T(f"{FORMER}{source}.attention.key.weight", f"{target}_k.weight", Role.ATTN_K, square),
        T(f"{FORMER}{source}.attention.value.weight", f"{target}_v.weight", Role.ATTN_V, square),
        T(f"{FORMER}{source}.output.dense.weight", f"{target}_out.weight", Role.ATTN_OUTPUT, square),
        T(f"{FORMER}{source}.output.LayerNorm.weight", f"{target}_norm.weight", Role.NORM, "hidden_size"),
    )


PROJECTOR = (
    T("query", "query", Role.OTHER, "1 query_side*query_side hidden_size"),
    T("image_positions", "img_pos", Role.OTHER, "1 window_side*window_side hidden_size"),
    *with_biases((
        T("norm.weight", "norm.weight", Role.NORM, "hidden_size"),
        T("qformer.layernorm.weight", "post_norm.weight", Role.NORM, "hidden_size"),
        T("out_linear.weight", "linear.weight", Role.OTHER, "projection_dim hidden_size"),
        *attention("attention", "self_attn"),
        *attention("crossattention", "cross_attn"),
        T(f"{FORMER}intermediate_query.dense.weight", "ffn_up.weight", Role.FFN_UP, "former hidden_size"),
        T(f"{FORMER}output_query.dense.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size former"),
        T(f"{FORMER}output_query.LayerNorm.weight", "ffn_norm.weight", Role.NORM, "hidden_size"),
    )),
)  # fmt: skip
GRANITE4 = Tower(
    name="granite4_vision",
    hf=("Granite4VisionForConditionalGeneration",),
    owns=(PREFIX, LAYERWISE, SPATIAL, "image_newline"),
    outside=(
        *siglip_outside(PREFIX, stored=None),
        T("image_newline", "v.image_newline", Role.OTHER, "projection_dim", optional=True),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    stacks=(
        Stack(f"{LAYERWISE}{{}}.", "v.proj_blk.{}.", block_count, at(listed_in(BY_LAYERS), PROJECTOR)),
        Stack(f"{SPATIAL}{{}}.", "v.proj_blk.{}.", block_count, at(listed_in(BY_PLACE), PROJECTOR)),
    ),
    numbered=((LAYERWISE, BY_LAYERS), (SPATIAL, BY_PLACE)),
    defaults=SIGLIP,
    derive=(patches, projectors),
    keys=vision_keys(
        "granite4_vision",
        epsilon(),
        GELU,
        keys.Key("vision.preproc_image_size", "u32", "image_size"),
        keys.Key("vision.projector.query_side", "u32", "query_side"),
        keys.Key("vision.projector.window_side", "u32", "window_side"),
        flows,
        resolutions,
    ),
    drop=(without_head(PREFIX),),
    spellings=(UNWRAPPED,),
    text=INNER_TEXT,
)

TOWERS = (GRANITE4,)
