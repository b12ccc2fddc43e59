"""An artifact in its real consumer: tokens and next-token distributions against the source model."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.formats.gguf import read_gguf, shard_paths
from quantkit.pipeline.checks import Check
from quantkit.pipeline.quantize import default_threads
from quantkit.pipeline.token_checks import compare_tokens
from quantkit.quality.distributions import Divergence, broken_above, divergence, log_softmax
from quantkit.quality.llamacpp import LlamaCpp, require_llamacpp
from quantkit.source import Checkpoint
from quantkit.tensors import F32

if TYPE_CHECKING:
    from quantkit.pipeline.verify import VerifyOptions

TORCH = "torch"
ENGINES = ("llama.cpp", TORCH)  # for GGUF files, for checkpoints
CONTEXTS = 48
MIN_CONTEXT_TOKENS, MAX_CONTEXT_TOKENS = 4, 64
SAID_TOKENS = 24


def require_engine(engine: str | None) -> None:
    """Raise UnsupportedError, before any work, for an engine that is unknown or not installed."""
    if engine is None:
        return
    if engine not in ENGINES:
        raise UnsupportedError(f'unknown engine "{engine}"', hint=f"engines: {', '.join(ENGINES)}", key=engine)
    if engine != TORCH:
        require_llamacpp()


def check_engine(artifact: Path, checkpoint: Checkpoint | None, options: VerifyOptions) -> Check:
    """Load the artifact in llama.cpp; compare its tokens and next-token distributions with the source model.

    Without a checkpoint, loading and generating is all. The mean KL divergence over CONTEXTS contexts must stay
    below what any sound file of this size shows (quality.distributions.broken_above).
    """
    threads = options.threads or default_threads()
    engine = LlamaCpp(artifact, threads)
    data: dict[str, Any] = {"engine": "llama.cpp"}
    if options.say:
        data["text"] = options.say + engine.continue_text(options.say, SAID_TOKENS)
    if checkpoint is None:
        return Check("llama.cpp", True, "loads", data)
    tokens = compare_tokens(engine.tokenize, artifact, checkpoint)
    data |= tokens.as_json()
    if wrong := tokens.wrong:
        detail = f"{len(wrong)} of {tokens.total:,} probes get other tokens, first {wrong[0]!r}"
        return Check("llama.cpp", False, detail, data)
    found = _compare_distributions(engine, artifact, checkpoint, usable_contexts(tokens.ids), threads)
    bits = bits_per_weight(artifact)
    limit = broken_above(bits)
    data |= {"kl_mean": found.mean, "kl_standard_error": found.standard_error, "kl_max": found.largest}
    data |= {"top_token_agreement": found.agreement, "contexts": found.contexts}
    detail = (
        f"{tokens.detail}, KL {found.mean:.4f} ± {found.standard_error:.4f}, "
        f"top token {100 * found.agreement:.0f} % over {found.contexts} contexts"
    )
    if limit is not None and found.mean > limit:
        return Check("llama.cpp", False, f"{detail}: above {limit}, the most a file of {bits:.1f} bits may show", data)
    return Check("llama.cpp", True, detail, data)


def bits_per_weight(artifact: Path) -> float:
    """Tensor bytes of all shards as bits per weight."""
    tensors = [t for shard in shard_paths(artifact) for t in read_gguf(shard).tensors]
    return 8 * sum(t.nbytes for t in tensors) / sum(prod(t.shape) for t in tensors)


def usable_contexts(encoded: Sequence[Sequence[int]]) -> list[list[int]]:
    """Contexts for the comparison of distributions, evenly spread over texts as tokens."""
    usable = [list(ids[:MAX_CONTEXT_TOKENS]) for ids in encoded if len(ids) >= MIN_CONTEXT_TOKENS]
    step = max(len(usable) // CONTEXTS, 1)
    return usable[::step][:CONTEXTS]


def _compare_distributions(
    engine: LlamaCpp, artifact: Path, checkpoint: Checkpoint, contexts: Sequence[Sequence[int]], threads: int
) -> Divergence:
    reference = _source_log_probabilities(checkpoint, contexts, threads)
    vocabulary = reference.shape[1]
    return divergence(reference, np.stack([engine.log_probabilities(c, vocabulary) for c in contexts]))


def _source_log_probabilities(checkpoint: Checkpoint, contexts: Sequence[Sequence[int]], threads: int) -> F32:
    """Log-probabilities (contexts, vocabulary) of the source model: torch, one block in memory; GGUF in llama.cpp."""
    if checkpoint.kind == "gguf":
        [first, *_] = [f for f in checkpoint.files() if f.weights]
        engine = LlamaCpp(Path(first.path), threads)
        [vocabulary] = [len(kv.items()) for kv in checkpoint.metadata if kv.key == "tokenizer.ggml.tokens"]
        return np.stack([engine.log_probabilities(c, vocabulary) for c in contexts])
    from quantkit.calibration.blocks import next_token_logits

    return log_softmax(next_token_logits(checkpoint, contexts))
