"""All files of a checkpoint for servers: rounded layers, copies, headers, small files."""

from __future__ import annotations

from quantkit.calibration.inputs import Inputs, scratch_for
from quantkit.filling.blocks import round_blocks
from quantkit.filling.coverage import check_experts, check_ranks
from quantkit.filling.layers import ServerWork, announce_resume, copy_the_rest, finish_files, round_plainly


def fill(work: ServerWork, calibration: Inputs | None, coverage: float | None = None) -> None:
    """Fill every file of the plan; what an earlier run finished is kept.

    `coverage` is the percentage of experts that the text must reach. Raises InterruptedRunError, GateError.
    """
    announce_resume(work)
    if work.plan.calibrated:
        assert calibration is not None, work.plan.recipe
        round_blocks(work, calibration, scratch_for(calibration.spec, work.job.folder))
        check_ranks(work)
        check_experts(work, coverage)
    else:
        round_plainly(work)
    copy_the_rest(work)
    finish_files(work)
