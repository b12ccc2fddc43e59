"""MERaLiON 2: the encoder of Whisper, many of whose frames become one before a gated projector."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.expressions import ANY
from quantkit.families.roles import Role
from quantkit.families.rows import T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.towers.whisper import PREFIX, QWEN2A, WHISPER, audio_keys
from quantkit.families.vit import root_count

ADAPTER = "speech_audio_adapter."
STACKED = "speech_mlp_scale_factor"  # how many frames become one


MERALION = replace(
    QWEN2A,
    name="meralion",
    hf=("MERaLiON2ForConditionalGeneration",),
    owns=("speech_encoder.", "ln_speech.", ADAPTER),
    outside=(
        *WHISPER,
        *with_biases((
            T("ln_speech.weight", "mm.a.norm_pre.weight", Role.NORM, f"{STACKED}*hidden_size"),
            T(f"{ADAPTER}mlp_adapter.0.weight", "mm.a.mlp.0.weight", Role.OTHER, ANY),
            T(f"{ADAPTER}gate_proj.weight", "mm.a.mlp.1.weight", Role.OTHER, ANY),
            T(f"{ADAPTER}pool_proj.weight", "mm.a.mlp.2.weight", Role.OTHER, ANY),
            T(f"{ADAPTER}out_proj.weight", "mm.a.mlp.3.weight", Role.OTHER, ANY),
        )),
    ),
    part="speech_config",
    derive=(root_count(STACKED, 15),),
    keys=audio_keys("meralion", keys.Key("audio.projector.stack_factor", "u32", STACKED)),
    spellings=(Rename(r"^speech_encoder\.", PREFIX),),
    text=(Rename(r"^text_decoder\.", ""),),
)  # fmt: skip

TOWERS = (MERALION,)
