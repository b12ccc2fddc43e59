"""An artifact in an engine. Two questions, which have nothing to do with each other.

Is the file right?      The engine on the artifact against our own float32 run of what the artifact decodes to. Only the
                        engine's arithmetic lies between: the verdict.
How far is it from the source?   The engine on the artifact against the source: what the bits cost. Told with its
                        standard error, and never a verdict; gates judge it (`quantkit eval --gate`).

What the arithmetic costs depends on the weights: engines round the inputs of layers to 8 bits. So it is measured on the
artifact at hand, by another run of ours with inputs rounded likewise. docs/numerics.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.evaluation.engine_judgement import ARITHMETIC, Measure, judged, upper
from quantkit.evaluation.engine_vectors import compare_vectors, why_no_vectors
from quantkit.evaluation.opening import TORCH, open_transformers
from quantkit.evaluation.sides import Side
from quantkit.evaluation.source_run import STAGE, SourceRun, as_ggml, run_side, say_cost, why_unread
from quantkit.events import Sink, StageStarted, ignore
from quantkit.families.known import gives_no_text
from quantkit.families.model import Model
from quantkit.machine import core_count
from quantkit.quality.checks.base import Check, VerifyOptions
from quantkit.quality.checks.tokenizer import compare_tokens
from quantkit.quality.decoded import open_decoded
from quantkit.quality.engines import LLAMA_CPP
from quantkit.quality.engines.llamacpp import LlamaCpp
from quantkit.quality.engines.transformers import TRANSFORMERS
from quantkit.quality.headers import differing_numbers
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.evaluation.corpus import Corpus
    from quantkit.evaluation.engines import Engine, Ran
    from quantkit.evaluation.scores import F64

CHECKED = (LLAMA_CPP, TRANSFORMERS, TORCH)
SAID_TOKENS = 24
JUDGE = "cls."  # tensors of a reranker
EMBEDDING = "token_embd.weight"

# KL divergence in nats of an engine from our run of the same weights, the upper quartile of the predictions: an
# undecided router of a mixture sends single tokens elsewhere. `same` is what a cache in float16 and products in another
# order cost. Beyond it rounded inputs may explain ARITHMETIC times what they cost in our own run: on files of 14
# types of two models llama.cpp was at 0.9 to 1.1 times that where 8 bits count (docs/numerics.md).
DIVERGENCE = Measure("kl", "KL", "what its weights give", same=5e-4)
# What a loader that computes in bfloat16 or float16 may differ by. The eight bits of a bfloat16 are no fewer than those
# of rounded inputs, which cost SmolLM2-135M 0.005: four times that.
SIXTEEN_BITS = 0.02
# The same for a checkpoint whose loader rounds inputs: SmolLM2-135M loses 0.02 to 0.1 by it, one whose scales of
# inputs are wrong, or whose inputs do not fit 8 bits, 1 and more.
ROUNDED_INPUTS = 0.3


@record
class _Distance:
    """KL divergence in nats, over the predictions of a text."""

    mean: float
    error: float
    largest: float
    agreement: float
    tokens: int
    of: str

    @property
    def words(self) -> str:
        return (
            f"KL to the source {self.mean:.4f} ± {self.error:.4f}, top token {100 * self.agreement:.1f} % "
            f"over {counted(self.tokens, 'token')} of {self.of}"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "kl_mean": self.mean,
            "kl_standard_error": self.error,
            "kl_max": self.largest,
            "top_token_agreement": self.agreement,
            "contexts": self.tokens,
            "data": self.of,
        }


def check_llama_cpp(paths: Sequence[Path], run: SourceRun | None, options: VerifyOptions, emit: Sink = ignore) -> Check:
    """Load a GGUF file (all its shards) in llama.cpp; compare tokens and distributions with what they should be.

    Without a source, loading and generating is all. A GGUF source runs only in llama.cpp: the distance is told, and
    there is nothing to judge by.
    """
    emit(StageStarted(STAGE, detail=f"{paths[0].name} in llama.cpp"))
    threads = options.threads or core_count()
    with closing(LlamaCpp(paths[0], threads)) as engine:
        data: dict[str, Any] = {"engine": LLAMA_CPP, "engine_version": engine.version}
        if options.say:
            data["text"] = options.say + engine.continue_text(options.say, SAID_TOKENS)
        if run is None:
            return Check(LLAMA_CPP, True, "loads", data)
        tokens = compare_tokens(engine.tokenize, paths[0], run.checkpoint)
        data |= tokens.as_json()
        if wrong := tokens.wrong:
            detail = f"{len(wrong)} of {counted(tokens.total, 'probe')} get other tokens, first {wrong[0]!r}"
            return Check(LLAMA_CPP, False, detail, data)
        predicts = _predicts(run.model)
        if why := _asked_alone(run, predicts):
            return Check(LLAMA_CPP, True, f"{tokens.detail}; {why}", data)
        found = (_compared if predicts else compare_vectors)(engine, paths, run, threads, emit)
    return replace(found, detail=f"{tokens.detail}, {found.detail}", data={**data, **found.data})


def _predicts(model: Model | None) -> bool:
    """Whether a file predicts the next token, and does not give vectors or judge."""
    return model is None or not (gives_no_text(model.family) or any(t.name.startswith(JUDGE) for t in model.tensors))


def _asked_alone(run: SourceRun, predicts: bool) -> str | None:
    """Why llama.cpp is asked for a model's tokens alone; None where what it makes of them is compared, too."""
    if not predicts:
        return why_no_vectors(run)
    decoding = run.model is not None and run.model.shape.decoding
    return "what its decoder answers to an encoder is not asked here" if decoding else None


def _compared(engine: LlamaCpp, paths: Sequence[Path], run: SourceRun, threads: int, emit: Sink) -> Check:
    """The distributions of an engine that has the right tokens."""
    corpus = run.corpus(engine)
    if not run.runs_here:
        say_cost(corpus, engine.weights, 1 if run.has_run else 2, threads, emit)
        from quantkit.evaluation.engines import compare

        told, [kl] = compare(corpus, [], [run.engine(threads), engine], [(0, 1)], threads)
        far = _distance(kl, told[0].first == told[1].first, corpus)
        return Check(LLAMA_CPP, True, far.words, far.as_json())
    assert run.model is not None
    if wrong := differing_numbers(paths[0], run.model):
        return Check(LLAMA_CPP, False, wrong)
    unread = why_unread(paths)
    say_cost(corpus, run.weights, (1 if run.has_run else 2) if unread else (3 if run.has_run else 4), threads, emit)
    if unread:
        far, _ = _measured(engine, [], run, threads, emit)
        why = f"not compared with its own weights, because {unread}"
        return Check(LLAMA_CPP, None, f"{why}; {far.words}", far.as_json())
    with closing(open_decoded(paths, run.checkpoint, run.model)) as decoded:
        rows = next(t.shape[0] for t in run.model.tensors if t.name == EMBEDDING)
        own = run_side(Side("own run", decoded, vocabulary=rows), corpus, threads, emit)
        far, near = _measured(engine, [own], run, threads, emit)

        def rounded() -> Ran:
            return run_side(Side("rounded inputs", decoded, as_ggml(decoded), vocabulary=rows), corpus, threads, emit)

        return judged(DIVERGENCE, near, lambda: _cost_of(own, rounded(), corpus, threads), far)


def _measured(engine: Engine, own: Sequence[Ran], run: SourceRun, threads: int, emit: Sink) -> tuple[_Distance, F64]:
    """How far an engine is from the source, and from the last of our own runs of the artifact."""
    from quantkit.evaluation.engines import compare

    corpus, models = run.corpus(), [run.ran(threads, emit), *own]
    last = len(models)
    told, kl = compare(corpus, models, [engine], [(0, last), (last - 1, last)], threads)
    return _distance(kl[0], told[0].first == told[last].first, corpus), kl[1]


def _cost_of(own: Ran, rounded: Ran, corpus: Corpus, threads: int) -> F64:
    from quantkit.evaluation.engines import compare

    _, [kl] = compare(corpus, [own, rounded], [], [(0, 1)], threads)
    return kl


def _distance(kl: F64, agree: Any, corpus: Corpus) -> _Distance:
    from quantkit.evaluation.figures import clusters_of, estimate

    found = estimate(kl, clusters_of(corpus)[0])
    return _Distance(found.value, found.error or 0.0, float(kl.max()), float(agree.mean()), corpus.tokens, corpus.name)


def check_served(made: Checkpoint, run: SourceRun, options: VerifyOptions, emit: Sink = ignore) -> Check:
    """What a checkpoint predicts: in transformers, or run here with inputs of layers rounded as its config.json asks
    loaders to.

    The verdict of transformers is on its divergence from our run; where we run it alone, on that rounding, which must
    cost about what 8 bits cost. The distance to the source is told.
    """
    from quantkit.evaluation.artifacts import served_rounding
    from quantkit.evaluation.engines import compare

    threads, corpus = options.threads or core_count(), run.corpus()
    loaded = open_transformers(made, threads) if options.engine == TRANSFORMERS else None
    rounding = served_rounding(made)
    modules = made.modules if isinstance(made, QuantizedCheckpoint) else {}
    rounded = sum(rounding(name) is not None for name in modules)
    say_cost(corpus, run.weights, 2 + bool(rounded) + bool(loaded), threads, emit)
    models = [run.ran(threads, emit), run_side(Side("weights", made), corpus, threads, emit)]
    if rounded:
        models.append(run_side(Side("as served", made, rounding), corpus, threads, emit))
    served = len(models) - 1
    last = served + bool(loaded)
    pairs = [(0, last), (0, 1), (1, served), (served, last)]
    told, kl = compare(corpus, models, [loaded] if loaded else [], pairs, threads)
    far = _distance(kl[0], told[0].first == told[last].first, corpus)
    cost = float(kl[2].mean())
    data = {**far.as_json(), "rounded_inputs": rounded, "kl_of_weights_alone": float(kl[1].mean())}
    if rounded:
        data |= {"inputs_kl": cost, "inputs_kl_limit": ROUNDED_INPUTS}
    if loaded is not None:
        data |= {"engine": TRANSFORMERS, "engine_version": loaded.version}
        plain = DIVERGENCE.same if loaded.exact else SIXTEEN_BITS
        loaded.close()
        return _loaded_right(kl[3], max(plain, ARITHMETIC * upper(kl[2])), far, data)
    if not rounded:
        return Check(TORCH, True, far.words, data)
    detail = f"inputs of {counted(rounded, 'layer')} rounded, which costs KL {cost:.2g}"
    if cost <= ROUNDED_INPUTS:
        return Check(TORCH, True, f"{far.words}; {detail}", data)
    alone = f"{data['kl_of_weights_alone']:.4f} with inputs as they are"
    return Check(TORCH, False, f"{far.words}, {alone}; {detail}, of which {ROUNDED_INPUTS} is arithmetic", data)


def _loaded_right(near: F64, limit: float, far: _Distance, data: dict[str, Any]) -> Check:
    """Whether transformers computes what a checkpoint says."""
    found = upper(near)
    data = {**data, "own_kl": found, "own_kl_max": float(near.max()), "own_kl_limit": limit}
    own = f"KL {found:.2g} to what its weights give, of which at most {limit:.2g} is arithmetic"
    if not found <= limit:
        what = f"transformers computes something else than the checkpoint says: {own}"
        return Check(TRANSFORMERS, False, what, data)
    return Check(TRANSFORMERS, True, f"{own}; {far.words}", data)
