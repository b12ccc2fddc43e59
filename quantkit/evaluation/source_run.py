"""A source that engines are compared with, and our own runs of models beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.evaluation.sides import Side
from quantkit.events import Sink, StageStarted
from quantkit.families.known import CLASSES
from quantkit.families.model import Model
from quantkit.formats.gguf.file import read_gguf
from quantkit.quality.decoded import DecodedCheckpoint
from quantkit.quality.engines.llamacpp import CONTEXT, LlamaCpp
from quantkit.quality.tensor_errors import undecodable
from quantkit.report.text import count, duration
from quantkit.source import Checkpoint
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.evaluation.corpus import Corpus
    from quantkit.evaluation.engines import Engine, Ran
    from quantkit.evaluation.sides import Rounding
    from quantkit.evaluation.vectors import Given

STAGE = "verify"
LONG_FACTORS = "rope_factors_long.weight"
FLOPS_PER_NS = 30.0  # of float32 products on one core, and of an engine's


class SourceRun:
    """A source, the text of the check, and once it has run what it predicts: for all artifacts of a run."""

    def __init__(self, checkpoint: Checkpoint, model: Model | None = None) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self._corpus: Corpus | None = None
        self._ran: Ran | None = None
        self._engine: Engine | None = None
        self._given: Given | None = None

    @property
    def runs_here(self) -> bool:
        """Whether the model can be run by our own code; a GGUF source runs in llama.cpp only."""
        return self.checkpoint.kind != "gguf"

    @property
    def weights(self) -> int:
        return sum(info.elements for info in self.checkpoint.tensors().values())

    @property
    def has_run(self) -> bool:
        return any(found is not None for found in (self._ran, self._engine, self._given))

    def corpus(self, engine: LlamaCpp | None = None) -> Corpus:
        """The text; a GGUF source's tokens are those of the engine."""
        from quantkit.evaluation.sample import checked_text, padded, text_by_engine

        if self._corpus is None and self.runs_here:
            self._corpus = padded(checked_text(self.checkpoint), _least_tokens(self.model))
        elif self._corpus is None:
            assert engine is not None
            self._corpus = text_by_engine(engine.tokenize, engine.vocabulary, engine.weights)
        return self._corpus

    def ran(self, threads: int, emit: Sink) -> Ran:
        """The source behind its last block."""
        if self._ran is None:
            assert self._corpus is not None
            self._ran = run_side(self._side, self._corpus, threads, emit)
        return self._ran

    def given(self, threads: int, emit: Sink) -> Given:
        """What the source makes of the tokens: vectors, and scores where its head gives any."""
        from quantkit.evaluation.vectors import own_given

        if self._given is None:
            assert self._corpus is not None
            self._given = own_given(self._side, self._corpus, self.labels, threads, STAGE, emit)
        return self._given

    @property
    def labels(self) -> int:
        """How many scores the head of a classifier or reranker gives; 0 without one."""
        tensors = () if self.model is None else self.model.tensors
        return next((tensor.shape[0] for tensor in tensors if tensor.name == CLASSES), 0)

    @property
    def _side(self) -> Side:
        from quantkit.evaluation.artifacts import served_rounding

        return Side(self.checkpoint.name, self.checkpoint, served_rounding(self.checkpoint))

    def engine(self, threads: int) -> Engine:
        """A GGUF source in llama.cpp."""
        from quantkit.evaluation.sample import Recorded

        if self._engine is None:
            [first, *_] = [f for f in self.checkpoint.files() if f.weights]
            self._engine = Recorded(LlamaCpp(Path(first.path), threads), {})
        return self._engine

    def close(self) -> None:
        """End the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()


def run_side(side: Side, corpus: Corpus, threads: int, emit: Sink) -> Ran:
    """A model of ours behind its last block."""
    from quantkit.evaluation.engines import ran  # torch: only once everything else is in order

    return ran(side, corpus, threads, STAGE, emit)


def as_ggml(decoded: DecodedCheckpoint) -> Callable[[str], Rounding | None]:
    """How llama.cpp rounds the inputs of layers, for the types of the file."""
    from quantkit.quality.inputs import ggml_rounding

    return lambda tensor: ggml_rounding(decoded.stored_type(tensor))


def why_unread(paths: Sequence[Path]) -> str | None:
    """Why no other reader decodes what files hold; None where one does."""
    return undecodable(frozenset(tensor.qtype for path in paths for tensor in read_gguf(path).tensors))


def say_cost(corpus: Corpus, weights: int, runs: int, threads: int, emit: Sink) -> None:
    """Say, before it is done, what will be run and about how long that takes."""
    tokens = sum(batch.tokens.size for batch in corpus.batches)
    seconds = 2 * weights * tokens * runs * 1e-9 / (FLOPS_PER_NS * threads)
    what = (
        f"{counted(corpus.tokens, 'token')} of the {corpus.name} "
        f"text, {counted(runs, 'run')} of {count(weights)} weights"
    )
    emit(StageStarted(STAGE, detail=f"{what}, about {duration(max(seconds, 1.0))}"))


def _least_tokens(model: Model | None) -> int:
    """How long a sequence has to be for the rope factors that llama.cpp takes: it chooses them by its own context."""
    if model is None:
        return 1
    values = {kv.key: kv.items()[0] for kv in model.metadata if kv.key.endswith("rope.scaling.original_context_length")}
    original = next(iter(values.values()), CONTEXT)
    chosen = any(t.name == LONG_FACTORS for t in model.tensors) and isinstance(original, int) and original < CONTEXT
    return int(original) + 1 if chosen else 1
