"""quantkit: turn a Hugging Face checkpoint into a quantized model that provably runs.

The names below are the public API; the command line uses nothing else. They are imported when first used, so that
`import quantkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from quantkit.version import __version__

if TYPE_CHECKING:
    from quantkit.calibration.text.spec import CalibrationSpec
    from quantkit.consumers import Verdict
    from quantkit.errors import (
        BatchError,
        BusyError,
        ExistsError,
        GateError,
        InputError,
        InterruptedRunError,
        NetworkError,
        NonFiniteError,
        NotWritableError,
        NumericError,
        QuantkitError,
        RecipeError,
        ResourceError,
        UnsupportedError,
        UsageError,
        VerificationError,
    )
    from quantkit.events import (
        Event,
        Published,
        Resumed,
        RunFailed,
        RunFinished,
        RunStarted,
        Sink,
        StageFinished,
        StageStarted,
        TensorProgress,
        Warned,
    )
    from quantkit.pipeline.calibrate import Calibrated, calibrate
    from quantkit.pipeline.calibrate_plan import CalibrateRequest, plan_calibration
    from quantkit.pipeline.catalogue import list_recipes, schemes
    from quantkit.pipeline.consumers import consumer_verdicts, verdict_line
    from quantkit.pipeline.convert import Output, convert
    from quantkit.pipeline.convert import quantize_to_work as quantize
    from quantkit.pipeline.doctor import Finding, doctor
    from quantkit.pipeline.estimate import Estimate, estimate, plan_json
    from quantkit.pipeline.fit import Candidate, candidates, largest_fitting
    from quantkit.pipeline.inspect import Inspection, inspect
    from quantkit.pipeline.pack import Artifact, pack, packed_names
    from quantkit.pipeline.prepare import Prepared, prepare
    from quantkit.pipeline.request import Request
    from quantkit.pipeline.verify import verify
    from quantkit.plan.checkpoint import ServerPlan
    from quantkit.plan.gguf import Plan
    from quantkit.plan.sizes import ServingMemory, SizeReport, architecture
    from quantkit.quality.checks.base import Check, Verification, VerifyOptions
    from quantkit.recipes.read import recipe_text
    from quantkit.report.devices import memory_for
    from quantkit.report.manifest import Manifest
    from quantkit.report.next_steps import NextStep
    from quantkit.schemas import json_schema, schema_names

_MODULES = {  # name: module; the name within, where it is another
    "Artifact": "pipeline.pack",
    "BatchError": "errors",
    "BusyError": "errors",
    "CalibrateRequest": "pipeline.calibrate_plan",
    "Calibrated": "pipeline.calibrate",
    "CalibrationSpec": "calibration.text.spec",
    "Candidate": "pipeline.fit",
    "Check": "quality.checks.base",
    "Estimate": "pipeline.estimate",
    "Event": "events",
    "ExistsError": "errors",
    "Finding": "pipeline.doctor",
    "GateError": "errors",
    "InputError": "errors",
    "Inspection": "pipeline.inspect",
    "InterruptedRunError": "errors",
    "Manifest": "report.manifest",
    "NetworkError": "errors",
    "NextStep": "report.next_steps",
    "NonFiniteError": "errors",
    "NotWritableError": "errors",
    "NumericError": "errors",
    "Output": "pipeline.convert",
    "Plan": "plan.gguf",
    "Prepared": "pipeline.prepare",
    "Published": "events",
    "QuantkitError": "errors",
    "RecipeError": "errors",
    "Request": "pipeline.request",
    "ResourceError": "errors",
    "Resumed": "events",
    "RunFailed": "events",
    "RunFinished": "events",
    "RunStarted": "events",
    "ServerPlan": "plan.checkpoint",
    "ServingMemory": "plan.sizes",
    "Sink": "events",
    "SizeReport": "plan.sizes",
    "StageFinished": "events",
    "StageStarted": "events",
    "TensorProgress": "events",
    "UnsupportedError": "errors",
    "UsageError": "errors",
    "Verdict": "consumers",
    "Verification": "quality.checks.base",
    "VerificationError": "errors",
    "VerifyOptions": "quality.checks.base",
    "Warned": "events",
    "architecture": "plan.sizes",
    "calibrate": "pipeline.calibrate",
    "candidates": "pipeline.fit",
    "consumer_verdicts": "pipeline.consumers",
    "convert": "pipeline.convert",
    "doctor": "pipeline.doctor",
    "estimate": "pipeline.estimate",
    "inspect": "pipeline.inspect",
    "largest_fitting": "pipeline.fit",
    "list_recipes": "pipeline.catalogue",
    "memory_for": "report.devices",
    "pack": "pipeline.pack",
    "packed_names": "pipeline.pack",
    "plan_calibration": "pipeline.calibrate_plan",
    "plan_json": "pipeline.estimate",
    "prepare": "pipeline.prepare",
    "quantize": "pipeline.convert:quantize_to_work",
    "recipe_text": "recipes.read",
    "schema_names": "schemas",
    "json_schema": "schemas",
    "schemes": "pipeline.catalogue",
    "verdict_line": "pipeline.consumers",
    "verify": "pipeline.verify",
}

__all__ = [
    "Artifact",
    "BatchError",
    "BusyError",
    "CalibrateRequest",
    "Calibrated",
    "CalibrationSpec",
    "Candidate",
    "Check",
    "Estimate",
    "Event",
    "ExistsError",
    "Finding",
    "GateError",
    "InputError",
    "Inspection",
    "InterruptedRunError",
    "Manifest",
    "NetworkError",
    "NextStep",
    "NonFiniteError",
    "NotWritableError",
    "NumericError",
    "Output",
    "Plan",
    "Prepared",
    "Published",
    "QuantkitError",
    "RecipeError",
    "Request",
    "ResourceError",
    "Resumed",
    "RunFailed",
    "RunFinished",
    "RunStarted",
    "ServerPlan",
    "ServingMemory",
    "Sink",
    "SizeReport",
    "StageFinished",
    "StageStarted",
    "TensorProgress",
    "UnsupportedError",
    "UsageError",
    "Verdict",
    "Verification",
    "VerificationError",
    "VerifyOptions",
    "Warned",
    "__version__",
    "architecture",
    "calibrate",
    "candidates",
    "consumer_verdicts",
    "convert",
    "doctor",
    "estimate",
    "inspect",
    "json_schema",
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
    "schema_names",
    "schemes",
    "verdict_line",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    module, _, attribute = _MODULES[name].partition(":")
    return getattr(import_module(f"quantkit.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
