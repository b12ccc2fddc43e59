"""dots.ocr: a gated tower whose patches are normed first, squares of which become one."""

from __future__ import annotations

from quantkit.families import keys
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.tower import Tower
from quantkit.families.towers.qwen_vl import MERGED, NORMS
from quantkit.families.vit import INNER_TEXT, KERNEL, PIXELS, SILU, epsilon, vision_keys

TOWER = "vision_tower."

DOTS_OCR = Tower(
    name="dots_ocr",
    hf=("DotsOCRForCausalLM",),
    owns=(TOWER,),
    outside=(
        T(f"{TOWER}patch_embed.patchifier.proj.weight", "v.patch_embd.weight", Role.OTHER, KERNEL, bias="always"),
        T(f"{TOWER}patch_embed.patchifier.norm.weight", "v.pre_ln.weight", Role.NORM, "hidden_size"),
        T(f"{TOWER}post_trunk_norm.weight", "mm.post_norm.weight", Role.NORM, "hidden_size"),
        *with_biases((
            T(f"{TOWER}merger.ln_q.weight", "mm.input_norm.weight", Role.NORM, "hidden_size"),
            T(f"{TOWER}merger.mlp.0.weight", "mm.0.weight", Role.OTHER, f"{MERGED} {MERGED}"),
            T(f"{TOWER}merger.mlp.2.weight", "mm.2.weight", Role.OTHER, f"projection_dim {MERGED}"),
        )),
    ),
    block=(
        *NORMS,
        T("attn.qkv.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
        T("attn.proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
        T("mlp.fc1.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size"),
        T("mlp.fc3.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ),
    source_block=f"{TOWER}blocks.{{}}.",
    defaults={
        "hidden_size": 1536, "intermediate_size": 4224, "num_hidden_layers": 42, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 0, "patch_size": 14, "spatial_merge_size": 2, "rms_norm_eps": 1e-5,
    },
    derive=(lambda hparams: {"image_size": 0},),
    keys=vision_keys(
        "dots_ocr", epsilon("rms_norm_eps"), SILU, *PIXELS,
        keys.Key("vision.projector.scale_factor", "u32", "spatial_merge_size"),
    ),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (DOTS_OCR,)
