"""An artifact in its real consumer: what llama.cpp predicts, against what its own weights should.

Two comparisons of next-token distributions on the same contexts. The verdict: llama.cpp on the file against our own
float32 run of the file's decoded weights under the source's configuration. Only llama.cpp's arithmetic lies between
the two, so a wrong number, rotation or name in the file shows, whatever its bits. The information: llama.cpp against
the source itself, which is what quantization costs and no fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.events import Event, Sink, StageStarted, TensorProgress, ignore
from quantkit.families.model import Model
from quantkit.formats.gguf.file import read_gguf
from quantkit.machine import core_count
from quantkit.quality.checks.base import Check
from quantkit.quality.checks.tokenizer import Compared, compare_tokens
from quantkit.quality.decoded import DecodedCheckpoint, open_decoded
from quantkit.quality.distributions import (
    Divergence,
    TopTokens,
    broken_above,
    divergence,
    log_softmax,
    top_divergence,
)
from quantkit.quality.engines.llamacpp import CONTEXT, LlamaCpp, require_llamacpp
from quantkit.quality.passages import contexts
from quantkit.quality.tensor_errors import undecodable
from quantkit.source import Checkpoint
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tensors import F32
from quantkit.tokenizer.check import source_encoder
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from quantkit.calibration.walk.walk import BlockView
    from quantkit.quality.checks.base import VerifyOptions

TORCH = "torch"
LLAMA_CPP = "llama.cpp"
STAGE = "verify"
# KL divergence of 8-bit weights with inputs in 8 bits: SmolLM2-135M shows 0.02 to 0.1, a ruined model 1 and more
ROUNDED_INPUTS = 0.3
ENGINES = (LLAMA_CPP, TORCH)  # for GGUF files, for checkpoints
SAID_TOKENS = 24
TOP_TOKENS = 1024  # of each distribution: whole ones of 256k tokens take llama.cpp seconds
JUDGE = "cls."  # tensors of a reranker
EMBEDDING, LONG_FACTORS = "token_embd.weight", "rope_factors_long.weight"

# KL divergence in nats between llama.cpp and the decoded weights, the upper quartile of the contexts: an undecided
# router of a mixture sends single contexts elsewhere. SAME is what a cache in float16 costs, and products
# in another order. Beyond it llama.cpp rounds the inputs of every layer to 8 bits; what that does depends on the
# weights, so it is measured on the file at hand: our run with such inputs against our run without. llama.cpp came to
# 0.8 to 1.3 times that figure on all files tried, see docs/numerics.md.
SAME = 1e-3
ARITHMETIC = 3.0


def require_engine(engine: str | None) -> None:
    """Raise UnsupportedError, before any work, for an engine that is unknown or not installed."""
    if engine is None:
        return
    if engine not in ENGINES:
        raise UnsupportedError(f'unknown engine "{engine}"', hint=f"engines: {', '.join(ENGINES)}", key=engine)
    if engine != TORCH:
        require_llamacpp()


class Reference:
    """A source model and what it predicts: computed when first wanted, once for all artifacts of a run."""

    def __init__(self, checkpoint: Checkpoint, model: Model) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self.compared = Compared(checkpoint)
        self._contexts: list[list[int]] | None = None
        self._log_probabilities: F32 | None = None

    @property
    def runs_here(self) -> bool:
        """Whether the model can be run by our own code; a GGUF source runs in llama.cpp only."""
        return self.checkpoint.kind != "gguf"

    def contexts(self, engine: LlamaCpp) -> list[list[int]]:
        """The passages as the source's tokens; a GGUF source's tokens are those of the engine."""
        if self._contexts is None:
            encode = source_encoder(self.checkpoint.read_file, self.checkpoint.config) if self.runs_here else None
            self._contexts = contexts(encode or engine.tokenize, _context(self.model))
        return self._contexts

    def log_probabilities(self, found: Sequence[Sequence[int]], threads: int, emit: Sink) -> F32:
        """Natural log-probabilities (contexts, vocabulary) of the source model."""
        if self._log_probabilities is None and self.runs_here:
            self._log_probabilities = run_here(self.checkpoint, self.model, found, threads, emit)
        elif self._log_probabilities is None:
            self._log_probabilities = self._run_in_llamacpp(found, threads)
        return self._log_probabilities

    def _run_in_llamacpp(self, found: Sequence[Sequence[int]], threads: int) -> F32:
        [first, *_] = [f for f in self.checkpoint.files() if f.weights]
        engine = LlamaCpp(Path(first.path), threads)
        [vocabulary] = [len(kv.items()) for kv in self.checkpoint.metadata if kv.key == "tokenizer.ggml.tokens"]
        return np.stack([engine.log_probabilities(c, vocabulary) for c in found])


def run_here(
    checkpoint: Checkpoint,
    model: Model,
    found: Sequence[Sequence[int]],
    threads: int,
    emit: Sink,
    prepare: Callable[[BlockView], None] = lambda block: None,
) -> F32:
    """Natural log-probabilities (contexts, tokens of the file) in float32, with one block in memory."""
    from quantkit.calibration.walk.predictions import RunOptions, next_token_logits

    rows = next(t.shape[0] for t in model.tensors if t.name == EMBEDDING)
    emit(StageStarted(STAGE, sum(info.nbytes for info in checkpoint.tensors().values())))
    options = RunOptions(threads, partial(relay, emit), prepare, _least_tokens(model))
    return log_softmax(next_token_logits(checkpoint, found, options)[:, :rows])


def _context(model: Model) -> int | None:
    """The number of tokens that llama.cpp lets a model have."""
    key = f"{model.gguf_architecture}.context_length"
    found = next((kv.value for kv in model.metadata if kv.key == key), None)
    return found if isinstance(found, int) else None


def _least_tokens(model: Model) -> int:
    """How long a sequence has to be for the rope factors that llama.cpp takes: it chooses them by its own context."""
    values = {kv.key: kv.items()[0] for kv in model.metadata if kv.key.endswith("rope.scaling.original_context_length")}
    original = next(iter(values.values()), CONTEXT)
    chosen = any(t.name == LONG_FACTORS for t in model.tensors) and isinstance(original, int) and original < CONTEXT
    return int(original) + 1 if chosen else 1


def as_ggml(decoded: DecodedCheckpoint) -> Callable[[BlockView], None]:
    """Round the inputs of a block's layers as llama.cpp does for the types of the file."""
    from quantkit.quality.inputs import ggml_rounding

    def prepare(block: BlockView) -> None:
        block.round_inputs(lambda name: ggml_rounding(decoded.stored_type(block.linears[name].source.tensor)))

    return prepare


def check_engine(
    paths: Sequence[Path], reference: Reference | None, options: VerifyOptions, emit: Sink = ignore
) -> Check:
    """Load the artifact (all its files) in llama.cpp; compare tokens and distributions with what they should be.

    Without a reference, loading and generating is all. With a GGUF source, which only llama.cpp can run, its distance
    is told and not judged.
    """
    emit(StageStarted(STAGE, detail=f"{paths[0].name} in llama.cpp"))
    threads = options.threads or core_count()
    engine = LlamaCpp(paths[0], threads)
    data: dict[str, Any] = {"engine": LLAMA_CPP}
    if options.say:
        data["text"] = options.say + engine.continue_text(options.say, SAID_TOKENS)
    if reference is None:
        return Check(LLAMA_CPP, True, "loads", data)
    tokens = compare_tokens(engine.tokenize, paths[0], reference.checkpoint)
    data |= tokens.as_json()
    if wrong := tokens.wrong:
        detail = f"{len(wrong)} of {tokens.total:,} probes get other tokens, first {wrong[0]!r}"
        return Check(LLAMA_CPP, False, detail, data)
    if any(t.name.startswith(JUDGE) for t in reference.model.tensors):
        return Check(LLAMA_CPP, True, f"{tokens.detail}; a reranker predicts no tokens", data)
    found = _compare(engine, paths, reference, threads, emit)
    return replace(found, detail=f"{tokens.detail}, {found.detail}", data={**data, **found.data})


def _compare(engine: LlamaCpp, paths: Sequence[Path], reference: Reference, threads: int, emit: Sink) -> Check:
    """The distributions of an engine that has the right tokens."""
    found = reference.contexts(engine)
    tops = [engine.likeliest(ids, TOP_TOKENS) for ids in found]
    far = top_divergence(reference.log_probabilities(found, threads, emit), tops)
    data: dict[str, Any] = {"kl_mean": far.mean, "kl_standard_error": far.standard_error, "kl_max": far.largest}
    data |= {"top_token_agreement": far.agreement, "contexts": far.contexts}
    distance = (
        f"KL to the source {far.mean:.4f} ± {far.standard_error:.4f}, top token {100 * far.agreement:.0f} % "
        f"over {far.contexts} contexts"
    )
    if not reference.runs_here:
        return Check(LLAMA_CPP, True, distance, data)
    wrong = differing_numbers(paths[0], reference.model)
    if wrong:
        return Check(LLAMA_CPP, False, wrong, data)
    stored = frozenset(t.qtype for path in paths for t in read_gguf(path).tensors)
    if why := undecodable(stored):
        return Check(LLAMA_CPP, None, f"not compared with its own weights, because {why}; {distance}", data)
    with closing(open_decoded(paths, reference.checkpoint, reference.model)) as decoded:
        run = partial(run_here, decoded, reference.model, found, threads, emit)
        near, limit = _nearness(run, as_ggml(decoded), tops)
    data |= {"own_kl": near.upper_quartile, "own_kl_max": near.largest, "own_kl_limit": limit}
    own = f"KL {near.upper_quartile:.2g} to what its weights give, of which at most {limit:.2g} is arithmetic"
    if not near.upper_quartile <= limit:
        return Check(LLAMA_CPP, False, f"llama.cpp computes something else than the file says: {own}", data)
    return Check(LLAMA_CPP, True, f"{own}; {distance}", data)


def _nearness(
    run: Callable[..., F32], rounding: Callable[[BlockView], None], tops: Sequence[TopTokens]
) -> tuple[Divergence, float]:
    """How far llama.cpp is from the decoded weights, and how far its arithmetic alone may take it."""
    plain = run()
    near = top_divergence(plain, tops)
    if near.upper_quartile <= SAME:
        return near, SAME
    rounded = divergence(run(rounding), plain)
    return near, max(SAME, ARITHMETIC * rounded.upper_quartile)


def differing_numbers(path: Path, model: Model) -> str | None:
    """A key below the architecture's name whose value in the file is not the source's; None where all agree.

    A file may lack keys or have more: what they do shows in what it computes.
    """
    prefix = f"{model.gguf_architecture}."
    expected = {kv.key: kv.items() for kv in model.metadata if kv.key.startswith(prefix)}
    for kv in read_gguf(path).metadata:
        if kv.key in expected and not _equal(kv.items(), expected[kv.key]):
            return f"{kv.key} is {shown(str(kv.value), 40)}, the source says {shown(str(expected[kv.key])[:80])}"
    return None


def _equal(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether values are the same once floats are as wide as the file's."""
    if len(found) != len(expected):
        return False
    return all(
        np.float32(a) == np.float32(b) if isinstance(a, float) or isinstance(b, float) else a == b
        for a, b in zip(found, expected, strict=True)
    )


def relay(emit: Sink, event: Event) -> None:
    """Progress through the blocks of a model is progress of this stage."""
    emit(replace(event, stage=STAGE, index=event.index + 1) if isinstance(event, TensorProgress) else event)


def check_predictions(made: Checkpoint, source: Checkpoint, threads: int | None, emit: Sink = ignore) -> Check:
    """Next-token distributions of both, computed here with one block in memory.

    Inputs of layers are rounded as config.json asks loaders to; where they are, the check also says what that costs.
    """
    from quantkit.calibration.walk.predictions import RunOptions, next_token_logits

    found = contexts(source_encoder(source.read_file, source.config))

    def run(checkpoint: Checkpoint, prepare: Callable[[BlockView], None] = lambda block: None) -> F32:
        emit(StageStarted(STAGE, sum(info.nbytes for info in checkpoint.tensors().values())))
        options = RunOptions(threads, partial(relay, emit), prepare)
        return log_softmax(next_token_logits(checkpoint, found, options))

    rounded: set[str] = set()
    before, after = run(source), run(made, as_served(made, rounded))
    told = divergence(before, after)
    limit = broken_above(layer_bits(made))
    if rounded:
        limit = max(limit or 0.0, ROUNDED_INPUTS)
    data = {"kl_mean": told.mean, "kl_standard_error": told.standard_error, "contexts": told.contexts}
    data |= {"top_token_agreement": told.agreement, "rounded_inputs": len(rounded)}
    detail = (
        f"KL {told.mean:.4f} ± {told.standard_error:.4f}, "
        f"top token {100 * told.agreement:.0f} % over {told.contexts} contexts"
    )
    if rounded:
        detail += f", inputs of {len(rounded):,} layers rounded"
    if limit is None or told.mean <= limit:
        return Check(TORCH, True, detail, data)
    if rounded:
        alone = divergence(before, run(made))
        data["kl_of_weights_alone"] = alone.mean
        detail += f"; {alone.mean:.4f} with inputs as they are"
    return Check(TORCH, False, f"{detail}: above {limit}, the most a checkpoint of this size may show", data)


def as_served(made: Checkpoint, rounded: set[str]) -> Callable[[BlockView], None]:
    """Round the inputs of a block's layers as the loaders of `made` do; enters in `rounded` the names of the layers."""
    from quantkit.quality.inputs import Rounding, server_rounding

    def of(weight: str) -> Rounding | None:
        assert isinstance(made, QuantizedCheckpoint)
        found = server_rounding(made.modules[weight], made.quantization, made.input_scale(weight))
        if found is not None:
            rounded.add(weight)
        return found

    def prepare(block: BlockView) -> None:
        if isinstance(made, QuantizedCheckpoint):
            sources = {name: linear.source.tensor for name, linear in block.linears.items()}
            block.round_inputs(lambda name: of(sources[name]) if sources[name] in made.modules else None)

    return prepare


def layer_bits(made: Checkpoint) -> float:
    """Stored bits per weight of the layers that are quantized; of all where none is."""
    infos = made.tensors().values()
    chosen = [info for info in infos if info.stored_as is not None] or list(infos)
    return 8 * sum(info.nbytes for info in chosen) / sum(info.elements for info in chosen)
