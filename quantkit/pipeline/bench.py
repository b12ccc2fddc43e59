"""The bench stage: how fast an artifact runs here, in an engine, beside the unquantized file in the same run.

A micro benchmark: one prompt and some steps on this machine, with nothing else in the engine's queue. Every figure is
of a process of its own; runs of the two files alternate, so that what the machine does besides meets both.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from math import prod
from pathlib import Path
from typing import Any

from quantkit.calibration.text.shipped import FILE, shipped_rows
from quantkit.errors import InputError, InterruptedRunError, QuantkitError, UsageError, require_choice
from quantkit.events import BlockProgress, Sink, StageFinished, StageStarted, ignore, never
from quantkit.formats.gguf.file import read_gguf, shard_paths
from quantkit.machine import core_count
from quantkit.pipeline.bench_figures import Batch, Model, Run, Verdict, judged
from quantkit.pipeline.convert import fill_all
from quantkit.pipeline.given import Coercion, coerce, given_optional, given_path
from quantkit.pipeline.outputs import job_folder, open_plan_job
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.request import Request
from quantkit.plan.encoder import NONE
from quantkit.quality.engines import LLAMA_CPP
from quantkit.quality.engines.llamacpp import LlamaCpp, require_llamacpp
from quantkit.records import record
from quantkit.source import open_source
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.units import counted
from quantkit.untrusted import require_path, shown
from quantkit.version import __version__

STAGE = "bench"
BATCHES = (1, 2, 4, 8)
MOST_BATCH = 64
ROUND = {"BF16": "bf16", "F16": "f16"}  # how a source is stored, and the recipe that keeps it so
COERCED: dict[str, Coercion] = {"artifact": given_path, "against": given_optional}


@record
class BenchRequest:
    """What to run. `against` is the unquantized file or its source, None: the artifact alone. `prompt` tokens are read
    and `steps` written, in `batches` of so many sequences at a time, `runs` times each."""

    artifact: Path
    against: str | None = None
    engine: str = LLAMA_CPP
    prompt: int = 128
    steps: int = 32
    batches: tuple[int, ...] = BATCHES
    runs: int = 3
    threads: int | None = None
    offline: bool = False
    pre: str | None = None

    def __post_init__(self) -> None:
        coerce(self, COERCED)

    def check(self) -> None:
        """Raise, before any work, UsageError for numbers and engines that make no sense, UnsupportedError for an engine
        that is not installed."""
        require_choice("--engine", self.engine, (LLAMA_CPP,))
        for name, value, least in (("prompt", self.prompt, 1), ("steps", self.steps, 2), ("runs", self.runs, 1)):
            if value < least:
                raise UsageError(f"--{name} {value}", key=name, hint=f"{least} or more")
        if not self.batches or min(self.batches) < 1 or max(self.batches) > MOST_BATCH:
            what = f"--batch {','.join(map(str, self.batches))}"
            raise UsageError(what, key="batch", hint=f"sequences at a time, 1 to {MOST_BATCH}, such as 1,2,4,8")
        require_llamacpp()


@record
class Benchmark:
    """What came of it: the artifact, the unquantized file where there is one, and how they compare by batch."""

    engine: str
    engine_version: str
    threads: int
    request: BenchRequest
    models: tuple[Model, ...]
    verdicts: tuple[Verdict, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "kind": "micro",
            "engine": self.engine,
            "engine_version": self.engine_version,
            "threads": self.threads,
            "prompt_tokens": self.request.prompt,
            "steps": self.request.steps,
            "runs": self.request.runs,
            "models": [model.as_json() for model in self.models],
            "compared": [verdict.as_json() for verdict in self.verdicts],
            "seconds": round(self.seconds, 3),
        }


def bench(request: BenchRequest, emit: Sink = ignore, stop: Callable[[], bool] = never) -> Benchmark:
    """Run an artifact and the file beside it in turns.

    Raises what `BenchRequest.check` raises; InputError for what is no GGUF file; VerificationError for one that
    llama.cpp does not load; NotWritableError, ResourceError where a source cannot be converted beside the artifact.
    """
    began = time.monotonic()
    request.check()
    paths = _files(request.artifact)
    threads = request.threads or core_count()
    with _baseline(request, paths, threads, (emit, stop)) as other:
        models = [_model("artifact", request.artifact.name, paths)]
        if other is not None:
            models.append(_model("original", *other))
            _require_same_model(models, [paths, other[1]])
        found, version = _measured(models, request, threads, (emit, stop))
    verdicts = judged(*found) if len(found) > 1 else ()
    seconds = time.monotonic() - began
    emit(
        StageFinished(
            STAGE,
            seconds,
            (
                f"{counted(len(models), 'file')}, {counted(request.runs, 'run')} "
                f"each of {counted(len(request.batches), 'batch')}"
            ),
        )
    )
    return Benchmark(request.engine, version, threads, request, tuple(found), tuple(verdicts), seconds)


def _files(artifact: Path) -> tuple[Path, ...]:
    require_path(artifact)
    if not artifact.exists():
        raise InputError(f"{shown(artifact)} does not exist", path=str(artifact), hint="check the path")
    if artifact.is_dir():
        what = f"{LLAMA_CPP} does not load {shown(artifact.name)}, a checkpoint folder"
        raise UsageError(what, key="artifact", hint="give a GGUF file: quantkit convert SRC --to q4_k_m")
    return shard_paths(artifact)


def _model(role: str, name: str, paths: Sequence[Path]) -> Model:
    types: Counter[str] = Counter()
    weights = 0
    for path in paths:
        for tensor in read_gguf(path).tensors:
            types[tensor.qtype] += tensor.nbytes
            weights += prod(tensor.shape)
    return Model(role, name, str(paths[0]), sum(p.stat().st_size for p in paths), weights, dict(types.most_common()))


def _require_same_model(models: Sequence[Model], files: Sequence[Sequence[Path]]) -> None:
    """Raise InputError for two files of different models: their speeds have nothing to do with each other."""
    shapes = [{t.name: t.shape for path in paths for t in read_gguf(path).tensors} for paths in files]
    ours, theirs = shapes
    differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if differing or not ours.keys() & theirs.keys():
        where = f": {differing[0]}" if differing else ""
        what = f"{shown(models[0].name)} and {shown(models[1].name)} are not of one model{where}"
        raise InputError(what, path=models[1].path, key="against", hint="give the file or source that it was made from")


@contextmanager
def _baseline(
    request: BenchRequest, paths: Sequence[Path], threads: int, listeners: tuple[Sink, Callable[[], bool]]
) -> Iterator[tuple[str, Sequence[Path]] | None]:
    """The unquantized file: as given, or made of its source for the time being, beside the artifact."""
    if request.against is None:
        yield None
        return
    given = Path(os.path.expanduser(request.against))  # noqa: PTH111
    if given.suffix == ".gguf" and given.exists():
        yield given.name, _files(given)
        return
    emit, stop = listeners
    with closing(open_source(request.against, offline=request.offline, emit=emit)) as source:
        if isinstance(source, QuantizedCheckpoint):
            what = f"{shown(source.name)} is quantized itself: it is no unquantized file to compare with"
            raise UsageError(what, key="against", hint="give the checkpoint that the artifact was made from")
        stored = Counter[str]()
        for info in source.tensors().values():
            stored[info.dtype] += info.nbytes
        recipe = ROUND.get(stored.most_common(1)[0][0], "f32")
    asked = Request(request.against, (recipe,), offline=request.offline, pre=request.pre, mmproj=NONE)
    with prepare(asked, None, emit) as prepared:
        [plan] = prepared.plans
        folder = job_folder(paths[0], prepared.job_digest(plan))
        with open_plan_job(prepared, plan, folder) as job:
            try:
                failed: dict[int, QuantkitError] = {}
                fill_all(prepared, [(plan, job)], threads, (emit, stop), failed)
                for error in failed.values():
                    raise error
                yield f"{prepared.checkpoint.name} as {recipe}", job.paths
            finally:
                job.discard()


def _measured(
    models: Sequence[Model], request: BenchRequest, threads: int, listeners: tuple[Sink, Callable[[], bool]]
) -> tuple[list[Model], str]:
    """The models with what was measured of them, and the engine's version."""
    emit, stop = listeners
    count = len(models) * request.runs * len(request.batches)
    sequences = ", ".join(map(str, request.batches))
    what = f"{counted(request.prompt, 'token')} of prompt, {counted(request.steps, 'step')}, batches of {sequences}"
    emit(
        StageStarted(
            STAGE,
            0,
            (f"{what}, {counted(request.runs, 'time')}: {counted(count, 'process')}, {counted(threads, 'thread')}"),
        )
    )
    runs: dict[tuple[int, int], list[Run]] = {}
    tokens: list[int] = []
    version, done = "", 0
    for number in range(request.runs):
        for batch in request.batches:
            order = range(len(models)) if number % 2 == 0 else reversed(range(len(models)))
            for at in order:
                if stop():
                    raise InterruptedRunError("interrupted", hint="run the same command again")
                start = time.perf_counter()
                room = request.prompt + request.steps
                with closing(LlamaCpp(Path(models[at].path), threads, context=room, sequences=batch)) as engine:
                    load = time.perf_counter() - start
                    tokens = tokens or _prompt(engine, request.prompt)
                    version = engine.version
                    speed = engine.speed(tokens, request.steps, batch)
                runs.setdefault((at, batch), []).append(
                    Run(load, speed.prompt_seconds, speed.step_seconds, speed.peak_bytes)
                )
                done += 1
                emit(BlockProgress(STAGE, models[at].name, done, count, batch, max(request.batches)))
    found = []
    for at, model in enumerate(models):
        batches = tuple(Batch(batch, request.prompt, tuple(runs[at, batch])) for batch in request.batches)
        found.append(model.with_batches(batches))
    return found, version


def _prompt(engine: LlamaCpp, count: int) -> list[int]:
    """Natural text, so many tokens of it."""
    text = "\n\n".join(str(row["text"]) for row in shipped_rows(FILE.read_bytes(), chat=False))
    ids = engine.tokenize(text)
    if not ids:
        raise InputError(f"{shown(engine.path.name)} has no tokens for a text", path=str(engine.path))
    return (ids * (count // len(ids) + 1))[:count]
