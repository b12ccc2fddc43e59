"""Artifacts in the engines that run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import UsageError, require_choice
from quantkit.evaluation.artifacts import Artifact
from quantkit.evaluation.corpus import require_continuing
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.quality.engines import LLAMA_CPP
from quantkit.quality.engines.llamacpp import CONTEXT, PACKAGE, LlamaCpp, require_llamacpp
from quantkit.quality.engines.transformers import TRANSFORMERS, Transformers
from quantkit.source import Checkpoint
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from quantkit.evaluation.engines import Engine

TORCH = "torch"  # our own run, as loaders round the inputs of layers: an engine of verify alone
ENGINES = (LLAMA_CPP, TRANSFORMERS)


def require_engine(engine: str | None, known: Sequence[str] = ENGINES, *, compared: bool = True) -> None:
    """Raise, before any work, UsageError for an engine that is unknown, UnsupportedError for one not installed, or
    without what runs the source that it is `compared` with."""
    if engine is None:
        return
    require_choice("--engine", engine, known)
    needed = [*RUN_MODELS] if compared or engine != LLAMA_CPP else []
    beside = " beside the source" if compared and engine == LLAMA_CPP else ""
    require_installed(f"--engine {engine}{beside}", [PACKAGE, *needed] if engine == LLAMA_CPP else needed, key="engine")
    if engine == LLAMA_CPP:
        require_llamacpp()


def openers(engine: str, artifacts: Sequence[Artifact], window: int, threads: int) -> list[Callable[[], Engine]]:
    """What opens each artifact in an engine, one after the other. Raises UsageError for one that it does not load."""
    return [_opener(engine, artifact, window, threads) for artifact in artifacts]


def _opener(engine: str, artifact: Artifact, window: int, threads: int) -> Callable[[], Engine]:
    first = artifact.paths[0]
    gguf = first.suffix == ".gguf"
    if gguf != (engine == LLAMA_CPP):
        what = "a GGUF file" if gguf else "a checkpoint folder"
        hint = f"use --engine {LLAMA_CPP if gguf else TRANSFORMERS}"
        raise UsageError(
            f"--engine {engine} does not load {shown(artifact.side.name)}, {what}", hint=hint, key="engine"
        )
    if gguf:
        require_continuing(artifact.side.checkpoint, f"--engine {LLAMA_CPP}")
        return partial(LlamaCpp, first, threads, context=max(window, CONTEXT))
    return partial(Transformers, first.parent, threads, stored_quantization(artifact.side.checkpoint))


def open_transformers(made: Checkpoint, threads: int) -> Transformers:
    """The folder of a checkpoint in transformers."""
    first = next(Path(file.path) for file in made.files() if file.weights)
    return Transformers(first.parent, threads, stored_quantization(made))


def stored_quantization(made: Checkpoint) -> Mapping[str, Any]:
    """What a checkpoint's configuration says of its quantization, {} for plain floats."""
    return made.quantization if isinstance(made, QuantizedCheckpoint) else {}
