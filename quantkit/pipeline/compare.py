"""The compare stage: two models side by side, tensors, header, tokenizer and sizes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from math import inf
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import InputError, QuantkitError, UnsupportedError, UsageError, VerificationError
from quantkit.evaluation.artifacts import opened_artifact, served_inputs, served_rounding, stored_tensors
from quantkit.evaluation.comparison import Difference, Pairs, differences, paired, summed
from quantkit.evaluation.sides import Side
from quantkit.events import Sink, StageFinished, StageStarted, TensorProgress, ignore
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.machine import core_count
from quantkit.metadata import KeyValue
from quantkit.pipeline.given import coerce, given_optional, given_text, given_texts
from quantkit.pipeline.inspect import _fact, _kind
from quantkit.plan.describe import describe_source
from quantkit.quality.made_gguf import tokenizer_keys
from quantkit.records import record
from quantkit.report.kinds import by_type, stored_kinds
from quantkit.source import Checkpoint, open_source
from quantkit.source.base import require_runnable
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tensors import TensorInfo
from quantkit.tokenizer.check import check_tokenizer
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.probes import probes
from quantkit.units import counted
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from quantkit.evaluation.side_by_side import Continued

STAGE = "compare"
TOKENS = "tokenizer.ggml.tokens"
LENGTH = 48  # tokens behind a prompt
PROMPTS = (
    "The three most important things to know about this are",
    "def read_lines(path):\n    ",
    "Question: What is 17 + 25?\nAnswer:",
    '{"name": "example", "version": ',
)
MAX_KEYS = 4096  # of a configuration: what is nested deeper counts with its parent


@record
class CompareRequest:
    """Which two models: each a GGUF file, the folder of a checkpoint, or a source with any spelling. `pre` is the
    pre-tokenizer that convert was told, where a GGUF file stands beside a checkpoint. With `text`, or `prompts` of
    one's own, both continue prompts greedily by `length` tokens; two GGUF files run under the configuration of the
    source, `against`."""

    a: str
    b: str
    threads: int | None = None
    offline: bool = False
    pre: str | None = None
    text: bool = False
    prompts: tuple[str, ...] = ()
    length: int = LENGTH
    against: str | None = None

    def __post_init__(self) -> None:
        coerce(self, {"a": given_text, "b": given_text, "prompts": given_texts, "against": given_optional})

    @property
    def asked(self) -> tuple[str, ...]:
        """The prompts to continue, () for none."""
        return self.prompts or (PROMPTS if self.text else ())


@record
class Model:
    """One of the two: what it is called and made of."""

    name: str
    path: str
    kind: str
    nbytes: int
    tensors: tuple[TensorInfo, ...]

    def as_json(self) -> dict[str, Any]:
        kinds = [kind.as_json() for kind in stored_kinds(self.tensors)]
        types = [
            {"type": kind.lower(), "tensors": tensors, "weights": weights, "bytes": nbytes}
            for kind, tensors, weights, nbytes in by_type(kinds)
        ]
        return {"name": self.name, "path": self.path, "kind": self.kind, "bytes": self.nbytes, "types": types}


@record
class Key:
    """An entry of the header or configuration that differs, its values in words; None where one has no such entry."""

    key: str
    a: str | None
    b: str | None


@record
class Compared:
    """What was found. `tokenizer` says how the tokenizers differ, "" where they give the same ids, None where that
    cannot be said, for `tokenizer_unknown`."""

    a: Model
    b: Model
    both: tuple[Difference, ...]
    only_a: tuple[TensorInfo, ...]
    only_b: tuple[TensorInfo, ...]
    metadata: tuple[Key, ...]
    tokenizer: str | None
    tokenizer_unknown: str
    seconds: float
    text: tuple[Continued, ...] = ()

    @property
    def differing(self) -> list[Difference]:
        """Tensors of both that are not equal, those that are furthest apart first."""
        found = [each for each in self.both if not each.equal]
        return sorted(found, key=lambda each: (-_far(each), each.name))

    @property
    def equal(self) -> bool:
        """Whether the two are the same model, stored the same."""
        return not (self.differing or self.only_a or self.only_b or self.metadata or self.tokenizer != "")

    def as_json(self) -> dict[str, Any]:
        return {
            "a": self.a.as_json(),
            "b": self.b.as_json(),
            "equal": self.equal,
            "tensors": {
                "compared": len(self.both),
                "equal": sum(each.equal for each in self.both),
                "only_a": [info.name for info in self.only_a],
                "only_b": [info.name for info in self.only_b],
                "by_type": summed(self.both),
                "differing": [each.as_json() for each in self.differing],
            },
            "metadata": [{"key": key.key, "a": key.a, "b": key.b} for key in self.metadata],
            "tokenizer": {
                "equal": None if self.tokenizer is None else not self.tokenizer,
                "difference": self.tokenizer or self.tokenizer_unknown,
            },
            "text": [each.as_json() for each in self.text],
            "seconds": round(self.seconds, 3),
        }

    def require_equal(self) -> None:
        """Raise VerificationError unless the two are equal."""
        if not self.equal:
            what = (
                f"{shown(self.a.name)} and {shown(self.b.name)} differ: "
                f"{counted(len(self.differing), 'tensor')} of both"
            )
            alone = len(self.only_a) + len(self.only_b)
            what += f", {alone:,} of one alone, {len(self.metadata):,} keys"
            raise VerificationError(what, path=self.a.path, hint="leave --exit-code out where differing is no failure")


def _far(each: Difference) -> float:
    return inf if each.relative is None else each.relative


def compare(request: CompareRequest, emit: Sink = ignore) -> Compared:
    """Compare two models. Reads every weight of both once, in slabs.

    Raises InputError and UnsupportedError for what cannot be opened, UsageError for a model beside itself,
    NetworkError.
    """
    began = time.monotonic()
    if os.path.realpath(request.a) == os.path.realpath(request.b) and os.path.exists(request.a):  # noqa: PTH110
        raise UsageError(f"{shown(request.a)} beside itself", key="b", hint="give two files or folders")
    _require_source(request)
    if request.asked:
        require_installed("--text" if request.text else "--prompt", RUN_MODELS)
    with (
        closing(open_source(request.a, offline=request.offline, emit=emit)) as a,
        closing(open_source(request.b, offline=request.offline, emit=emit)) as b,
        paired(a, b, request.pre, request.threads) as pairs,
    ):
        both = _differences(pairs, request.threads, emit)
        keys = tuple(_keys(a, b, request.pre))
        tokenizer, unknown = _tokenizers(a, b)
        one, two = _model(a, request.a), _model(b, request.b)
        text = _text(request, a, b, tokenizer, emit) if request.asked else ()
        a.unchanged()
        b.unchanged()
    seconds = time.monotonic() - began
    emit(StageFinished(STAGE, seconds, f"{counted(len(both), 'tensor')} of both"))
    return Compared(one, two, tuple(both), pairs.only_a, pairs.only_b, keys, tokenizer, unknown, seconds, text)


def _differences(pairs: Pairs, threads: int | None, emit: Sink) -> list[Difference]:
    total = sum(4 * b.info.elements for _, b in pairs.both.values())
    emit(StageStarted(STAGE, total, f"{counted(len(pairs.both), 'tensor')} of both"))
    done, count = 0, 0
    turn = Lock()

    def beat(name: str, weights: int) -> None:
        nonlocal done, count
        with turn:  # tensors are compared in several threads
            done, count = done + 4 * weights, count + 1
            emit(TensorProgress(STAGE, name, "", count, len(pairs.both), done, total))

    return differences(pairs, threads or core_count(), beat)


def _require_source(request: CompareRequest) -> None:
    if request.asked and not request.against and all(spec.endswith(".gguf") for spec in (request.a, request.b)):
        what = "two GGUF files write text under the configuration of their source, which is not given"
        raise UsageError(what, key="against", hint="give it with --against SRC, or leave --text and --prompt out")


def _text(
    request: CompareRequest, a: Checkpoint, b: Checkpoint, tokenizer: str | None, emit: Sink
) -> tuple[Continued, ...]:
    """What both write behind the prompts. Raises InputError for models whose tokens differ."""
    from quantkit.evaluation.side_by_side import side_by_side  # torch: only where models run

    if tokenizer:
        what = f"{shown(request.a)} and {shown(request.b)} have different tokenizers: {tokenizer}"
        raise InputError(what, key="tokenizer", hint="leave --text and --prompt out")
    with ExitStack() as stack:
        source = next((each for each in (b, a) if each.kind != "gguf"), None)
        if request.against or source is None:
            assert request.against, "_require_source"
            source = stack.enter_context(closing(open_source(request.against, offline=request.offline, emit=emit)))
        require_runnable(source)
        one, two = (_side(each, source, request.pre, stack) for each in (a, b))
        options = (request.asked, request.length)
        return side_by_side((one, two), source, *options, threads=request.threads, emit=emit)


def _side(checkpoint: Checkpoint, source: Checkpoint, pre: str | None, stack: ExitStack) -> Side:
    if checkpoint.kind == "gguf":
        path = Path(checkpoint.files()[0].path)
        return stack.enter_context(opened_artifact(path, source, pre=pre)).side
    rounding = served_rounding(checkpoint)
    return Side(checkpoint.name, checkpoint, rounding, served_inputs(checkpoint, rounding))


def _model(checkpoint: Checkpoint, spec: str) -> Model:
    nbytes = sum(file.nbytes for file in checkpoint.files() if file.weights)
    kind = "gguf" if checkpoint.kind == "gguf" else "checkpoint"
    name = os.path.basename(os.path.normpath(spec)) if os.path.exists(spec) else checkpoint.name  # noqa: PTH110, PTH119
    return Model(name, spec, kind, nbytes, stored_tensors(checkpoint))


# --- headers and configurations ---------------------------------------------------------------------------------------


def _keys(a: Checkpoint, b: Checkpoint, pre: str | None) -> Iterator[Key]:
    """Entries that differ. Beside a checkpoint, a GGUF file's are compared with those that convert would write."""
    mixed = (a.kind == "gguf") != (b.kind == "gguf")
    here, there = (_entries(each, described=mixed, pre=pre) for each in (a, b))
    for key in dict.fromkeys((*here, *there)):
        one, two = here.get(key), there.get(key)
        if one is None or two is None or one[0] != two[0]:
            yield Key(key, one and one[1], two and two[1])


def _entries(checkpoint: Checkpoint, *, described: bool, pre: str | None) -> dict[str, tuple[object, str]]:
    """Key -> what is compared, and that in words."""
    if checkpoint.kind == "gguf":
        return _header(checkpoint.metadata)
    if described:
        return _header(describe_source(checkpoint, pre).metadata)
    flat = dict(_flat(checkpoint.config, ""))
    if isinstance(checkpoint, QuantizedCheckpoint):
        flat |= dict(_flat(checkpoint.quantization, "quantization_config."))
    return {key: (_plain(value), _fact(key, "", value).text()) for key, value in flat.items()}


def _header(metadata: Sequence[KeyValue]) -> dict[str, tuple[object, str]]:
    return {kv.key: ((kv.kind, kv.array, _stored(kv)), _fact(kv.key, _kind(kv), kv.value).text()) for kv in metadata}


def _stored(kv: KeyValue) -> list[Any]:
    """The values as a file holds them: what was planned for a float32 may have more digits."""
    return [np.float32(value) for value in kv.items()] if kv.kind == "f32" else kv.items()


def _flat(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in list(config.items())[:MAX_KEYS]:
        if isinstance(value, Mapping) and value and prefix.count(".") < 4:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    """What two values of JSON are compared by: 1 and True are not the same, nor are 1 and 1.0."""
    return repr(value)


# --- tokenizers -------------------------------------------------------------------------------------------------------


def _tokenizers(a: Checkpoint, b: Checkpoint) -> tuple[str | None, str]:
    """How they differ ("" where they do not), or None and why nobody can say."""
    try:
        if a.kind == b.kind == "gguf":
            return _of_headers(a, b), ""
        if "gguf" in (a.kind, b.kind):
            file, source = (a, b) if a.kind == "gguf" else (b, a)
            found = check_tokenizer(file.metadata, source.read_file, source.config)
            return "" if found.ok else found.difference or next(iter(found.problems), "they differ"), ""
        return _of_files(a, b), ""
    except (InputError, UnsupportedError) as error:
        return None, _why(error)


def _why(error: QuantkitError) -> str:
    return f"not compared: {error.message}"


def _of_headers(a: Checkpoint, b: Checkpoint) -> str:
    here, there = tokenizer_keys(a.metadata), tokenizer_keys(b.metadata)
    if here == there:
        return ""
    one, two = (list(each) if isinstance(each, list) else [] for each in (here.get(TOKENS), there.get(TOKENS)))
    if len(one) != len(two):
        return f"a has {counted(len(one), 'token')}, b {len(two):,}"
    for at, (ours, theirs) in enumerate(zip(one, two, strict=True)):
        if ours != theirs:
            return _token(at, ours, theirs)
    return f"{next(key for key in (*here, *there) if here.get(key) != there.get(key))} differs"


def _token(at: int, ours: object, theirs: object) -> str:
    return f'token {at:,} is "{shown(_word(ours), 40)}" in a, "{shown(_word(theirs), 40)}" in b'


def _word(token: object) -> str:
    return token.decode("utf-8", "backslashreplace") if isinstance(token, bytes) else str(token)


def _of_files(a: Checkpoint, b: Checkpoint) -> str:
    names = {
        name
        for each in (a, b)
        for name in each.file_names()
        if "token" in name or name.endswith((".model", "merges.txt"))
    }
    if all(a.read_file(name) == b.read_file(name) for name in names):
        return ""
    here, there = (open_source_tokenizer(each.read_file, each.config) for each in (a, b))
    for at in sorted({*here.vocabulary, *there.vocabulary}):
        if here.vocabulary.get(at) != there.vocabulary.get(at):
            return _token(at, here.vocabulary.get(at, ""), there.vocabulary.get(at, ""))
    texts = probes()
    for text, ours, theirs in zip(texts, here.encode(texts), there.encode(texts), strict=True):
        if ours != theirs:
            return f'"{shown(text, 40)}" is {shown(str(ours[:8]))} in a, {shown(str(theirs[:8]))} in b'
    return ""
