"""What each task of a batch will make, to the byte, and what it takes: headers of a model are read and described once
for all of its tasks. No weight is read, and no text is run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

from quantkit.batch.expand import Wish
from quantkit.batch.faults import Faults
from quantkit.batch.options import OF_OUTPUT, OPTIONS, Value
from quantkit.batch.task import Needs, Task
from quantkit.calibration.text.asked import SAMPLES, SEQLEN, CalibrationSpec
from quantkit.calibration.text.spec import window_length
from quantkit.consumers import parse_consumers
from quantkit.errors import QuantkitError
from quantkit.events import Sink, ignore, never
from quantkit.families.model import Model
from quantkit.formats.gguf.imatrix import Imatrix, read_imatrix
from quantkit.pipeline.batch_sources import is_on_hub
from quantkit.pipeline.consumers import require_loadable
from quantkit.pipeline.estimate import making_bytes, making_seconds
from quantkit.pipeline.gating import require_gateable
from quantkit.pipeline.opening import open_wanted
from quantkit.pipeline.prepare import encoder_beside, overrides_of, plan_options
from quantkit.pipeline.prepared import without_text
from quantkit.pipeline.request import Request, require_checkable, require_used
from quantkit.pipeline.tune import tuning_of, with_target
from quantkit.plan.base import Plan
from quantkit.plan.describe import describe_source
from quantkit.plan.make import make_plan
from quantkit.plan.sizes import WALK_BYTES
from quantkit.recipes.read import require_distinct
from quantkit.recipes.recipe import FEEDBACK, Overrides, Recipe, override
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.spec import at_commit
from quantkit.tuning.target import Target
from quantkit.units import parse_size

GATE_SIDES = 3 * 4  # bytes of float32 for each weight of a block: the source's, the artifact's, and what is between
OFTEN = 4096  # plans of a model that are remembered


@record
class PlannedFiles:
    """An artifact that a task will make. `exact` says that its size is known to the byte before text was run."""

    recipe: str
    kind: str
    paths: tuple[Path, ...]
    nbytes: int
    weights: int
    exact: bool = True

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(self.weights, 1)

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "kind": self.kind,
            "paths": [str(path) for path in self.paths],
            "bytes": self.nbytes,
            "bits_per_weight": self.bits_per_weight,
            "exact": self.exact,
        }


@record
class PlannedTask:
    """A task with its outputs and needs; of a model of the Hub, whose `commit` is known now, its command line names
    that. `error` is why it cannot be planned; then it has none."""

    task: Task
    artifacts: tuple[PlannedFiles, ...] = ()
    seconds: float = 0.0
    error: QuantkitError | None = None
    commit: str | None = None

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.artifacts)


@record
class _Costs:
    """What is known of a plan, which itself is forgotten."""

    recipe: str
    kind: str
    names: tuple[str, ...]
    nbytes: int
    weights: int
    memory_bytes: int
    gate_bytes: int
    seconds: float


@dataclass
class _Opened:
    """A model whose headers are read. `threads` are those of a task."""

    checkpoint: Checkpoint
    threads: int
    plans: dict[object, Plan] = field(default_factory=dict)
    first: dict[object, _Costs] = field(default_factory=dict)
    planned: dict[object, _Costs] = field(default_factory=dict)
    encoders: dict[str, _Costs | None] = field(default_factory=dict)
    described: dict[str | None, Model] = field(default_factory=dict)
    windows: dict[int | None, int] = field(default_factory=dict)

    @cached_property
    def download_bytes(self) -> int:
        """Bytes of the source that are still on the Hub."""
        files = self.checkpoint.files()
        return sum(file.nbytes for file in files if file.opened is not None and file.opened.is_distant)

    def model(self, pre: str | None) -> Model:
        if pre not in self.described:
            self.described[pre] = describe_source(self.checkpoint, pre)
        return self.described[pre]

    def tokens(self, spec: CalibrationSpec | None) -> int:
        """How many tokens of text are asked for, 0 without any. Raises UsageError for windows of more tokens than the
        model has positions."""
        if spec is None or spec.reads_statistics:
            return 0
        if spec.seqlen not in self.windows:
            self.windows[spec.seqlen] = window_length(self.checkpoint, spec.seqlen, SEQLEN, "seqlen")
        return spec.samples * self.windows[spec.seqlen]

    def costs(self, key: object, tokens: int, make: Callable[[], Plan]) -> _Costs:
        """The costs of a plan that is made at most once, with so many tokens of text."""
        found = self.planned.get((key, tokens))
        if found is None:
            plan = self.plans.get(key) or make()
            found = replace(
                self.first.get(key) or _costs(plan, self.threads, tokens),
                memory_bytes=making_bytes(plan, self.threads, tokens or SAMPLES * SEQLEN),
                seconds=making_seconds(plan, self.threads, tokens or SAMPLES * SEQLEN),
            )
            self.first.setdefault(key, found)
            if len(self.planned) < OFTEN:
                self.plans[key] = plan
                self.planned[key, tokens] = found
        return found


def plan_tasks(
    wishes: Sequence[Wish], threads: int, faults: Faults, emit: Sink = ignore, *, offline: bool = False
) -> list[PlannedTask]:
    """Plan all tasks, in their order, each with so many threads. What cannot be planned is added to `faults`.

    Weights on the Hub stay there.
    """
    shared = _Shared(cache(read_imatrix), offline)
    found: list[PlannedTask] = []
    for _, group in groupby(wishes, _opening):
        found += _planned_model(list(group), threads, shared, emit)
    told: set[tuple[str, str]] = set()
    for each in found:
        if each.error is None:
            continue
        said = each.task.model, each.error.message
        if said not in told:  # of a model that cannot be read: once
            told.add(said)
            faults.add(_named(each.task, each.error))
    return found


def _opening(wish: Wish) -> tuple[object, ...]:
    """What decides how a source is opened."""
    adapter = any(recipe.mixture and recipe.mixture.adapter for recipe in wish.recipes)
    checkpoints = all(recipe.mixture is None for recipe in wish.recipes)
    turned = checkpoints and wish.source.endswith(".gguf")
    return wish.source, wish.options.get("adapter"), wish.options.get("base"), adapter, turned


def _planned_model(wishes: list[Wish], threads: int, shared: _Shared, emit: Sink) -> Iterator[PlannedTask]:
    """The tasks of one model, whose source is opened once."""
    asked = [(wish, _tried(partial(shared.request, wish))) for wish in wishes]
    first = next((request for _, request in asked if isinstance(request, Request)), None)
    opened: Checkpoint | QuantkitError | None = None
    if first is not None:
        opened = _tried(lambda: open_wanted(first, wishes[0].recipes, emit, headers=True))
    try:
        known = _Opened(opened, threads) if opened is not None and not isinstance(opened, QuantkitError) else None
        for wish, request in asked:
            if isinstance(request, QuantkitError):
                yield PlannedTask(wish.task, error=request)
            elif known is None:
                yield PlannedTask(wish.task, error=opened if isinstance(opened, QuantkitError) else None)
            else:
                planner = _Planner(wish, request, known, shared)
                made = _tried(planner.planned)
                yield PlannedTask(wish.task, error=made) if isinstance(made, QuantkitError) else made
    finally:
        if opened is not None and not isinstance(opened, QuantkitError):
            opened.close()


def _tried(make: Any) -> Any:
    try:
        return make()
    except QuantkitError as error:
        return error


def request_of(wish: Wish) -> Request:
    """The request that the command line of a task makes."""
    given: dict[str, Any] = {
        OPTIONS[key].known_as: Path(str(value)) if key in ("imatrix", "sensitivity") else value
        for key, value in wish.options.items()
        if key not in OF_OUTPUT
    }
    return Request(source=wish.source, recipes=wish.to, **given)


@record
class _Shared:
    """What tasks of different models have in common: recipes with their options, and that those are in order."""

    imatrix: Callable[[Path], Imatrix]
    offline: bool = False
    overridden: dict[tuple[str, Overrides], Recipe] = field(default_factory=dict)
    looked_at: set[tuple[object, ...]] = field(default_factory=set)

    def recipes(self, wish: Wish, request: Request) -> list[Recipe]:
        """The recipes of a task with its options applied."""
        run, found = overrides_of(request, None), []
        for name, recipe in zip(wish.to, wish.recipes, strict=True):
            if (name, run) not in self.overridden:
                self.overridden[name, run] = override(recipe, run)
            found.append(self.overridden[name, run])
        return found

    def request(self, wish: Wish) -> Request:
        """The request of a task, looked at as convert looks at it before any work."""
        request, options = request_of(wish), wish.options
        request = replace(request, offline=True) if self.offline else request
        same = (wish.to, tuple(sorted(options.items())))
        if same not in self.looked_at:
            require_distinct(wish.to, wish.recipes)
            require_used(request, self.recipes(wish, request))
            parse_consumers(request.consumers)
            gates, data = (_texts(options.get(key, ())) for key in ("gate", "eval_data"))
            require_gateable(gates, data, request.calib)
            engine, verify = options.get("engine"), options.get("verify", True) is True
            require_checkable(None if engine is None else str(engine), wish.recipes, verify)
            self.looked_at.add(same)
        return request


def _texts(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


@record
class _Planner:
    """One task of an open model."""

    wish: Wish
    request: Request
    opened: _Opened
    shared: _Shared

    def planned(self) -> PlannedTask:
        made = [(self._costs(recipe), recipe) for recipe in self._recipes]
        artifacts = [self._files(costs, self._size(costs)) for costs, _ in made]
        beside = self._encoder() if any(_is_model(recipe) for recipe in self._recipes) else None
        if beside is not None:
            artifacts.append(self._files(beside, None))
            made.append((beside, self._recipes[0]))
        task = self.wish.task
        costs = [each for each, _ in made]
        memory = max(each.memory_bytes for each in costs)
        if "gate" in self.wish.options:
            memory = max(memory, *(each.gate_bytes for each in costs))
        needs = Needs(memory, sum(each.nbytes for each in artifacts), self.opened.download_bytes)
        paths = tuple(path for each in artifacts for path in each.paths)
        commit = self.opened.checkpoint.commit if is_on_hub(self.wish.source) else None
        if commit is not None:
            source = at_commit(self.wish.source, commit)
            argv = tuple(source if word == self.wish.source else word for word in task.argv)
            task = replace(task, argv=argv)
        task = replace(task, outputs=paths, needs=needs)
        return PlannedTask(task, tuple(artifacts), sum(each.seconds for each in costs), commit=commit)

    @cached_property
    def _target(self) -> Target | None:
        tuning = tuning_of(self.request, self.wish.recipes, never)
        return None if tuning is None else tuning.target

    @cached_property
    def _recipes(self) -> list[Recipe]:
        found = self.shared.recipes(self.wish, self.request)
        return [with_target(recipe, self._target) for recipe in found] if self._target else found

    def _costs(self, recipe: Recipe) -> _Costs:
        """What the plan of a recipe costs. Text changes no size: it is not read."""
        request, options = self.request, self.wish.options
        told = plan_options(request, None)
        seen = (options.get(key) for key in ("pre", "imatrix", "for", "tp"))
        key = (recipe.title, recipe.label, told, bool(request.calib), *seen)

        def make() -> Plan:
            chosen = recipe
            if request.calib and recipe.reads_importance:
                chosen = replace(recipe, method=FEEDBACK)  # importance is of text, which is not run
            weights: Imatrix | None = self.shared.imatrix(request.imatrix) if request.imatrix else None
            plan = make_plan(
                self.opened.checkpoint,
                chosen,
                told,
                model=lambda: self.opened.model(request.pre),
                imatrix=lambda: weights,
            )
            if plan.needs_inputs and not request.calib:
                raise without_text(recipe)
            require_loadable([plan], parse_consumers(request.consumers), request.tp)
            return plan

        return self.opened.costs(key, self.opened.tokens(request.calibration()), make)

    def _encoder(self) -> _Costs | None:
        request = self.request
        if request.mmproj not in self.opened.encoders:
            found = encoder_beside(request, self.opened.checkpoint, plan_options(request, None))[1]
            self.opened.encoders[request.mmproj] = _costs(found[0][1], self.opened.threads, 0) if found else None
        return self.opened.encoders[request.mmproj]

    def _size(self, costs: _Costs) -> int | None:
        """The bytes that a target gives, None where there is no target: which types that are is measured later."""
        target, request = self._target, self.request
        if target is None:
            return None
        if request.target_size:
            return parse_size(request.target_size, "--target-size")
        if request.target_bpw:
            return int(request.target_bpw * costs.weights / 8)
        return costs.nbytes

    def _files(self, costs: _Costs, nbytes: int | None) -> PlannedFiles:
        inexact = nbytes is not None or (
            self.request.calib and any(recipe.reads_importance for recipe in self._recipes)
        )
        paths = tuple(self.wish.task.out / name for name in costs.names)
        size = costs.nbytes if nbytes is None else nbytes
        return PlannedFiles(costs.recipe, costs.kind, paths, size, costs.weights, not inexact)


def _is_model(recipe: Recipe) -> bool:
    return recipe.mixture is not None and not recipe.mixture.adapter


def _costs(plan: Plan, threads: int, tokens: int) -> _Costs:
    blocks: defaultdict[int, int] = defaultdict(int)
    weights = 0
    for unit in plan.units:
        size = prod(unit.tensor.shape)
        weights += size
        blocks[-1 if unit.tensor.layer is None else unit.tensor.layer] += size
    tokens = tokens or SAMPLES * SEQLEN
    return _Costs(
        recipe=plan.recipe,
        kind=plan.kind,
        names=tuple(file.name for file in plan.files),
        nbytes=plan.nbytes,
        weights=weights,
        memory_bytes=making_bytes(plan, threads, tokens),
        gate_bytes=WALK_BYTES + GATE_SIDES * max(blocks.values(), default=0),
        seconds=making_seconds(plan, threads, tokens),
    )


def _named(task: Task, error: QuantkitError) -> QuantkitError:
    """The error with the task in front."""
    told = copy(error)
    told.message = f"{task.id}: {error.message}"
    return told
