"""Text that is run through a model for a conversion: its samples, and importance weights of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantkit.calibration.prepare import CalibrationSpec, open_calibration_model
from quantkit.calibration.samples import Samples
from quantkit.events import Sink
from quantkit.families.model import Model
from quantkit.formats.imatrix import Imatrix
from quantkit.source import Checkpoint

if TYPE_CHECKING:
    from quantkit.calibration.blocks import BlockView
    from quantkit.calibration.statistics import Statistics


@dataclass(frozen=True)
class Calibration:
    """The text to run, as tokens, and how to run it."""

    spec: CalibrationSpec
    samples: Samples

    @property
    def digest(self) -> str:
        """Stands for everything that decides what the model computes: tokens, and the kind of device."""
        return f"{self.samples.record.digest}:{self.spec.device.partition(':')[0]}"


def importance(checkpoint: Checkpoint, model: Model, calibration: Calibration, emit: Sink) -> Imatrix:
    """Run the text through the model and sum up squares, as llama-imatrix does."""
    from quantkit.calibration.blocks import walk_blocks
    from quantkit.calibration.imatrix import to_imatrix
    from quantkit.calibration.statistics import merge

    found: list[Statistics] = []

    def visit(index: int, block: BlockView) -> Mapping[str, Any]:
        found.append(block.statistics(final=True))
        return {}

    walk_blocks(open_calibration_model(checkpoint, calibration.spec), calibration.samples, visit, emit)
    return to_imatrix(merge(found), model, ", ".join(calibration.spec.data))
