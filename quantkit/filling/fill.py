"""All files of artifacts: in one read of the source those that need no whole layer, then one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantkit.errors import OF_ONE, QuantkitError
from quantkit.filling.slabs import fill_slabs, fill_the_rest
from quantkit.filling.work import Work

if TYPE_CHECKING:
    from quantkit.calibration.inputs import Inputs


def fill(works: Sequence[Work], inputs: Inputs | None, coverage: float | None = None) -> dict[int, QuantkitError]:
    """Fill every file of all plans; what an earlier run finished is kept.

    `coverage` is the percentage of experts that the text must reach. Returns, by the number of its work, what keeps
    single ones from being filled. Raises InterruptedRunError, and what is wrong with the source.
    """
    failed: dict[int, QuantkitError] = {}
    by_slabs = [number for number, work in enumerate(works) if work.plan.way == "slabs"]
    for numbers in _alike(works, by_slabs):
        found = fill_slabs([works[number] for number in numbers])
        failed |= {numbers[index]: error for index, error in found.items()}
    for number, work in enumerate(works):
        if work.plan.way != "slabs":
            try:
                _fill_layers(work, inputs, coverage)
            except OF_ONE as error:
                failed[number] = error
    return failed


def _alike(works: Sequence[Work], numbers: Sequence[int]) -> list[list[int]]:
    """The numbers of works whose files have the same tensors: codes that are carried over may bring factors."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in numbers:
        groups.setdefault(tuple(unit.name for unit in works[number].plan.units), []).append(number)
    return list(groups.values())


def _fill_layers(work: Work, inputs: Inputs | None, coverage: float | None) -> None:
    """Layers first, with inputs or without, then everything else."""
    from quantkit.filling.layers import announce_resume, copy_the_rest, round_plainly  # for checkpoints, and with text

    announce_resume(work)
    if work.plan.way == "blocks":
        from quantkit.calibration.inputs import scratch_for  # for files made with text alone
        from quantkit.filling.blocks import round_blocks
        from quantkit.filling.coverage import check_experts, check_ranks

        assert inputs is not None, work.plan.recipe
        round_blocks(work, inputs, scratch_for(inputs.spec, work.job.folder))
        check_ranks(work)
        check_experts(work, coverage)
    else:
        round_plainly(work)
    if work.plan.rest == "slabs":
        fill_the_rest(work)
        return
    copy_the_rest(work)
    work.finish()
