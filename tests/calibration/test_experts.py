"""Experts that too few tokens reached, and the gate on them that calibrations and conversions share."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import family_table
import pytest
from walks import model_of

from quantkit.calibration.experts import named_rare, rare_experts, reached_percent, require_reached
from quantkit.calibration.walk.known import NO_ARGUMENTS
from quantkit.calibration.walk.model import resident_block
from quantkit.errors import GateError
from quantkit.families.names import expert_of


def test_rare_is_below_a_tenth_of_an_even_share() -> None:
    assert rare_experts([100, 4, 5, 91]) == [1]  # an even share is 50
    assert named_rare({"a.experts": [100, 0, 20]}) == ("a.experts.1",)
    assert rare_experts([0, 0]) == [0, 1]


def test_percent_has_two_places_and_is_100_without_experts() -> None:
    assert [reached_percent(*each) for each in ((0, 0), (1, 3), (3, 3))] == [100.0, 66.67, 0.0]


@pytest.mark.parametrize("name", ["mixtral-4x1M", "hunyuan-moe", "dbrx", "gemma4-moe"])
def test_memory_is_counted_for_all_experts_that_a_token_is_given_to(name: str, tmp_path: Path) -> None:
    """A number, a list of them, or a number under another name: two experts in each of these."""
    model = model_of((family_table if name in family_table.TABLE else checkpoints).build(name, tmp_path))
    block = resident_block(model, 0, NO_ARGUMENTS)
    width = {0: 0, None: 0}
    for linear in block.linears.values():
        expert = expert_of(linear.name)
        width[expert] = width.get(expert, 0) + linear.rows + linear.cols
    assert model.token_bytes(block, 0) == 4 * (width[None] + 2 * width[0])


@pytest.mark.parametrize("data", ["--data", "--calib text"])
def test_the_gate_compares_the_percentage_that_records_say(data: str) -> None:
    require_reached(["e.0"], 3, 66.67, data)
    require_reached(["e.0"], 3, None, data)
    require_reached([], 0, 100, data)
    with pytest.raises(GateError, match=r"66\.7 % of 3 experts saw enough tokens, 66\.68 % were asked for.*e\.0") as e:
        require_reached(["e.0"], 3, 66.68, data)
    assert e.value.hint == f"give more or more varied {data} or --samples, or a lower --require-coverage"
