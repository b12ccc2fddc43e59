"""quantkit: turn a Hugging Face checkpoint into a quantized model that provably runs.

The names below are the public API; the command line uses nothing else. They are imported when first used, so that
`import quantkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from quantkit.calibration.prepare import CalibrationSpec
    from quantkit.pipeline.calibrate import calibrate
    from quantkit.pipeline.calibrate_plan import CalibrateRequest, plan_calibration
    from quantkit.pipeline.catalogue import list_recipes, schemes
    from quantkit.pipeline.consumers import consumer_verdicts, verdict_line
    from quantkit.pipeline.convert import Output, convert
    from quantkit.pipeline.convert import quantize_to_work as quantize
    from quantkit.pipeline.doctor import doctor
    from quantkit.pipeline.estimate import estimate, plan_json
    from quantkit.pipeline.fit import Candidate, candidates, largest_fitting
    from quantkit.pipeline.inspect import inspect
    from quantkit.pipeline.pack import pack, packed_names
    from quantkit.pipeline.prepare import prepare
    from quantkit.pipeline.request import Request
    from quantkit.pipeline.verify import VerifyOptions, verify
    from quantkit.plan import Plan
    from quantkit.recipe import recipe_text
    from quantkit.report.devices import memory_for
    from quantkit.report.sizes import architecture

_EXPORTS = {
    "CalibrateRequest": ("pipeline.calibrate_plan", "CalibrateRequest"),
    "CalibrationSpec": ("calibration.prepare", "CalibrationSpec"),
    "Output": ("pipeline.convert", "Output"),
    "Plan": ("plan", "Plan"),
    "Request": ("pipeline.request", "Request"),
    "VerifyOptions": ("pipeline.verify", "VerifyOptions"),
    "Candidate": ("pipeline.fit", "Candidate"),
    "candidates": ("pipeline.fit", "candidates"),
    "largest_fitting": ("pipeline.fit", "largest_fitting"),
    "memory_for": ("report.devices", "memory_for"),
    "architecture": ("report.sizes", "architecture"),
    "calibrate": ("pipeline.calibrate", "calibrate"),
    "convert": ("pipeline.convert", "convert"),
    "consumer_verdicts": ("pipeline.consumers", "consumer_verdicts"),
    "doctor": ("pipeline.doctor", "doctor"),
    "estimate": ("pipeline.estimate", "estimate"),
    "inspect": ("pipeline.inspect", "inspect"),
    "list_recipes": ("pipeline.catalogue", "list_recipes"),
    "pack": ("pipeline.pack", "pack"),
    "packed_names": ("pipeline.pack", "packed_names"),
    "plan_calibration": ("pipeline.calibrate_plan", "plan_calibration"),
    "plan_json": ("pipeline.estimate", "plan_json"),
    "prepare": ("pipeline.prepare", "prepare"),
    "quantize": ("pipeline.convert", "quantize_to_work"),
    "recipe_text": ("recipe", "recipe_text"),
    "schemes": ("pipeline.catalogue", "schemes"),
    "verdict_line": ("pipeline.consumers", "verdict_line"),
    "verify": ("pipeline.verify", "verify"),
}

__all__ = [
    "CalibrateRequest",
    "CalibrationSpec",
    "Candidate",
    "Output",
    "Plan",
    "Request",
    "VerifyOptions",
    "__version__",
    "architecture",
    "calibrate",
    "candidates",
    "consumer_verdicts",
    "convert",
    "doctor",
    "estimate",
    "inspect",
    "largest_fitting",
    "list_recipes",
    "memory_for",
    "pack",
    "packed_names",
    "plan_calibration",
    "plan_json",
    "prepare",
    "quantize",
    "recipe_text",
    "schemes",
    "verdict_line",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(import_module(f"quantkit.{module}"), attribute)
