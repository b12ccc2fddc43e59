"""The eval stage: how far artifacts are from the model they were made from, on the same tokens, and whether that is
within limits."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from quantkit.calibration.text.data import require_readable
from quantkit.calibration.text.shipped import DEFAULT
from quantkit.calibration.text.spec import longest_context
from quantkit.errors import GateError, UnsupportedError, UsageError
from quantkit.evaluation.answers import PromptReport
from quantkit.evaluation.artifacts import (
    Artifact,
    Calibrated,
    calibrated_on,
    opened_artifact,
    require_made_from,
    served_rounding,
    stored_tensors,
    text_of,
)
from quantkit.evaluation.corpus import ALL, TOKENS, WINDOW, Corpus, Cutting, cutting, read_corpus, require_continuing
from quantkit.evaluation.figures import Report, summarize
from quantkit.evaluation.gates import Gate, Subject, Verdict, judge, parse_gates, require_judgeable, require_measured
from quantkit.evaluation.opening import openers, require_engine
from quantkit.evaluation.prompts import PromptSet
from quantkit.evaluation.sides import Side
from quantkit.evaluation.tasks import HARNESS_MODULES, NO_TASKS, TaskFigure, TaskOptions, require_harness
from quantkit.events import Sink, StageFinished, StageStarted, Warned, ignore
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.machine import core_count
from quantkit.pipeline.asking import (
    PROMPT_TOKENS,
    answered,
    asked,
    harnessed,
    prompts_for,
    read_set,
    require_at_hand,
    text_of_prompts,
)
from quantkit.pipeline.evaluate_engine import InEngine, in_engine
from quantkit.pipeline.given import Coercion, coerce, given_data, given_names, given_optional, given_paths, given_texts
from quantkit.records import record
from quantkit.report.kinds import Stored, stored_kinds
from quantkit.report.sealed import identity
from quantkit.source import Checkpoint, open_source
from quantkit.source.identity import Origin, stored_kind
from quantkit.source.merged import MergedCheckpoint
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.units import counted
from quantkit.untrusted import shown
from quantkit.version import __version__

STAGE = "evaluate"
NOT_HELD_OUT, LONG_WINDOW, DAMAGED = "not-held-out", "long-window", "damaged-weights"

COERCED: dict[str, Coercion] = {
    "artifacts": given_paths, "against": given_optional, "against_quantized": given_optional, "data": given_data,
    "gates": given_texts, "prompts": given_optional, "tasks": given_names, "adapters": given_texts,
}  # fmt: skip


@record
class EvalRequest:
    """What to measure. `against` is the unquantized source; another quantized checkpoint takes its place only by name,
    as `against_quantized`. `data` is text as for calibrate; `gates` as `--gate` has them. `seen` measures on text that
    an artifact was calibrated on, which is refused otherwise. `prompts` is "golden", "json", "copy" or a file of
    prompts (None: the set that ships for the gates, where they ask for one), which are continued by up to
    `prompt_tokens` tokens; without `data` the text is theirs. `harness` is "lm-eval", which runs `tasks`:
    `task_options` says how. `engine` runs the artifacts on the text, None: our own code does. `adapters` are merged
    into the original."""

    artifacts: tuple[Path, ...]
    against: str | None = None
    against_quantized: str | None = None
    data: tuple[str, ...] = ()
    window: int | None = None
    score: str = ALL
    tokens: int | None = TOKENS
    gates: tuple[str, ...] = ()
    threads: int | None = None
    offline: bool = False
    pre: str | None = None
    seen: bool = False
    prompts: str | None = None
    prompt_tokens: int = PROMPT_TOKENS
    harness: str | None = None
    tasks: tuple[str, ...] = ()
    task_options: TaskOptions = NO_TASKS
    engine: str | None = None
    adapters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        coerce(self, COERCED)

    def check(self) -> None:
        """Raise UsageError for options that make no sense, before anything is opened."""
        _require_sense(self, parse_gates(self.gates))


@record
class Evaluated:
    """One artifact: its figures, its size, and what became of the gates. Its name among the others is the report's."""

    path: Path
    nbytes: int
    inputs: str
    manifest_identity: str | None
    report: Report
    verdicts: tuple[Verdict, ...]
    held_out: bool | None
    storage: tuple[Stored, ...] = ()
    prompts: PromptReport | None = None
    calibration: tuple[Calibrated, ...] = ()
    recipe: str | None = None
    tasks: tuple[TaskFigure, ...] | None = None
    engine: InEngine | None = None

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        return {
            **self.report.as_json(),
            "path": str(self.path),
            "bytes": self.nbytes,
            "inputs": self.inputs,
            "recipe": self.recipe,
            "identity": self.manifest_identity,
            "held_out": self.held_out,
            "calibration": [one.as_json() for one in self.calibration],
            "ok": self.ok,
            "gates": [verdict.as_json() for verdict in self.verdicts],
            "storage": [stored.as_json() for stored in self.storage],
            "prompts": self.prompts.as_json() if self.prompts else None,
            "tasks": None if self.tasks is None else [figure.as_json() for figure in self.tasks],
            "engine": None if self.engine is None else self.engine.as_json(),
        }


@record
class Evaluation:
    """All of a run; it ended at `time` (UTC). `reference` is the model measured against, with hashes of its files."""

    reference: dict[str, Any]
    data: dict[str, Any]
    artifacts: tuple[Evaluated, ...]
    seconds: float
    time: str

    @property
    def ok(self) -> bool:
        return all(artifact.ok for artifact in self.artifacts)

    def as_json(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "time": self.time,
            "reference": self.reference,
            "data": self.data,
            "artifacts": [artifact.as_json() for artifact in self.artifacts],
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
        }

    def require(self) -> None:
        """Raise GateError naming the gates that do not hold."""
        failed = [(a, v) for a in self.artifacts for v in a.verdicts if not v.ok]
        if failed:
            what = "; ".join(f"{shown(a.report.name)}: {v.words}" for a, v in failed)
            hint = "take a recipe with more bits, or --calib; a bound far from its value asks for more text"
            many = "1 gate does not hold" if len(failed) == 1 else f"{len(failed)} gates do not hold"
            raise GateError(f"{many}: {what}", path=str(failed[0][0].path), hint=hint)


def evaluate(request: EvalRequest, emit: Sink = ignore) -> Evaluation:
    """Measure artifacts against their source; gates are judged and not yet enforced (`Evaluation.require`).

    Raises UsageError for options that make no sense, InputError for artifacts and text that cannot be compared or
    read, UnsupportedError for models that are not run here, NetworkError, ResourceError.
    """
    started = time.monotonic()
    gates = parse_gates(request.gates)
    prompts = _require_sense(request, gates)
    require_at_hand(request.tasks, request.task_options)
    with ExitStack() as stack:
        source = stack.enter_context(closing(_open_reference(request, emit)))
        cut = cutting(source, request.window, request.score, request.tokens)
        if request.tasks:
            require_continuing(source, f"--harness {request.harness}")
        questions = asked(prompts, source, request.prompt_tokens) if prompts else None
        corpus = (
            read_corpus(source, request.data, cut, offline=request.offline)
            if request.data
            else text_of_prompts(questions, source, cut)
        )
        look = partial(opened_artifact, source=source, pre=request.pre, threads=request.threads)
        opened = _told_apart((path, stack.enter_context(look(path))) for path in request.artifacts)
        require_judgeable(gates, corpus, [a.side.name for a in opened.values() if a.side.moved])
        reference = _identified(source, emit)
        hashes = frozenset(f["sha256"] for f in reference["files"] if f["weights"])
        for artifact in opened.values():
            if request.against:
                require_made_from(artifact, hashes, source.name)
        known = [_calibrations(artifact, corpus, request) for artifact in opened.values()]
        held_out = [_held_out(artifact, found) for artifact, found in zip(opened.values(), known, strict=True)]
        for code, message in (*_warnings(source, corpus, request, held_out), *_overlaps(known, corpus)):
            emit(Warned(code, message))
        original = Side(source.name, source, served_rounding(source))  # inputs are rounded of quantized ones alone
        sides = [artifact.side for artifact in opened.values()]
        found = _measured(original, list(opened.values()), corpus, request, emit)
        answers: list[PromptReport | None] = [None] * len(sides)
        if questions:
            answers = [*answered(questions, request.prompt_tokens, original, sides, request.threads, emit)]
        tasks = harnessed(request.tasks, request.task_options, original, sides, request.threads, emit)
        source_bytes = sum(f.nbytes for f in source.files() if f.weights)
        results = []
        for (path, artifact), (report, scores), texts, said, figures in zip(
            opened.items(), found, known, answers, tasks, strict=True
        ):
            verdicts = tuple(judge(gates, Subject(artifact.nbytes, source_bytes, report, scores, corpus, said)))
            made, held = artifact.manifest.identity if artifact.manifest else None, _held_out(artifact, texts)
            kinds = stored_kinds(stored_tensors(artifact.side.checkpoint))
            ran = in_engine(scores, corpus)
            facts = (artifact.nbytes, artifact.side.inputs if ran is None else f"as {ran.name} computes", made)
            recipe = str(artifact.manifest.recipe["name"]) if artifact.manifest else None
            results.append(Evaluated(path, *facts, report, verdicts, held, kinds, said, texts, recipe, figures, ran))
    took, now = time.monotonic() - started, datetime.now(UTC).isoformat(timespec="seconds")
    return Evaluation(reference, corpus.as_json(), tuple(results), took, now)


def require_text(request: EvalRequest, emit: Sink = ignore) -> None:
    """Raise what `evaluate` would raise for the text of a request, before other work: reads it, and no weights."""
    gates = parse_gates(request.gates)
    _require_sense(request, gates)
    with closing(_open_reference(request, emit)) as source:
        cut = cutting(source, request.window, request.score, request.tokens)
        require_judgeable(gates, read_corpus(source, request.data, cut, offline=request.offline))


def _told_apart(opened: Iterable[tuple[Path, Artifact]]) -> dict[Path, Artifact]:
    """Each artifact once, also where several of its shards were named; those of one name go by their paths."""
    once: dict[tuple[Path, ...], tuple[Path, Artifact]] = {}
    for path, artifact in opened:
        first = path if path.is_dir() else artifact.paths[0]
        once.setdefault(tuple(each.resolve() for each in artifact.paths), (first, artifact))
    names = Counter(artifact.side.name for _, artifact in once.values())
    return {
        path: replace(artifact, side=replace(artifact.side, name=str(path)))
        if names[artifact.side.name] > 1
        else artifact
        for path, artifact in once.values()
    }


def _require_sense(request: EvalRequest, gates: Sequence[Gate]) -> PromptSet | None:
    """The prompts that are asked for. Raises UsageError for options that make no sense, InputError for a set of prompts
    that is none."""
    if not request.artifacts:
        raise UsageError("nothing to measure", key="artifact", hint="give a .gguf file, or the folder of a checkpoint")
    if bool(request.against) == bool(request.against_quantized):
        what = "both --against and --against-quantized" if request.against else "no original to compare with"
        raise UsageError(what, key="against", hint="--against SRC: the checkpoint that the artifact was made from")
    Cutting(WINDOW if request.window is None else request.window, request.score, request.tokens).check()
    require_engine(request.engine)
    require_readable(request.data)
    prompts = read_set(request.prompts or prompts_for(gates), request.prompt_tokens)
    require_harness(request.harness, request.tasks, request.task_options)
    text = bool(request.data or prompts or request.harness)
    require_measured(gates, text=text, prompts=prompts)
    if not text:
        hint = "--data FILE: plain text or JSON Lines; or --prompts golden"
        raise UsageError("no text to measure on", key="data", hint=hint)
    require_installed("eval", RUN_MODELS)
    if request.harness:
        require_installed(f"--harness {request.harness}", HARNESS_MODULES, key="harness")
    return prompts


def _open_reference(request: EvalRequest, emit: Sink) -> Checkpoint:
    """The original. Raises UsageError for a quantized one that was not asked for by name."""
    spec = request.against or request.against_quantized
    assert spec, "_require_sense"
    path = os.path.expanduser(spec)  # noqa: PTH111
    source = open_source(path, offline=request.offline, emit=emit, adapters=request.adapters)
    try:
        _require_original(source, spec, by_name=not request.against)
    except BaseException:
        source.close()
        raise
    return source


def _require_original(source: Checkpoint, spec: str, *, by_name: bool) -> None:
    if stored_kind(source) == "gguf":
        hint = "give the Hugging Face checkpoint that it was made from"
        raise UnsupportedError(f"eval does not run {shown(source.name)}, a GGUF file, as the original", hint=hint)
    if _is_quantized(source) and not by_name:
        message = f"{shown(source.name)} is quantized itself: a distance from it is not one from the original"
        hint = f"give the unquantized checkpoint, or say so: quantkit eval --against-quantized {shown(spec)}"
        raise UsageError(message, key="against", hint=hint)


def _is_quantized(source: Checkpoint) -> bool:
    """Whether a source stores its weights quantized; with adapters merged, whether what they are merged into does."""
    return isinstance(source.base if isinstance(source, MergedCheckpoint) else source, QuantizedCheckpoint)


def _identified(source: Checkpoint, emit: Sink) -> dict[str, Any]:
    """Which model this is, with the hash of every file, and one over all of them."""
    origin = Origin(source)
    weights = {f.name for f in source.files() if f.weights}
    emit(StageStarted("hash", sum(f.nbytes for f in source.files())))
    files = [{**f.as_json(), "weights": f.name in weights} for f in origin.files]
    return {
        **origin.facts(),
        "quantized": _is_quantized(source),
        "sha256": identity("original", origin.files),
        "files": files,
    }


def _calibrations(artifact: Artifact, corpus: Corpus, request: EvalRequest) -> tuple[Calibrated, ...]:
    """What an artifact was calibrated on, as far as its manifest says. Raises UsageError for the text at hand, unless
    that was asked for."""
    found = tuple(calibrated_on(artifact, corpus, frozenset({DEFAULT} & set(request.data))))
    same = [one for one in found if one.same]
    if same and not request.seen:
        message = f"{shown(artifact.side.name)} was calibrated on {shown(same[0].name)}: it looks better there than"
        hint = "give other text with --data, or measure all the same: quantkit eval --seen"
        raise UsageError(f"{message} elsewhere", key="data", hint=hint)
    return found


def _held_out(artifact: Artifact, found: Sequence[Calibrated]) -> bool | None:
    """Whether an artifact was made without any of this text: None where nobody says."""
    return None if artifact.manifest is None else not any(one.overlaps for one in found)


def _warnings(
    source: Checkpoint, corpus: Corpus, request: EvalRequest, held_out: Sequence[bool | None]
) -> Iterator[tuple[str, str]]:
    longest = longest_context(source)
    if longest and corpus.cut.window > longest:
        yield (
            LONG_WINDOW,
            f"windows of {counted(corpus.cut.window, 'token')}, the model takes {longest:,}: give a smaller --window",
        )
    if None in held_out and DEFAULT in request.data:
        yield NOT_HELD_OUT, "no manifest says whether an artifact was calibrated on the shipped text (--data default)"


def _overlaps(known: Sequence[Sequence[Calibrated]], corpus: Corpus) -> Iterator[tuple[str, str]]:
    """What of the text an artifact has seen, each kind once."""
    texts = [one for found in known for one in found]
    if any(one.same for one in texts):
        yield NOT_HELD_OUT, f"calibrated on {corpus.name}: figures on it are better than on other text"
        return
    most = max((one for one in texts if one.documents), key=lambda one: one.documents, default=None)
    if most is not None:
        share = f"{most.documents:,} of the {counted(len(corpus.fingerprints), 'document')} that are run"
        what = f"{share} are in {shown(most.name)}, which was calibrated on: figures are better than on other text"
        yield NOT_HELD_OUT, what


def _measured(
    original: Side, opened: Sequence[Artifact], corpus: Corpus, request: EvalRequest, emit: Sink
) -> list[tuple[Report, Any]]:
    from quantkit.evaluation.measure import measure  # torch: only once everything else is in order

    began = time.monotonic()
    sides, threads = [artifact.side for artifact in opened], request.threads or core_count()
    engines = openers(request.engine, opened, corpus.cut.window, threads) if request.engine else ()
    found = measure(original, sides, corpus, threads=threads, emit=emit, engines=engines)
    text = text_of(original.checkpoint)
    took = time.monotonic() - began
    emit(StageFinished(STAGE, took, f"{counted(corpus.tokens, 'token')}"))
    reports = [(summarize(scores, corpus, text), scores) for scores in found]
    for report, _ in reports:
        for error in report.damaged[:1]:
            more = f", and {len(report.damaged) - 1} more" if len(report.damaged) > 1 else ""
            emit(Warned(DAMAGED, f"{report.name}: {error.tensor} is not the original's: {error.wrong}{more}"))
    return reports
