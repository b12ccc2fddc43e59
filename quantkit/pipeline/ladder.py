"""The tune stage: up a ladder of recipes by size, each made and measured, until the first that passes the gates.

Every step smaller than the winner was measured to fail: nothing is assumed of how quality follows size. A step is a
conversion with gates, so that what fails is kept aside and what was killed goes on. It reads the source once: for its
artifact, and for the source's own run on the text, which is kept from the first step that is measured. What was
measured is recorded beside the output, sealed with the user's key, and not measured again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.calibration.text.data import load_texts
from quantkit.consumers import parse_consumers
from quantkit.errors import GateError, InputError, QuantkitError, ResourceError, UsageError
from quantkit.evaluation.gates import Verdict
from quantkit.evaluation.memory import Memory
from quantkit.events import Sink, StageFinished, Warned, ignore, never
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.jsontext import dump_json
from quantkit.pipeline.advice import ladder_for
from quantkit.pipeline.convert import convert
from quantkit.pipeline.gating import require_gateable
from quantkit.pipeline.output import GATES, Output
from quantkit.pipeline.outputs import Artifact, job_folder, output_paths
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.prepared import Prepared
from quantkit.pipeline.request import Request, language_model_alone, only_used
from quantkit.plan.base import Plan
from quantkit.plan.encoder import AUTO, encoder_type
from quantkit.recipes.read import load_recipes
from quantkit.records import record
from quantkit.report.sealed import own_seal
from quantkit.report.text import size
from quantkit.storage import remove_job, user_key, write_small
from quantkit.units import counted, parse_size
from quantkit.untrusted import parse_json_object, read_bounded

RECORD, SCHEMA, MAX_BYTES = ".quantkit-tune.json", "quantkit.tune-record/1", 4 << 20


@record
class Step:
    """A recipe of the ladder: its planned size, the request that makes it, and what became of it. `gates` are its
    verdicts, `why` says why it was not measured."""

    recipe: str
    nbytes: int
    key: str
    folder: Path
    request: Request
    gates: tuple[Mapping[str, Any], ...] = ()
    why: str = ""
    before: bool = False

    @property
    def ok(self) -> bool | None:
        """Whether all gates hold; None where none was judged."""
        return all(gate["ok"] for gate in self.gates) if self.gates else None

    @property
    def words(self) -> str:
        """What was measured, or why it was not."""
        return "; ".join(Verdict(**gate).words for gate in self.gates) or self.why

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "bytes": self.nbytes,
            "ok": self.ok,
            "measured_before": self.before,
            "gates": [dict(gate) for gate in self.gates],
            "skipped": self.why or None,
        }


@record
class Walk:
    """All steps, smallest first, and what was published; None where nothing passed, or nothing was to be made."""

    steps: tuple[Step, ...]
    artifact: Artifact | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "steps": [step.as_json() for step in self.steps],
            "artifact": self.artifact.as_json() if self.artifact else None,
        }

    def require(self) -> None:
        """Raise GateError, naming the closest, where nothing passed."""
        if self.artifact is not None:
            return
        failed = [step for step in self.steps if step.ok is False]
        closest = min(failed, key=lambda step: (sum(not gate["ok"] for gate in step.gates), -step.nbytes))
        what = (
            f"none of {counted(len(failed), 'recipe')} passes; the closest, {closest.recipe} ({size(closest.nbytes)})"
        )
        hint = "a larger --max-size, more recipes with --to, --calib, or a gate that asks less"
        judged = {"name": closest.recipe, "bytes": closest.nbytes, "gates": list(closest.gates)}
        raise GateError(f"{what}: {closest.words}", hint=hint, judged=judged)


def ladder_of(servers: bool, consumers: Sequence[str] = ()) -> tuple[str, ...]:
    """The recipes that are tried where none are named: for servers where that is said, or where these consumers are.
    Raises UsageError for a consumer that nobody knows."""
    table = ladder_for(parse_consumers(consumers), servers)
    return tuple(name for names in table.values() for name in names)


def walk_ladder(
    request: Request,
    output: Output,
    max_size: str | None = None,
    *,
    dry_run: bool = False,
    emit: Sink = ignore,
    stop: Callable[[], bool] = never,
) -> Walk:
    """Make and measure the recipes of a request by rising size until one passes the gates of `output`; publish that.

    With `dry_run` only the ladder is planned. Raises UsageError without gates, ResourceError where even the smallest
    is above `max_size`, and what conversions raise; what gates say is in the result (`Walk.require`).
    """
    if output.out.suffix == ".gguf":
        raise UsageError("tune names the file after the recipe that wins", hint="give a folder with -o", key="out")
    language_model_alone(request, "tune")  # refuses before any work
    gates = require_gateable(output.gates, output.eval_data, request.calib)
    if not gates and not dry_run:
        raise UsageError("tune walks until gates hold", key="gate", hint="give --gate assistant --eval-data FILE")
    if not dry_run:
        require_installed("tune", RUN_MODELS)
    budget = parse_size(max_size, "--max-size") if max_size else None
    steps = _planned(request, output, budget, emit, headers=dry_run)
    if dry_run:
        return Walk(tuple(steps))
    record = _Record(output.out / RECORD)
    output = replace(output, memory=Memory(folder=output.out))
    done: list[Step] = []
    for number, step in enumerate(steps):
        if step.why:
            done.append(step)
            continue
        tried, artifact = _tried(step, output, record, (emit, stop))
        done.append(tried)
        emit(StageFinished("tune", 0.0, f"{tried.recipe} {size(tried.nbytes)}: {'passes' if tried.ok else 'fails'}"))
        if artifact is not None:
            for failed in done[:-1]:
                remove_job(failed.folder)
            skipped = [
                replace(s, why=s.why or f"larger than {tried.recipe}, which passes") for s in steps[number + 1 :]
            ]
            return Walk((*done, *skipped), artifact)
    return Walk(tuple(done))


def _planned(request: Request, output: Output, budget: int | None, emit: Sink, *, headers: bool = False) -> list[Step]:
    """The ladder, smallest first. Raises what keeps every recipe from being planned."""
    found = load_recipes(request.recipes)
    typed = {recipe.name: name for name, recipe in zip(request.recipes, found, strict=True)}
    with prepare(language_model_alone(request, "tune"), None, emit, headers=headers) as prepared:
        if request.mmproj == AUTO and prepared.model is not None and encoder_type(prepared.checkpoint, AUTO):
            what = "the encoder is not written: convert with the recipe that wins makes it beside the language model"
            emit(Warned("no-mmproj", what))
        steps = [
            Step(
                recipe.name,
                plan.nbytes,
                _key(prepared, plan, output, request),
                folder,
                language_model_alone(only_used(request, typed[recipe.name], recipe), "tune"),
            )
            for recipe, plan, folder in zip(prepared.recipes, prepared.plans, _folders(prepared, output), strict=True)
        ]
        for name, error in prepared.refused:
            emit(Warned("refused", error.message if name in error.message else f"{name}: {error.message}"))
        lacking = {
            recipe.name
            for recipe, plan in zip(prepared.recipes, prepared.plans, strict=True)
            if plan.needs_inputs and not plan.calibrated
        }
    steps.sort(key=lambda step: (step.nbytes, step.recipe))
    if budget is not None and steps and steps[0].nbytes > budget:
        what = f"the smallest, {steps[0].recipe}, takes {size(steps[0].nbytes)}, above {size(budget)}"
        raise ResourceError(f"--max-size: {what}", hint="a larger --max-size, or smaller recipes with --to")
    return [replace(step, why=_skipped(step, budget, lacking)) for step in steps]


def _skipped(step: Step, budget: int | None, lacking: set[str]) -> str:
    if step.recipe in lacking:
        return "needs calibration text: give --calib default"
    return f"above --max-size {size(budget)}" if budget is not None and step.nbytes > budget else ""


def _folders(prepared: Prepared, output: Output) -> list[Path]:
    """The job folder of each recipe when it is made by itself."""
    alone = [
        replace(prepared, recipes=(r,), plans=(p,), refused=())
        for r, p in zip(prepared.recipes, prepared.plans, strict=True)
    ]
    return [job_folder(output_paths(one, output.out)[0][0], one.job_digest(one.plans[0])) for one in alone]


def _key(prepared: Prepared, plan: Plan, output: Output, request: Request) -> str:
    """Stands for what decides a verdict: the plan, the source as it is, the gates and their text."""
    texts = [
        load_texts(name, None, offline=request.offline).sha256 if _plain(name) else name for name in output.eval_data
    ]
    facts = [prepared.job_digest(plan), list(output.gates), texts]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _plain(name: str) -> bool:
    """Whether the hash of a text can be had without the model's chat template."""
    try:
        load_texts(name)
    except QuantkitError:
        return False
    return True


def _tried(
    step: Step, output: Output, record: _Record, listeners: tuple[Sink, Callable[[], bool]]
) -> tuple[Step, Artifact | None]:
    """A step that was made and measured, now or before, and what was published."""
    emit, stop = listeners
    known = record.steps.get(step.key)
    if known is not None and not all(gate["ok"] for gate in known):
        return replace(step, gates=tuple(known), before=True), None
    if known is not None:  # it passed: the same bytes pass again
        output = replace(output, gates=(), eval_data=())
    try:
        [artifact] = convert(step.request, output, emit=emit, stop=stop)
    except GateError as error:
        if error.judged is None:
            raise
        record.add(step.key, error.judged["gates"])
        return replace(step, gates=tuple(error.judged["gates"])), None
    if known is None:
        known = next(check["gates"] for check in artifact.manifest.facts["checks"] if check["check"] == GATES)
        record.add(step.key, known)
        return replace(step, gates=tuple(known)), artifact
    return replace(step, gates=tuple(known), before=True), artifact


class _Record:
    """What was measured, in a file that only this user can have written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[str, Sequence[Mapping[str, Any]]] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            body = parse_json_object(read_bounded(self.path, MAX_BYTES), self.path)
        except InputError:
            return {}
        seal = str(body.pop("own_seal", ""))
        mine = hmac.compare_digest(seal.encode("utf-8", "replace"), own_seal(body, user_key()).encode())
        return dict(body["steps"]) if mine and body.get("schema") == SCHEMA else {}

    def add(self, key: str, gates: Sequence[Mapping[str, Any]]) -> None:
        """Write what was measured of one more step."""
        self.steps[key] = list(gates)
        body = {"schema": SCHEMA, "steps": self.steps}
        sealed = {**body, "own_seal": own_seal(body, user_key())}
        write_small(self.path, dump_json(sealed).encode(), overwrite=True)
