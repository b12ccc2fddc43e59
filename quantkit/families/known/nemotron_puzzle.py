"""Nemotron 3 Puzzle: a Nemotron 3 in which every mixture has a width, and uses a number of experts, of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.hparams import BY_LAYER, CONFIG_HINT, Hparams
from quantkit.families.known.mamba import inner_sizes
from quantkit.families.known.nemotron_h import KEYS, LIST, MIXTURE_KEYS, NEMOTRON_H_MOE, WORDS, mixture_sizes
from quantkit.families.layers import KINDS, TRUNK, listed
from quantkit.families.rows import OWN_CODE, Drop

BLOCKS, WIDTH, USED = "block_configs", "moe_intermediate_size", "num_experts_per_tok"


def of_blocks(hparams: Hparams) -> Mapping[str, Any]:
    """The kind of every layer, and the numbers of its mixture. Raises InputError for what is no list of objects."""
    said = hparams.values.get(BLOCKS)
    if not isinstance(said, list) or not said or not all(isinstance(block, Mapping) for block in said):
        what = f"config.json: {BLOCKS} is no list of objects, one for each layer"
        raise InputError(what, key=BLOCKS, path="config.json", hint=CONFIG_HINT)
    counts = [{key: int(Hparams(block).number(key) or 0) for key in (WIDTH, USED)} for block in said]
    found = {TRUNK: len(said), LIST: [block.get("block_type") for block in said], BY_LAYER: counts}
    return {**found, USED: max(count[USED] for count in counts)}


NEMOTRON_PUZZLE = replace(
    NEMOTRON_H_MOE,
    name="nemotron_puzzle",
    hf=("NemotronHPuzzleForCausalLM",),
    when=None,
    defaults={"nemotron_h_puzzle": NEMOTRON_H_MOE.defaults["nemotron_h"]},
    keys=(
        *KEYS,
        *keys.without(MIXTURE_KEYS, "expert_used_count", "expert_feed_forward_length"),
        keys.of_blocks("feed_forward_length", "i32", WIDTH),
        keys.of_blocks("expert_feed_forward_length", "i32", WIDTH),
        keys.of_blocks("expert_used_count", "i32", USED),
    ),
    drop=(Drop("mtp.*", "llama.cpp predicts no further tokens with this architecture"),),
    spellings=NEMOTRON_H_MOE.spellings[:2],
    derive=(of_blocks, listed(LIST, WORDS), lambda hparams: {"layer_types": hparams.values[KINDS]}, inner_sizes,
            mixture_sizes),
    seen=(),
    folds=(),
    unwalked=OWN_CODE,
)  # fmt: skip

FAMILIES = (NEMOTRON_PUZZLE,)
