"""Tasks of lm-eval, the evaluation harness that most published figures come from, for the original and for artifacts.

The harness asks a model for likelihoods of continuations and for text up to some words. Both are answered here for all
models at once, in lockstep; what the harness asks again for the next model is there already. Tokens, windows and
truncation are those of the harness's own class for transformers models, so that figures are comparable; the chat
template is not applied, as is its default. Nothing is fetched, and no task runs code that models write, unless asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from quantkit.calibration.text.data import model_tokens
from quantkit.calibration.text.spec import embedding_rows, last_position, longest_context
from quantkit.errors import InputError, UnsupportedError, UsageError, did_you_mean
from quantkit.evaluation.artifacts import text_of
from quantkit.evaluation.corpus import Piece
from quantkit.evaluation.generation import Until, continuations
from quantkit.evaluation.likelihood import likelihoods
from quantkit.evaluation.prompts import ending_tokens
from quantkit.evaluation.scores import Likelihood
from quantkit.evaluation.sides import Side
from quantkit.evaluation.tasks import TaskFigure, TaskOptions
from quantkit.events import Sink, ignore
from quantkit.extras import require_installed
from quantkit.tokenizer.files import TOKENIZER_CONFIG, read_object
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.units import counted
from quantkit.untrusted import shown

GENERATED, CONTEXT = 256, 2048  # the harness's own, where neither task nor model says
RESAMPLES = 1000
METHODS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


def require_tasks(names: Sequence[str], options: TaskOptions) -> None:
    """Load the tasks and their data. Raises UnsupportedError without the package, UsageError for unknown tasks and for
    those that run code unless that was asked for, InputError where their data is not at hand."""
    with _harness(options) as (_, manager):
        unknown = [name for name in names if name not in manager.all_tasks]
        if unknown:
            near = did_you_mean(unknown[0], manager.all_tasks)
            hint = "names are those of `lm-eval ls tasks`; --tasks-from DIR adds your own"
            raise UsageError(f'lm-eval has no task "{shown(unknown[0], 60)}"{near}', key="tasks", hint=hint)
        for name in names:
            loaded = _loaded(manager, name)
            unsafe = [each for each, task in loaded.items() if getattr(task, "UNSAFE_CODE", False)]
            if unsafe and not options.run_code:
                what = f"task {shown(unsafe[0], 60)} runs what models write as code"
                hint = "where that may happen, in a container without a network: quantkit eval --run-code"
                raise UsageError(what, key="tasks", hint=hint)


def _loaded(manager: Any, name: str) -> Mapping[str, Any]:
    import datasets

    try:
        found: Mapping[str, Any] = manager.load([name])["tasks"]
    except (OSError, ValueError, KeyError, ImportError, datasets.exceptions.DatasetsError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        what = f"the data of task {shown(name, 60)} is not at hand: {shown(reason, 200)}"
        hint = "fetch it beforehand with the Hugging Face tools, or let the harness do it: quantkit eval --fetch-tasks"
        raise InputError(what, key="tasks", hint=hint) from error
    return found


@contextmanager
def _harness(options: TaskOptions) -> Iterator[tuple[Any, Any]]:
    """The package and a manager of its tasks; without a network unless that was asked for."""
    require_installed("--harness lm-eval", ["lm_eval"], key="harness")
    import datasets
    import lm_eval
    from huggingface_hub import constants
    from lm_eval.tasks import TaskManager

    places = [(constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in places]
    try:
        for module, name in places if not options.fetch else ():
            setattr(module, name, True)
        yield lm_eval, TaskManager(include_path=options.folder)
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


def run_tasks(
    names: Sequence[str],
    options: TaskOptions,
    reference: Side,
    others: Sequence[Side],
    *,
    threads: int | None = None,
    emit: Sink = ignore,
) -> list[list[TaskFigure]]:
    """The figures of each of `others` beside the reference's. Raises what `require_tasks`, `likelihoods` and
    `continuations` raise."""
    require_tasks(names, options)
    together = Together(reference, others, threads, emit)
    found = []
    with _harness(options) as (lm_eval, manager):
        for number in range(1 + len(others)):
            body = lm_eval.simple_evaluate(
                model=_model(lm_eval, together, number),
                tasks=list(names),
                num_fewshot=options.fewshot,
                limit=options.limit,
                bootstrap_iters=RESAMPLES,
                log_samples=False,
                task_manager=manager,
                confirm_run_unsafe_code=options.run_code,
            )
            found.append(_figures(body))
    return [
        [TaskFigure(*key, count, *other[key][1:], *found[0][key][1:]) for key, (count, _, _) in other.items()]
        for other in found[1:]
    ]


def _figures(body: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, float, float | None]]:
    """Documents, value and standard error of each metric of each task."""
    out = {}
    for task, metrics in body["results"].items():
        count = int((body.get("n-samples") or {}).get(task, {}).get("effective", 0))
        for name, value in metrics.items():
            metric, _, how = name.partition(",")
            if isinstance(value, int | float) and how and not metric.endswith("_stderr"):
                error = metrics.get(f"{metric}_stderr,{how}")
                shown_as = metric if how == "none" else f"{metric} ({how})"
                out[task, shown_as] = (count, float(value), float(error) if isinstance(error, int | float) else None)
    return out


def _model(lm_eval: Any, together: Together, number: int) -> Any:
    """A model as the harness knows them."""

    def method(name: str) -> Callable[..., Any]:
        return lambda self, requests, disable_tqdm=False: getattr(together, name)(number, [r.args for r in requests])

    base = lm_eval.api.model.LM
    return type("Quantkit", (base,), {name: method(name) for name in METHODS})()


class Together:
    """What the harness asks, answered by all models at once."""

    def __init__(self, reference: Side, others: Sequence[Side], threads: int | None, emit: Sink) -> None:
        self.reference, self.others, self.threads, self.emit = reference, others, threads, emit
        source = reference.checkpoint
        self.tokens = model_tokens(source, embedding_rows(source))
        self.text = text_of(source)
        self.ends = ending_tokens(source)
        self.prefix = _prefix(reference) or next(iter(sorted(self.ends)), self.tokens.bos or 0)
        behind = 1 if last_position(source) else 0  # what is predicted last is run as well
        self.longest = (longest_context(source) or CONTEXT) - behind
        self._known: dict[Any, list[Any]] = {}

    def loglikelihood(self, number: int, asked: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        found = self._likely([self._pair(*each) for each in asked])[number]
        return [(each.log, each.first) for each in found]

    def loglikelihood_rolling(self, number: int, asked: Sequence[tuple[str]]) -> list[float]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pieces, owners = [], []
        for at, (text,) in enumerate(asked):
            windows = get_rolling_token_windows(self._framed(text), self.prefix, self.longest, 1)
            for before, after in map(make_disjoint_window, windows):
                pieces.append((tuple(before), tuple(after)))
                owners.append(at)
        logs = [0.0] * len(asked)
        for at, each in zip(owners, self._likely(pieces)[number], strict=True):
            logs[at] += each.log
        return logs

    def generate_until(self, number: int, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        found = [""] * len(asked)
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for at, (_, settings) in enumerate(asked):
            groups.setdefault(_settings(settings), []).append(at)
        for (until, length), numbers in groups.items():
            texts = self._written(tuple(asked[at][0] for at in numbers), until, length)[number]
            for at, text in zip(numbers, texts, strict=True):
                found[at] = text
        return found

    def _framed(self, text: str) -> list[int]:
        """As the tokenizer writes a text that stands by itself."""
        ids = self.tokens.encode(text)
        first = [] if self.tokens.bos is None or ids[:1] == [self.tokens.bos] else [self.tokens.bos]
        return [*first, *ids]

    def _pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of a context and of what stands behind it: spaces at the end of the context belong to that."""
        if not context:
            ids = self.tokens.encode(continuation)
            before, after = (ids[:1], ids[1:]) if ids[:1] == [self.prefix] else ([self.prefix], ids)
        else:
            spaces = len(context) - len(context.rstrip())
            bare = context[: len(context) - spaces]
            before = self._framed(bare)
            after = self._framed(context + continuation)[len(before) :]
        room = self.longest + 1 - len(after)
        return tuple(before[-room:] if room > 0 else before[-1:]), tuple(after[-self.longest :])

    def _likely(self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[list[Likelihood]]:
        key = ("likely", tuple(pairs))
        if key not in self._known:
            pieces = [Piece(before, after) for before, after in pairs]
            models = (self.reference, self.others, pieces)
            self._known[key] = likelihoods(*models, threads=self.threads, emit=self.emit)
        return self._known[key]

    def _written(self, prompts: tuple[str, ...], until: tuple[str, ...], length: int) -> list[list[str]]:
        key = ("written", prompts, until, length)
        if key not in self._known:
            room = self.longest - length
            if room < 1:
                what = f"a task asks for {counted(length, 'token')}, the model takes {self.longest:,}"
                raise InputError(what, key="tasks", hint="leave the task out")

            def done(number: int, tokens: Sequence[int]) -> bool:
                text = self.text(list(tokens))
                return any(word in text for word in until)

            ids = [self._framed(prompt)[-room:] for prompt in prompts]
            end = Until(self.ends, done)
            sides = (self.reference, *self.others)
            found = continuations(sides, ids, length, until=end, threads=self.threads, emit=self.emit)
            self._known[key] = [[self._cut(tokens, until) for tokens in side] for side in found]
        return self._known[key]

    def _cut(self, tokens: Sequence[int], until: tuple[str, ...]) -> str:
        kept = list(tokens[:-1] if tokens and tokens[-1] in self.ends else tokens)
        text = self.text(kept)
        for word in until:
            text = text.split(word)[0]
        return text


def _prefix(side: Side) -> int | None:
    """The token that the tokenizer's settings name as the one that begins texts, whether or not it is put there."""
    settings = read_object(side.checkpoint.read_file, TOKENIZER_CONFIG) or {}
    name = settings.get("bos_token")
    name = name.get("content") if isinstance(name, Mapping) else name
    ids = open_source_tokenizer(side.checkpoint.read_file, side.checkpoint.config).ids
    return ids.get(name) if isinstance(name, str) else None


def _settings(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """The words that end a text, and the most tokens. Raises UnsupportedError for what is not greedy."""
    if settings.get("do_sample") and settings.get("temperature", 1.0):
        hint = "leave the task out: continuations are greedy"
        raise UnsupportedError("a task asks for samples instead of the most likely text", key="tasks", hint=hint)
    until = settings.get("until") or ()
    words = (until,) if isinstance(until, str) else tuple(until)
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    length = next((settings[name] for name in names if settings.get(name)), GENERATED)
    return tuple(word for word in words if word), int(length)
