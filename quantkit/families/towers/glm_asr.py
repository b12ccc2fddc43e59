"""GLM-ASR: the encoder of Whisper, several of whose frames become one before two linears."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.layouts import line, rows
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.towers.whisper import PREFIX, QWEN2A, WHISPER, audio_keys
from quantkit.families.vit import INNER_TEXT, root_count

ADAPTER = "audio_encoder."
BOTH_ENDS = f"{ADAPTER}audio_bos_eos_token.weight"


GLM_ASR = replace(
    QWEN2A,
    name="glma",
    hf=("GlmasrModel",),
    owns=(ADAPTER,),
    outside=(
        *(replace(t, optional=t.role is Role.NORM) for t in WHISPER),
        *with_biases((
            T(f"{ADAPTER}layer_norm.weight", "mm.a.norm_pre.weight", Role.NORM, "hidden_size"),
            T(f"{ADAPTER}adapting.0.weight", "mm.a.mlp.1.weight", Role.OTHER,
              "2*projection_dim merge_factor*hidden_size"),
            T(f"{ADAPTER}adapting.2.weight", "mm.a.mlp.2.weight", Role.OTHER, "projection_dim 2*projection_dim"),
        )),
        T(BOTH_ENDS, "v.boi", Role.OTHER, "2 projection_dim", rows("0", "1") >> line),
        T(BOTH_ENDS, "v.eoi", Role.OTHER, "2 projection_dim", rows("1", "2") >> line),
    ),
    part="whisper_config",
    derive=(root_count("merge_factor", 4),),
    keys=audio_keys("glma", keys.Key("audio.projector.stack_factor", "u32", "merge_factor")),
    drop=(Drop(f"{ADAPTER}proj.*", "it is not used"),),
    spellings=(Rename(r"^audio_encoder\.whisper\.", PREFIX),),
    text=INNER_TEXT,
)  # fmt: skip

TOWERS = (GLM_ASR,)
