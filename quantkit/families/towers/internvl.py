"""InternVL and Intern-S1: InternViT, whose layers scale what they add, and a projector behind a pixel shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import PRESENT, T
from quantkit.families.spellings import Rename
from quantkit.families.tower import WHOLE, Tower
from quantkit.families.vit import (
    INNER_TEXT,
    KERNEL,
    activation,
    epsilon,
    patches,
    side_merged,
    split_attention,
    vision_keys,
)

TOWER, PROJECTOR = "vision_model.", "mlp1."
# as transformers has it -> as it was published
OUTSIDE = {
    r"^vision_tower\.embeddings\.cls_token$": f"{TOWER}embeddings.class_embedding",
    r"^vision_tower\.embeddings\.patch_embeddings\.projection\.": f"{TOWER}embeddings.patch_embedding.",
    r"^vision_tower\.embeddings\.position_embeddings$": f"{TOWER}embeddings.position_embedding",
    r"^vision_tower\.encoder\.layer\.": f"{TOWER}encoder.layers.",
    r"^multi_modal_projector\.layer_norm\.": f"{PROJECTOR}0.",
    r"^multi_modal_projector\.linear_1\.": f"{PROJECTOR}1.",
    r"^multi_modal_projector\.linear_2\.": f"{PROJECTOR}3.",
}
INSIDE = {
    r"\.layernorm_before\.": ".norm1.", r"\.layernorm_after\.": ".norm2.",
    r"\.attention\.projection_layer\.": ".attn.proj.",
    r"\.attention\.([qk])_norm\.": r".attn.\1_norm.", r"\.attention\.([qkv])_proj\.": r".attn.\1_proj.",
    r"\.lambda_([12])$": r".ls\1",
}  # fmt: skip


def square(hparams: Hparams) -> Mapping[str, Any]:
    """Sizes that may be said for both sides, of which llama.cpp knows one."""
    found = {}
    for key in ("image_size", "patch_size"):
        value = hparams.values[key]
        found[key] = value[0] if isinstance(value, list) and value else value
    return found


def shuffled(hparams: Hparams) -> Mapping[str, Any]:
    """The side of the squares of patches that become one. Raises InputError without it."""
    return {"side": side_merged("downsample_ratio", Hparams(hparams.values[WHOLE]))}


def tiles(key: str) -> Any:
    """A number of tiles, where config.json has one."""

    def value(hparams: Hparams) -> Any:
        return hparams.values[WHOLE].get(key) or None

    return value


INTERNVL = Tower(
    name="internvl",
    hf=("InternVisionModel", "InternVLChatModel", "InternVLForConditionalGeneration",
        "InternS1ForConditionalGeneration"),
    owns=(TOWER, PROJECTOR, "vision_tower.", "multi_modal_projector."),
    outside=(
        T(f"{TOWER}embeddings.class_embedding", "v.class_embd", Role.OTHER, "1 1 hidden_size"),
        T(f"{TOWER}embeddings.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER, KERNEL, bias="always"),
        T(f"{TOWER}embeddings.position_embedding", "v.position_embd.weight", Role.POSITION, "1 patches+1 hidden_size"),
        T(f"{PROJECTOR}0.weight", "mm.model.mlp.0.weight", Role.NORM, "side*side*hidden_size", bias="always"),
        T(f"{PROJECTOR}1.weight", "mm.model.mlp.1.weight", Role.OTHER, "projection_dim side*side*hidden_size",
          bias="always"),
        T(f"{PROJECTOR}3.weight", "mm.model.mlp.3.weight", Role.OTHER, "projection_dim projection_dim", bias="always"),
    ),
    block=(
        T("norm1.weight", "ln1.weight", Role.NORM, "hidden_size", bias=PRESENT),
        T("norm2.weight", "ln2.weight", Role.NORM, "hidden_size", bias=PRESENT),
        *split_attention("attn.qkv.weight", PRESENT),
        T("attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "hidden_size hidden_size", bias=PRESENT),
        T("attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "hidden_size hidden_size", bias=PRESENT),
        T("attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "hidden_size hidden_size", bias=PRESENT),
        T("attn.q_norm.weight", "attn_q_norm.weight", Role.NORM, "hidden_size", optional=True),
        T("attn.k_norm.weight", "attn_k_norm.weight", Role.NORM, "hidden_size", optional=True),
        T("attn.proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size", bias="always"),
        T("ls1", "ls1.weight", Role.OTHER, "hidden_size"),
        T("ls2", "ls2.weight", Role.OTHER, "hidden_size"),
        T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size", bias="always"),
        T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size", bias="always"),
    ),
    source_block=f"{TOWER}encoder.layers.{{}}.",
    defaults={
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 448, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    },
    derive=(square, patches, shuffled),
    keys=vision_keys(
        "internvl",
        epsilon(),
        activation,
        keys.Key("vision.projector.scale_factor", "u32", "side"),
        keys.computed("vision.preproc_min_tiles", "u32", tiles("min_dynamic_patch")),
        keys.computed("vision.preproc_max_tiles", "u32", tiles("max_dynamic_patch")),
    ),
    spellings=tuple(Rename(pattern, to) for pattern, to in {**OUTSIDE, **INSIDE}.items()),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (INTERNVL,)
