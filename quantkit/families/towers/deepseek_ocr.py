"""DeepSeek-OCR and Unlimited-OCR: SAM, whose patches CLIP reads, and one linear over what both see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import BY_LAYER, CONFIG_HINT, LAYERS, Hparams, part_of
from quantkit.families.layouts import lead
from quantkit.families.roles import Role
from quantkit.families.rows import Stack, T, with_biases
from quantkit.families.tower import SAID, Tower, constant, layers_listed
from quantkit.families.towers.gemma3 import pooled
from quantkit.families.vit import F32, GELU, INNER_TEXT, KERNEL, epsilon, patches, vision_keys

SAM, CLIP = "sam_model.", "vision_model."
WINDOW = 14  # patches of a side that layers of SAM attend to, but for some
PATCH = 16  # of SAM
TILES = {  # the most of an image
    "DeepseekOCRForCausalLM": 9, "UnlimitedOCRForCausalLM": 32, "UnlimitedOcrForConditionalGeneration": 32,
}  # fmt: skip
CLIP_PART, SAM_PART = "width.clip-l-14-224", "width.sam_vit_b"
SAVED = {CLIP_PART: "encoder_config", SAM_PART: "sam_config"}  # what transformers calls these parts, and their numbers
NAMES = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}


def said_of(hparams: Hparams, path: str) -> Hparams:
    """The numbers of a tower, as published or as transformers saves them. Raises InputError where there are none."""
    part = part_of(hparams.values, path) or part_of(hparams.values, SAVED[path])
    if part is None:
        what = f"config.json: vision_config.{path} is missing or no object"
        raise InputError(what, key=path, path="config.json", hint=CONFIG_HINT)
    return Hparams({NAMES.get(key, key): value for key, value in part.items()})


def numbers_of_sam(hparams: Hparams, third: int) -> Mapping[str, Any]:
    """Those of SAM, with "s_" before them; `third` is how wide what it gives is."""
    sam = said_of(hparams, SAM_PART)
    width, heads = sam.count("width"), sam.count("heads")
    named = Hparams({**sam.values, LAYERS: sam.values.get("layers")})
    grid, layers = hparams.count("image_size") // PATCH, named.count(LAYERS)
    everywhere = layers_listed(named, "global_attn_indexes")
    return {
        "s_width": width, "s_heads": heads, "s_layers": layers, "s_grid": grid, "s_head": width // heads,
        "s_first": 256, "s_second": 512, "s_third": third,
        BY_LAYER: tuple({"s_reach": 2 * (grid if n in everywhere else WINDOW) - 1} for n in range(layers)),
    }  # fmt: skip


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Those of both towers. Raises InputError for a part that is missing."""
    clip = said_of(hparams, CLIP_PART)
    return {
        "hidden_size": clip.count("width"),
        "num_hidden_layers": clip.count("layers"),
        "num_attention_heads": clip.count("heads"),
        "patch_size": clip.count("patch_size"),
        "image_size": clip.count("image_size"),
        "intermediate_size": 4 * clip.count("heads"),  # as the reference writes it, which nothing reads
        **numbers_of_sam(hparams, 1024),
    }


def layers_of_sam(hparams: Hparams) -> int:
    return hparams.count("s_layers")


def scale(hparams: Hparams) -> int | None:
    """As of Gemma 3, which the reference takes for it."""
    said = hparams.values[SAID].get("image_seq_length", 256)
    return pooled(Hparams({**hparams.values, SAID: {"image_seq_length": said}}))


def keys_of_sam(tiles: int) -> tuple[keys.KeyRow, ...]:
    """The keys of SAM, and of images that are cut into at most so many tiles."""
    return (
        epsilon(),
        GELU,
        keys.computed("vision.projector.scale_factor", "u32", scale),
        keys.Key("vision.window_size", "u32", "window_size"),
        constant("vision.preproc_min_tiles", "u32", 2),
        constant("vision.preproc_max_tiles", "u32", tiles),
        keys.Key("vision.sam.block_count", "u32", "s_layers"),
        keys.Key("vision.sam.embedding_length", "u32", "s_width"),
        keys.Key("vision.sam.head_count", "u32", "s_heads"),
    )


def ocr(architecture: str, tiles: int) -> Tower:
    """The tower of one of both architectures."""
    return Tower(
        name="deepseekocr",
        hf=(architecture,),
        owns=(SAM, CLIP, "projector.", "image_newline", "view_seperator"),
        outside=OUTSIDE,
        block=BLOCK,
        source_block=f"{CLIP}transformer.layers.{{}}.",
        stacks=SAM_STACK,
        defaults=DEFAULTS,
        derive=(numbers, patches),
        keys=vision_keys("deepseekocr", *keys_of_sam(tiles)),
        text=INNER_TEXT,
    )


SAM_OUTSIDE = (
    T(f"{SAM}pos_embed", "v.sam.pos_embd.weight", Role.OTHER, "1 s_grid s_grid s_width", stored=F32),
    T(f"{SAM}patch_embed.proj.weight", "v.sam.patch_embd.weight", Role.OTHER, f"s_width num_channels {PATCH} {PATCH}",
      bias="always"),
    T(f"{SAM}neck.0.weight", "v.sam.neck.0.weight", Role.OTHER, "s_first s_width 1 1", stored=F32),
    T(f"{SAM}neck.1.weight", "v.sam.neck.1.weight", Role.NORM, "s_first", bias="always"),
    T(f"{SAM}neck.2.weight", "v.sam.neck.2.weight", Role.OTHER, "s_first s_first 3 3", stored=F32),
    T(f"{SAM}neck.3.weight", "v.sam.neck.3.weight", Role.NORM, "s_first", bias="always"),
    T(f"{SAM}net_2.weight", "v.sam.net_2.weight", Role.OTHER, "s_second s_first 3 3", stored=F32),
    T(f"{SAM}net_3.weight", "v.sam.net_3.weight", Role.OTHER, "s_third s_second 3 3", stored=F32),
)  # fmt: skip
OUTSIDE = (
    *SAM_OUTSIDE,
    T(f"{CLIP}embeddings.class_embedding", "v.class_embd", Role.OTHER, "hidden_size"),
    T(f"{CLIP}embeddings.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER, KERNEL, stored=F32),
    T(f"{CLIP}embeddings.position_embedding.weight", "v.position_embd.weight", Role.POSITION,
      "patches+1 hidden_size"),
    T(f"{CLIP}pre_layrnorm.weight", "v.pre_ln.weight", Role.NORM, "hidden_size", bias="always"),
    T("projector.layers.weight", "mm.model.fc.weight", Role.OTHER, "projection_dim hidden_size+s_third",
      bias="always"),
    T("image_newline", "v.image_newline", Role.OTHER, "projection_dim"),
    T("view_seperator", "v.view_seperator", Role.OTHER, "projection_dim", lead),
)  # fmt: skip
BLOCK = with_biases((
    T("layer_norm1.weight", "ln1.weight", Role.NORM, "hidden_size"),
    T("layer_norm2.weight", "ln2.weight", Role.NORM, "hidden_size"),
    T("self_attn.qkv_proj.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
    T("self_attn.out_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
    T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "4*hidden_size hidden_size"),
    T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size 4*hidden_size"),
))  # fmt: skip
SAM_BLOCK = (
    *with_biases((
        T("norm1.weight", "pre_ln.weight", Role.NORM, "s_width"),
        T("norm2.weight", "post_ln.weight", Role.NORM, "s_width"),
        T("attn.qkv.weight", "attn.qkv.weight", Role.ATTN_QKV, "3*s_width s_width"),
        T("attn.proj.weight", "attn.out.weight", Role.ATTN_OUTPUT, "s_width s_width"),
        T("mlp.lin1.weight", "mlp.lin1.weight", Role.FFN_UP, "4*s_width s_width"),
        T("mlp.lin2.weight", "mlp.lin2.weight", Role.FFN_DOWN, "s_width 4*s_width"),
    )),
    T("attn.rel_pos_h", "attn.pos_h.weight", Role.OTHER, "s_reach s_head", stored=F32),
    T("attn.rel_pos_w", "attn.pos_w.weight", Role.OTHER, "s_reach s_head", stored=F32),
)  # fmt: skip
SAM_STACK = (Stack(f"{SAM}blocks.{{}}.", "v.sam.blk.{}.", layers_of_sam, SAM_BLOCK),)
DEFAULTS: Mapping[str, Any] = {"image_size": 1024, "num_channels": 3, "layer_norm_eps": 1e-6, "window_size": WINDOW}

TOWERS = tuple(ocr(architecture, tiles) for architecture, tiles in TILES.items())
