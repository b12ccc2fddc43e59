"""CogVLM: EVA-02-CLIP, its outputs projected by a gated MLP and put between two vectors that are learned."""

from __future__ import annotations

from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.tower import Tower
from quantkit.families.vit import KERNEL, epsilon, root, vision_keys

TOWER = "vision."
PATCHES, PROJECTOR = f"{TOWER}patch_embedding.", f"{TOWER}linear_proj."

COGVLM = Tower(
    name="cogvlm",
    hf=("CogVLMForCausalLM",),
    owns=(TOWER,),
    outside=(
        T(f"{PATCHES}proj.weight", "v.patch_embd.weight", Role.OTHER, KERNEL, bias="always"),
        T(f"{PATCHES}cls_embedding", "v.class_embd", Role.OTHER, "1 hidden_size"),
        T(f"{PATCHES}position_embedding.weight", "v.position_embd.weight", Role.POSITION, "num_positions hidden_size"),
        T(f"{PROJECTOR}linear_proj.weight", "mm.model.fc.weight", Role.OTHER, "projection_dim hidden_size"),
        T(f"{PROJECTOR}norm1.weight", "mm.post_fc_norm.weight", Role.NORM, "projection_dim", bias="always"),
        T(f"{PROJECTOR}gate_proj.weight", "mm.gate.weight", Role.FFN_GATE, "width projection_dim"),
        T(f"{PROJECTOR}dense_h_to_4h.weight", "mm.up.weight", Role.FFN_UP, "width projection_dim"),
        T(f"{PROJECTOR}dense_4h_to_h.weight", "mm.down.weight", Role.FFN_DOWN, "projection_dim width"),
        T(f"{TOWER}boi", "v.boi", Role.OTHER, "1 1 projection_dim"),
        T(f"{TOWER}eoi", "v.eoi", Role.OTHER, "1 1 projection_dim"),
    ),
    block=with_biases((
        T("input_layernorm.weight", "ln1.weight", Role.NORM, "hidden_size"),
        T("post_attention_layernorm.weight", "ln2.weight", Role.NORM, "hidden_size"),
        T("attention.query_key_value.weight", "attn_qkv.weight", Role.ATTN_QKV, "3*hidden_size hidden_size"),
        T("attention.dense.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
        T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    )),
    source_block=f"{TOWER}transformer.layers.{{}}.",
    defaults={
        "hidden_size": 1792, "intermediate_size": 15360, "num_hidden_layers": 63, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 490, "patch_size": 14, "num_positions": 1226, "layer_norm_eps": 1e-6,
    },
    aliases={"num_heads": "num_attention_heads", "in_channels": "num_channels"},
    derive=(lambda hparams: {"width": root("intermediate_size", 11008)(hparams)},),
    keys=vision_keys("cogvlm", epsilon()),
)  # fmt: skip

TOWERS = (COGVLM,)
