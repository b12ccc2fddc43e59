"""All files of a checkpoint for servers: rounded layers, copies, headers, small files."""

from __future__ import annotations

from quantkit.pipeline.calibration import Calibration
from quantkit.pipeline.server import ServerWork, announce_resume, copy_the_rest, finish_files, round_plainly
from quantkit.pipeline.server_blocks import round_blocks


def fill(work: ServerWork, calibration: Calibration | None) -> None:
    """Fill every file of the plan; what an earlier run finished is kept. Raises InterruptedRunError."""
    announce_resume(work)
    if work.plan.calibrated:
        assert calibration is not None, work.plan.recipe
        round_blocks(work, calibration)
    else:
        round_plainly(work)
    copy_the_rest(work)
    finish_files(work)
