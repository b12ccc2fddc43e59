"""SmolVLM and Idefics 3: a SigLIP tower, squares of whose patches become one."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.families import keys
from quantkit.families.hparams import Hparams
from quantkit.families.roles import Role
from quantkit.families.rows import T
from quantkit.families.spellings import Rename
from quantkit.families.tower import SAID, Tower
from quantkit.families.vit import F32, GELU, SIGLIP_BLOCK, epsilon, patches, root_count, siglip_outside, vision_keys

PREFIX = "vision_model."


def longest_edge(hparams: Hparams) -> int:
    """The size to which images are brought before they are cut: of the processor, else that of the tower."""
    said = hparams.values[SAID].get("size")
    size = said.get("longest_edge") if isinstance(said, Mapping) else None
    return Hparams({"longest_edge": size}).count("longest_edge") if size is not None else hparams.count("image_size")


IDEFICS3 = Tower(
    name="idefics3",
    hf=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    owns=(PREFIX, "connector."),
    outside=(
        *siglip_outside(PREFIX, stored=F32),
        T("connector.modality_projection.proj.weight", "mm.model.fc.weight", Role.OTHER,
          "projection_dim scale_factor*scale_factor*hidden_size"),
    ),
    block=SIGLIP_BLOCK,
    source_block=f"{PREFIX}encoder.layers.{{}}.",
    defaults={
        "hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-6,
    },
    derive=(root_count("scale_factor", 2), patches),
    keys=vision_keys(
        "idefics3",
        epsilon(),
        GELU,
        keys.Key("vision.projector.scale_factor", "u32", "scale_factor"),
        keys.computed("vision.preproc_image_size", "u32", longest_edge),
    ),
    text=(Rename(r"^model\.text_model\.", "model."),),
)  # fmt: skip

TOWERS = (IDEFICS3,)
