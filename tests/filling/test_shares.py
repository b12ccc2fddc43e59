"""Rows of GGUF tensors as rows of linears in memory: experts whose stacks lie turned are rounded with feedback, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import checkpoints
import family_table
import numpy as np
import pytest
from walks import model_of

from quantkit.calibration.walk.model import resident_block
from quantkit.calibration.walk.skeleton import Arguments
from quantkit.filling.shares import shares_of
from quantkit.plan.describe import describe_source
from quantkit.plan.gguf import plan_gguf
from quantkit.plan.reading import read_rows
from quantkit.recipes.read import load_recipe
from quantkit.recipes.recipe import FEEDBACK

STACKS = {f"blk.0.ffn_{which}_exps.weight" for which in ("gate", "up", "down")}


@pytest.mark.parametrize("name", ["gpt-oss", "llama4", "qwen3-vl-moe", "dbrx"])
def test_rows_of_turned_stacks_are_those_of_the_experts_in_memory(name: str, tmp_path: Path) -> None:
    build = family_table.build if name in family_table.TABLE else checkpoints.build
    model = model_of(build(name, tmp_path))
    source = model.checkpoint
    recipe = replace(load_recipe("q8_0"), method=FEEDBACK)
    plan = plan_gguf(describe_source(source, "gpt-2"), source, recipe)
    block = resident_block(model, 0, Arguments((), {}))
    units = [unit for unit in plan.units if unit.name in STACKS]
    assert [unit.layout is not None for unit in units] == [True] * 3
    for unit in units:
        shares = shares_of(unit, block.linears)
        assert len(shares) == unit.tensor.shape[0]
        found = [block.parameter(share.linear)[share.start : share.stop].numpy() for share in shares]
        assert np.array_equal(np.concatenate(found), read_rows(source, unit.tensor))
