"""quantkit: turn a Hugging Face checkpoint into a quantized model that provably runs.

The names below are the public API; the command line uses nothing else. They are imported when first used, so that
`import quantkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from quantkit.version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers and editors read
    from quantkit.calibration.text.asked import CalibrationSpec as CalibrationSpec
    from quantkit.consumers import Verdict as Verdict
    from quantkit.errors import BatchError as BatchError
    from quantkit.errors import BusyError as BusyError
    from quantkit.errors import ExistsError as ExistsError
    from quantkit.errors import GateError as GateError
    from quantkit.errors import InputError as InputError
    from quantkit.errors import InterruptedRunError as InterruptedRunError
    from quantkit.errors import NetworkError as NetworkError
    from quantkit.errors import NonFiniteError as NonFiniteError
    from quantkit.errors import NotWritableError as NotWritableError
    from quantkit.errors import NumericError as NumericError
    from quantkit.errors import QuantkitError as QuantkitError
    from quantkit.errors import RecipeError as RecipeError
    from quantkit.errors import ResourceError as ResourceError
    from quantkit.errors import UnsupportedError as UnsupportedError
    from quantkit.errors import UsageError as UsageError
    from quantkit.errors import VerificationError as VerificationError
    from quantkit.evaluation.tasks import TaskOptions as TaskOptions
    from quantkit.events import Event as Event
    from quantkit.events import Published as Published
    from quantkit.events import Resumed as Resumed
    from quantkit.events import RunFailed as RunFailed
    from quantkit.events import RunFinished as RunFinished
    from quantkit.events import RunStarted as RunStarted
    from quantkit.events import Sink as Sink
    from quantkit.events import StageFinished as StageFinished
    from quantkit.events import StageStarted as StageStarted
    from quantkit.events import TensorProgress as TensorProgress
    from quantkit.events import Warned as Warned
    from quantkit.filling.hashing import SourceHasher as SourceHasher
    from quantkit.filling.hashing import hash_ahead as hash_ahead
    from quantkit.pipeline.batch import BatchRequest as BatchRequest
    from quantkit.pipeline.batch import batch_status as batch_status
    from quantkit.pipeline.batch import plan_batch as plan_batch
    from quantkit.pipeline.batch import run_batch as run_batch
    from quantkit.pipeline.batch_emit import emit_batch as emit_batch
    from quantkit.pipeline.batch_result import BatchPlan as BatchPlan
    from quantkit.pipeline.batch_result import BatchResult as BatchResult
    from quantkit.pipeline.batch_words import batch_lines as batch_lines
    from quantkit.pipeline.batch_words import batch_plan_lines as batch_plan_lines
    from quantkit.pipeline.bench import Benchmark as Benchmark
    from quantkit.pipeline.bench import BenchRequest as BenchRequest
    from quantkit.pipeline.bench import bench as bench
    from quantkit.pipeline.bench_words import bench_lines as bench_lines
    from quantkit.pipeline.calibrate import Calibrated as Calibrated
    from quantkit.pipeline.calibrate import calibrate as calibrate
    from quantkit.pipeline.calibrate_plan import CalibrateRequest as CalibrateRequest
    from quantkit.pipeline.calibrate_plan import plan_calibration as plan_calibration
    from quantkit.pipeline.card import CardRequest as CardRequest
    from quantkit.pipeline.card import write_cards as write_cards
    from quantkit.pipeline.catalogue import list_recipes as list_recipes
    from quantkit.pipeline.catalogue import schemes as schemes
    from quantkit.pipeline.compare import Compared as Compared
    from quantkit.pipeline.compare import CompareRequest as CompareRequest
    from quantkit.pipeline.compare import compare as compare
    from quantkit.pipeline.compare_words import comparison_lines as comparison_lines
    from quantkit.pipeline.consumers import consumer_verdicts as consumer_verdicts
    from quantkit.pipeline.consumers import verdict_line as verdict_line
    from quantkit.pipeline.convert import convert as convert
    from quantkit.pipeline.convert import quantize as quantize
    from quantkit.pipeline.doctor import Finding as Finding
    from quantkit.pipeline.doctor import doctor as doctor
    from quantkit.pipeline.estimate import Estimate as Estimate
    from quantkit.pipeline.estimate import estimate as estimate
    from quantkit.pipeline.estimate import plan_json as plan_json
    from quantkit.pipeline.evaluate import EvalRequest as EvalRequest
    from quantkit.pipeline.evaluate import Evaluated as Evaluated
    from quantkit.pipeline.evaluate import Evaluation as Evaluation
    from quantkit.pipeline.evaluate import evaluate as evaluate
    from quantkit.pipeline.evaluate import require_text as require_text
    from quantkit.pipeline.evaluate_words import Records as Records
    from quantkit.pipeline.evaluate_words import evaluation_lines as evaluation_lines
    from quantkit.pipeline.fit import Candidate as Candidate
    from quantkit.pipeline.fit import candidates as candidates
    from quantkit.pipeline.fit import largest_fitting as largest_fitting
    from quantkit.pipeline.inspect import Inspection as Inspection
    from quantkit.pipeline.inspect import inspect as inspect
    from quantkit.pipeline.ladder import ladder_of as ladder_of
    from quantkit.pipeline.ladder import walk_ladder as walk_ladder
    from quantkit.pipeline.modelfile import MadeModelfile as MadeModelfile
    from quantkit.pipeline.modelfile import ModelfileRequest as ModelfileRequest
    from quantkit.pipeline.modelfile import write_modelfiles as write_modelfiles
    from quantkit.pipeline.output import Output as Output
    from quantkit.pipeline.outputs import Artifact as Artifact
    from quantkit.pipeline.pack import pack as pack
    from quantkit.pipeline.pack import packed_names as packed_names
    from quantkit.pipeline.prepare import prepare as prepare
    from quantkit.pipeline.prepared import Prepared as Prepared
    from quantkit.pipeline.publishing import Publishable as Publishable
    from quantkit.pipeline.publishing import publishable as publishable
    from quantkit.pipeline.publishing import require_publishable as require_publishable
    from quantkit.pipeline.push import Pushed as Pushed
    from quantkit.pipeline.push import PushRequest as PushRequest
    from quantkit.pipeline.push import push as push
    from quantkit.pipeline.recommend import recommend as recommend
    from quantkit.pipeline.recommend_words import recommendation_lines as recommendation_lines
    from quantkit.pipeline.recommendation import Recommendation as Recommendation
    from quantkit.pipeline.recommendation import RecommendRequest as RecommendRequest
    from quantkit.pipeline.release import Release as Release
    from quantkit.pipeline.release import ReleaseRequest as ReleaseRequest
    from quantkit.pipeline.release import release as release
    from quantkit.pipeline.release_words import release_lines as release_lines
    from quantkit.pipeline.report import ReportRequest as ReportRequest
    from quantkit.pipeline.report import write_report as write_report
    from quantkit.pipeline.request import Request as Request
    from quantkit.pipeline.sensitivity import Measured as Measured
    from quantkit.pipeline.sensitivity import plan_sensitivity as plan_sensitivity
    from quantkit.pipeline.sensitivity import sensitivity as sensitivity
    from quantkit.pipeline.signing import is_encrypted as is_encrypted
    from quantkit.pipeline.step_summary import summarize_conversion as summarize_conversion
    from quantkit.pipeline.step_summary import summarize_evaluation as summarize_evaluation
    from quantkit.pipeline.verify_folder import require_gateable_artifact as require_gateable_artifact
    from quantkit.pipeline.verify_folder import verify as verify
    from quantkit.plan.base import Plan as Plan
    from quantkit.plan.sizes import ServingMemory as ServingMemory
    from quantkit.plan.sizes import SizeReport as SizeReport
    from quantkit.quality.checks.base import Check as Check
    from quantkit.quality.checks.base import Verification as Verification
    from quantkit.quality.checks.base import VerifyOptions as VerifyOptions
    from quantkit.recipes.read import recipe_text as recipe_text
    from quantkit.report.devices import memory_for as memory_for
    from quantkit.report.manifest import Manifest as Manifest
    from quantkit.report.next_steps import NextStep as NextStep
    from quantkit.schemas import json_schema as json_schema
    from quantkit.schemas import schema_names as schema_names
    from quantkit.tuning.record import Sensitivity as Sensitivity


# Where every public name is defined: what `__getattr__` imports, equal to the imports above by a test.
_PLACES: dict[str, tuple[str, ...]] = {
    "quantkit.calibration.text.asked": ("CalibrationSpec",),
    "quantkit.consumers": ("Verdict",),
    "quantkit.errors": (
        "BatchError", "BusyError", "ExistsError", "GateError", "InputError", "InterruptedRunError",
        "NetworkError", "NonFiniteError", "NotWritableError", "NumericError", "QuantkitError", "RecipeError",
        "ResourceError", "UnsupportedError", "UsageError", "VerificationError",
    ),
    "quantkit.evaluation.tasks": ("TaskOptions",),
    "quantkit.events": (
        "Event", "Published", "Resumed", "RunFailed", "RunFinished", "RunStarted", "Sink", "StageFinished",
        "StageStarted", "TensorProgress", "Warned",
    ),
    "quantkit.filling.hashing": ("SourceHasher", "hash_ahead"),
    "quantkit.pipeline.batch": ("BatchRequest", "batch_status", "plan_batch", "run_batch"),
    "quantkit.pipeline.batch_emit": ("emit_batch",),
    "quantkit.pipeline.batch_result": ("BatchPlan", "BatchResult"),
    "quantkit.pipeline.batch_words": ("batch_lines", "batch_plan_lines"),
    "quantkit.pipeline.bench": ("BenchRequest", "Benchmark", "bench"),
    "quantkit.pipeline.bench_words": ("bench_lines",),
    "quantkit.pipeline.calibrate": ("Calibrated", "calibrate"),
    "quantkit.pipeline.calibrate_plan": ("CalibrateRequest", "plan_calibration"),
    "quantkit.pipeline.card": ("CardRequest", "write_cards"),
    "quantkit.pipeline.catalogue": ("list_recipes", "schemes"),
    "quantkit.pipeline.compare": ("CompareRequest", "Compared", "compare"),
    "quantkit.pipeline.compare_words": ("comparison_lines",),
    "quantkit.pipeline.consumers": ("consumer_verdicts", "verdict_line"),
    "quantkit.pipeline.convert": ("convert", "quantize"),
    "quantkit.pipeline.doctor": ("Finding", "doctor"),
    "quantkit.pipeline.estimate": ("Estimate", "estimate", "plan_json"),
    "quantkit.pipeline.evaluate": ("EvalRequest", "Evaluated", "Evaluation", "evaluate", "require_text"),
    "quantkit.pipeline.evaluate_words": ("Records", "evaluation_lines"),
    "quantkit.pipeline.fit": ("Candidate", "candidates", "largest_fitting"),
    "quantkit.pipeline.inspect": ("Inspection", "inspect"),
    "quantkit.pipeline.ladder": ("ladder_of", "walk_ladder"),
    "quantkit.pipeline.modelfile": ("MadeModelfile", "ModelfileRequest", "write_modelfiles"),
    "quantkit.pipeline.output": ("Output",),
    "quantkit.pipeline.outputs": ("Artifact",),
    "quantkit.pipeline.pack": ("pack", "packed_names"),
    "quantkit.pipeline.prepare": ("prepare",),
    "quantkit.pipeline.prepared": ("Prepared",),
    "quantkit.pipeline.push": ("PushRequest", "Pushed", "push"),
    "quantkit.pipeline.publishing": ("Publishable", "publishable", "require_publishable"),
    "quantkit.pipeline.recommend": ("recommend",),
    "quantkit.pipeline.recommend_words": ("recommendation_lines",),
    "quantkit.pipeline.recommendation": ("Recommendation", "RecommendRequest"),
    "quantkit.pipeline.release": ("Release", "ReleaseRequest", "release"),
    "quantkit.pipeline.release_words": ("release_lines",),
    "quantkit.pipeline.report": ("ReportRequest", "write_report"),
    "quantkit.pipeline.request": ("Request",),
    "quantkit.pipeline.sensitivity": ("Measured", "plan_sensitivity", "sensitivity"),
    "quantkit.pipeline.signing": ("is_encrypted",),
    "quantkit.pipeline.step_summary": ("summarize_conversion", "summarize_evaluation"),
    "quantkit.pipeline.verify_folder": ("require_gateable_artifact", "verify"),
    "quantkit.plan.base": ("Plan",),
    "quantkit.plan.sizes": ("ServingMemory", "SizeReport"),
    "quantkit.quality.checks.base": ("Check", "Verification", "VerifyOptions"),
    "quantkit.recipes.read": ("recipe_text",),
    "quantkit.report.devices": ("memory_for",),
    "quantkit.report.manifest": ("Manifest",),
    "quantkit.report.next_steps": ("NextStep",),
    "quantkit.schemas": ("json_schema", "schema_names"),
    "quantkit.tuning.record": ("Sensitivity",),
}  # fmt: skip
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__all__":
        return __dir__()
    if name not in _MODULES:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__"])
