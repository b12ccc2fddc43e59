"""The samples that what a calibration is asked for means for a checkpoint. Imports no torch.

CalibrationSpec -> prepare_samples -> Samples -> open_calibration_model -> walk_blocks
"""

from __future__ import annotations

import numpy as np

from quantkit.calibration.text.asked import SEQLEN, CalibrationSpec
from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.text.samples import Samples, joined_texts, select_samples, shipped_windows
from quantkit.calibration.text.shipped import DEFAULT
from quantkit.calibration.text.templates import read_chat_template
from quantkit.calibration.text.warnings import SKIPPED, data_warnings
from quantkit.errors import InputError, UsageError
from quantkit.events import Sink, Warned, ignore
from quantkit.families.describe import find_family, shape_of
from quantkit.families.hparams import Hparams, nested_part
from quantkit.families.positions import context_of, last_position_of
from quantkit.families.rows import Family
from quantkit.source import Checkpoint
from quantkit.source.base import require_runnable
from quantkit.units import counted

FISHER_TOKENS = 1 << 14  # of all the text that gradients are taken of: more change little
FISHER_KEPT_BYTES = 512 << 20  # of blocks and their runs forward that the way back need not repeat
WIDENING_TOKENS = 1 << 15  # of the shipped text that widens other text
ELSEWHERE_TOKENS = 1 << 14  # of text of other kinds that what types cost is judged by, too
IMPORTANCE_TOKENS = 1 << 11  # that the importance matrix of a classic file is of, beside which others are measured
FISHER_SHARE = 8  # tokens for each dimension of the gradients of an embedding: twice as many change little
REFIT_STEPS, REFIT_STEP_TOKENS = 30, 2048  # that norms are fitted in: half the steps gain half, docs/benchmarks.md
REFIT_KEPT_BYTES = 1 << 30  # of the file's blocks, which stay in memory meanwhile where they take no more
ANY_TOKEN = 1 << 31
EMBEDDING = ".embed_tokens.weight"


def prepare_samples(checkpoint: Checkpoint, spec: CalibrationSpec, emit: Sink = ignore) -> Samples:
    """The windows of tokens that `spec` means for this checkpoint; runs its tokenizer, reads no weights.

    `record.digest` of what is returned stands for the tokens and the data that they come from. Warnings that the
    data alone justifies are emitted. Raises InputError for data that is missing, empty, of the wrong kind or shorter
    than one sequence, for a chat template that is missing or fails, and for tokens without an embedding row;
    UsageError for options that make no sense, a sequence that is longer than the model can read among them;
    UnsupportedError for a GGUF source, an unknown family or a missing package; NetworkError.
    """
    spec.check()
    require_runnable(checkpoint)
    seqlen = window_length(checkpoint, spec.seqlen, SEQLEN, "seqlen")
    template = read_chat_template(checkpoint)
    texts = joined_texts([load_texts(name, template, offline=spec.offline, emit=emit) for name in spec.data])
    if texts.skipped:
        emit(Warned(SKIPPED, f"{texts.name}: {counted(texts.skipped, 'row', 'is', 'are')} left out: no text (null)"))
    tokens = model_tokens(checkpoint, embedding_rows(checkpoint))
    samples = select_samples(texts, tokens, seqlen=seqlen, samples=spec.samples)
    for code, message in data_warnings(samples.record, context=longest_context(checkpoint)):
        emit(Warned(code, message))
    return samples


def shipped_samples(checkpoint: Checkpoint, spec: CalibrationSpec, windows: int) -> Samples | None:
    """Windows of the shipped text to go behind so many of other text, conversations written as plain dialogue; at most
    WIDENING_TOKENS, so that most of it is left to judge by.

    None where it is among the data, and where it cannot be run: it is shorter than a window, or the tokenizer makes
    tokens of it that have no embedding.
    """
    seqlen = window_length(checkpoint, spec.seqlen, SEQLEN, "seqlen")
    count = min(shipped_windows(windows), WIDENING_TOKENS // seqlen)
    return _shipped(checkpoint, spec, count) if count else None


def _shipped(checkpoint: Checkpoint, spec: CalibrationSpec, count: int | None) -> Samples | None:
    if DEFAULT in spec.data:
        return None
    tokens = model_tokens(checkpoint, embedding_rows(checkpoint))
    seqlen = window_length(checkpoint, spec.seqlen, SEQLEN, "seqlen")
    try:
        return select_samples(load_texts(DEFAULT), tokens, seqlen=seqlen, samples=count)
    except InputError:
        return None


def shipped_beside(checkpoint: Checkpoint, spec: CalibrationSpec, known: Samples | None) -> Samples | None:
    """Windows of the shipped text, from all over it, that share no document with those `known`: text of many kinds that
    nothing was calibrated with, half of the windows that `spec` asks for and at most ELSEWHERE_TOKENS. None where
    there is none left, where it is among the data, and where it cannot be run."""
    found = _shipped(checkpoint, spec, None)
    if found is None:
        return None
    taken = {number for first, last in (known.documents if known else ()) for number in range(first, last + 1)}
    others = [k for k, (first, last) in enumerate(found.documents) if taken.isdisjoint(range(first, last + 1))]
    count = min(len(others), -(-spec.samples // 2), max(1, ELSEWHERE_TOKENS // found.tokens.shape[1]))
    return found.chosen([others[int(place)] for place in np.linspace(0, len(others) - 1, count)]) if others else None


def fisher_tokens(hidden: int, *, tied: bool) -> int:
    """The tokens whose gradients an embedding so wide is rounded with; a tied one is the head, too, whose inputs come
    from the same tokens and are needed in number."""
    return FISHER_TOKENS if tied else min(FISHER_TOKENS, FISHER_SHARE * hidden)


def embedding_rows(checkpoint: Checkpoint) -> int:
    """Rows of the token embedding: of the tensor of that name, else what config.json says.

    Without either, a bound that no token reaches: the model refuses tokens that it lacks when it runs.
    """
    for name, info in checkpoint.tensors().items():
        if f".{name}".endswith(EMBEDDING):
            return info.rows
    found = text_setting(checkpoint, "vocab_size")
    return found if found > 0 else ANY_TOKEN


def longest_context(checkpoint: Checkpoint) -> int:
    """The longest sequence that the model is made for, in tokens; 0 where neither config.json nor its class says.

    Raises UnsupportedError for an unknown family.
    """
    return context_of(_numbers(checkpoint)[1])


def last_position(checkpoint: Checkpoint) -> int:
    """How many tokens the model can read at most: as many as it has positions, where those are learned; 0 where any
    number runs. Raises UnsupportedError for an unknown family."""
    return last_position_of(*_numbers(checkpoint))


def window_length(checkpoint: Checkpoint, given: int | None, usual: int, option: str) -> int:
    """Tokens of a window: `given`, else `usual`, or fewer where the model has fewer positions.

    Raises UsageError where fewer positions than the tokens that are asked for with --`option` are there.
    """
    most = last_position(checkpoint)
    if given is None:
        return min(usual, most) if most else usual
    if most and given > most:
        what = f"--{option} {given:,}: the model has {counted(most, 'position')}"
        raise UsageError(what, key=option, hint=f"--{option} {most}, or leave it out")
    return given


def _numbers(checkpoint: Checkpoint) -> tuple[Family, Hparams]:
    family, _ = find_family(checkpoint.config)
    return family, family.numbers(checkpoint.config, checkpoint.tensors())


def row_width(checkpoint: Checkpoint) -> int:
    """Numbers of a token between two blocks. Raises UnsupportedError for an unknown family."""
    return shape_of(_numbers(checkpoint)[1]).row


def walked_width(checkpoint: Checkpoint) -> int:
    """Numbers of a token that calibration holds between two blocks. Raises what `row_width` raises."""
    return shape_of(_numbers(checkpoint)[1]).walked


def text_setting(checkpoint: Checkpoint, key: str) -> int:
    """An integer of the language model's part of config.json, 0 where there is none."""
    found = (nested_part(checkpoint.config) or checkpoint.config).get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else 0
