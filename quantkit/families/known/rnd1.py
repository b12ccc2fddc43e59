"""RND1: a Qwen 3 mixture that attends in both directions and fills in masked tokens."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.qwen import QWEN3_MOE
from quantkit.families.rows import OWN_CODE

RND1 = replace(
    QWEN3_MOE,
    name="rnd1",
    gguf="rnd1",
    hf=("RND1",),
    defaults={"rnd1": QWEN3_MOE.defaults["qwen3_moe"]},
    keys=(*(key for key in QWEN3_MOE.keys if key is not keys.causality), keys.both_ways),
    folds=(),
    unserved=OWN_CODE,
)

FAMILIES = (RND1,)
