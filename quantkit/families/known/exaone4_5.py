"""EXAONE 4.5: the language model is an EXAONE 4 with a block that predicts one token more."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.exaone4 import EXAONE4
from quantkit.families.known.glm4_moe import FURTHER, NEXT, SEEN
from quantkit.families.known.qwen3_next import SPELLINGS, VISION

EXAONE4_5 = replace(
    EXAONE4,
    name="exaone4_5",
    hf=("Exaone4_5_ForConditionalGeneration",),
    defaults={"exaone4_5_text": EXAONE4.defaults["exaone4"]},
    block=(*EXAONE4.block, *NEXT),
    keys=(*EXAONE4.keys, keys.Key("nextn_predict_layers", "u32", FURTHER, nonzero=True)),
    drop=(*EXAONE4.drop, *VISION),
    strip="language_model.",
    spellings=SPELLINGS,
    seen=(SEEN,),
)

FAMILIES = (EXAONE4_5,)
