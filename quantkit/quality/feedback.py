"""What feedback of errors gained: beside plain errors of weights, which it makes larger on purpose.

GPTQ moves the error of a weight to those that follow, so that outputs stay near. Compared weight by weight its layers
are further from the source than rounded ones; what it minimizes is the loss on the calibration data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

from quantkit.methods import encodes, method_names
from quantkit.records import record

MOST = 1e300


@record
class Gain:
    """The loss of `layers` layers relative to that of rounding to nearest: geometric mean, and the largest one."""

    layers: int
    ratio: float
    worst: float

    def words(self) -> str:
        """For people: "with feedback 0.38 of rounding's loss on the calibration data"."""
        return f"with feedback {self.ratio:.2f} of the loss of rounding on the calibration data"

    def as_json(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "loss_to_rounding": round(self.ratio, 4),
            "worst_loss_to_rounding": round(self.worst, 4),
        }


def gain(layers: Sequence[Mapping[str, Any]]) -> Gain | None:
    """The gain that the manifest's facts on layers claim, None where no method noted both losses.

    What is no number, or no loss, is passed over: facts come from a file.
    """
    logs = [log(loss / rounding) for loss, rounding in map(_losses, layers) if loss > 0 and rounding > 0]
    if not logs:
        return None
    return Gain(len(logs), exp(sum(logs) / len(logs)), exp(max(logs)))


def _losses(facts: Mapping[str, Any]) -> tuple[float, float]:
    """The loss of a layer and that of rounding it; zeros where they are not known."""
    name = facts.get("method") if isinstance(facts, Mapping) else None
    if not isinstance(name, str) or name not in method_names() or encodes(name):
        return 0.0, 0.0
    loss, rounding = _number(facts.get("loss")), _number(facts.get("rounding_loss"))
    return loss, rounding


def _number(value: object) -> float:
    """A finite positive number, else 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MOST:
        return 0.0
    return float(value)
