"""Prompts and tasks of eval: read with the model's tokenizer, put to the original and all artifacts, compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod

from quantkit.calibration.text.data import model_tokens
from quantkit.calibration.text.samples import Texts
from quantkit.calibration.text.spec import embedding_rows, longest_context
from quantkit.errors import UsageError
from quantkit.evaluation.answers import PromptReport, compare_answers
from quantkit.evaluation.artifacts import text_of
from quantkit.evaluation.corpus import Corpus, Cutting, cut_texts, require_continuing
from quantkit.evaluation.gates import Gate
from quantkit.evaluation.prompts import GOLDEN, Asked, PromptSet, asked_of, read_prompts
from quantkit.evaluation.provable import fitting_set
from quantkit.evaluation.sides import Side
from quantkit.evaluation.tasks import TaskFigure, TaskOptions
from quantkit.events import Sink, StageFinished, StageStarted
from quantkit.machine import core_count
from quantkit.pipeline.estimate import FLOPS_PER_NS
from quantkit.report.text import duration
from quantkit.source import Checkpoint
from quantkit.units import counted

PROMPT_TOKENS = 64
STAGE = "prompts"
DEARER = 3  # what a token costs that is written rather than read: one at a time the weights are read for few


def prompts_for(gates: Sequence[Gate]) -> str | None:
    """The sets of prompts that gates ask for by themselves, as --prompts takes them; None for none."""
    return fitting_set([gate.metric.name for gate in gates if gate.metric.needs == "prompts"])


def read_set(spec: str | None, length: int) -> PromptSet | None:
    """The prompts that are asked for, None for none. Raises UsageError, InputError."""
    if length < 1:
        raise UsageError(f"--prompt-tokens {length}", key="prompt_tokens", hint="1 or more")
    return None if spec is None else read_prompts(spec)


def asked(prompts: PromptSet, source: Checkpoint, length: int) -> Asked:
    """Prompts as tokens of a model; reads no weights. Raises what `asked_of` raises."""
    require_continuing(source, "prompts")
    tokens = model_tokens(source, embedding_rows(source))
    return asked_of(prompts, source, tokens, length, longest_context(source))


def text_of_prompts(prompts: Asked | None, source: Checkpoint, cut: Cutting) -> Corpus:
    """The text of prompts, without any that of the set that ships: for figures on text where none is given."""
    prompts = prompts or asked(read_prompts(GOLDEN), source, 1)
    found = prompts.prompts
    texts = Texts(prompts.texts, f"prompts {found.name}", found.sha256)
    return cut_texts(texts, model_tokens(source, embedding_rows(source)), cut)


def answered(
    prompts: Asked, length: int, original: Side, sides: Sequence[Side], threads: int | None, emit: Sink
) -> list[PromptReport]:
    """What each side makes of the prompts beside the original."""
    from quantkit.evaluation.asking import ask  # torch: only once everything else is in order

    began = time.monotonic()
    _say_cost(prompts, length, 1 + len(sides), original.checkpoint, threads, emit)
    heard = ask(prompts, length, original, sides, threads=threads, emit=emit)
    emit(StageFinished(STAGE, time.monotonic() - began, f"{counted(len(prompts.ids), 'prompt')}"))
    text = text_of(original.checkpoint)
    return [compare_answers(prompts, length, heard[0], each, text) for each in heard[1:]]


def _say_cost(prompts: Asked, length: int, models: int, source: Checkpoint, threads: int | None, emit: Sink) -> None:
    """Say, before it is done, what will be run and about how long that takes."""
    read, written = sum(map(len, prompts.ids)), length * len(prompts.ids)
    weights = sum(prod(info.shape) for info in source.tensors().values())
    work = 2 * weights * models * (2 * read + (1 + DEARER) * written)  # once to write, once for likelihoods
    seconds = work * 1e-9 / (FLOPS_PER_NS * (threads or core_count()))
    what = (
        f"{counted(len(prompts.ids), 'prompt')} of {prompts.prompts.name}: "
        f"{counted(read, 'token')} read, {written:,} written at most"
    )
    emit(
        StageStarted(
            STAGE,
            detail=f"{what}, by each of {counted(models, 'model')}, about {duration(max(seconds, 1.0))} of idle cores",
        )
    )


def require_at_hand(tasks: Sequence[str], options: TaskOptions) -> None:
    """See `harness.require_tasks`; nothing for no tasks."""
    if tasks:
        from quantkit.evaluation.harness import require_tasks

        require_tasks(tasks, options)


def harnessed(
    tasks: Sequence[str], options: TaskOptions, original: Side, sides: Sequence[Side], threads: int | None, emit: Sink
) -> Sequence[tuple[TaskFigure, ...] | None]:
    """What each side makes of the tasks beside the original; None for each where there are none."""
    if not tasks:
        return [None] * len(sides)
    from quantkit.evaluation.harness import run_tasks

    began = time.monotonic()
    found = run_tasks(tasks, options, original, sides, threads=threads, emit=emit)
    emit(StageFinished("tasks", time.monotonic() - began, ", ".join(tasks)))
    return [tuple(figures) for figures in found]
