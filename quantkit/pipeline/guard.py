"""The true KL divergence of a finished file that has a bound on it, before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import GateError, UsageError
from quantkit.events import Sink, StageFinished
from quantkit.pipeline.prepared import Prepared
from quantkit.plan.base import Plan
from quantkit.report.predicted import text_words
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.calibration.inputs import Inputs
    from quantkit.calibration.text.samples import Samples
    from quantkit.evaluation.corpus import Corpus
    from quantkit.evaluation.sides import Side

OPTION = "--max-kld"
LEAST_TOKENS = 2048  # of text that was not calibrated with: with less, that which gradients were taken of is measured
SAFETY = 0.97  # of what would have been right for this file, in the hint


def bound_of(plan: Plan) -> float | None:
    """The nats per token that a plan may lose, None where it has no bound."""
    target = plan.allocation.get("target", {})
    return float(target["value"]) if target.get("option") == OPTION else None


def require_unbound(bound: float | None) -> None:
    """Raise UsageError for a bound where nothing is measured."""
    if bound is not None:
        what = f"{OPTION}: only convert measures what the file really loses"
        raise UsageError(what, hint="use convert, or --target-size", key=OPTION)


def require_guarded(prepared: Prepared) -> None:
    """Raise UsageError, before any work, where a bound could not be measured: without text."""
    inputs = prepared.calibration
    if any(bound_of(plan) for plan in prepared.plans) and (inputs is None or inputs.halves() is None):
        what = f"{OPTION}: what the file really loses is measured before it gets its name, with text"
        raise UsageError(what, hint="give --calib default, or FILE with text like what the model will see", key="calib")


def guard(prepared: Prepared, plan: Plan, paths: Sequence[Path], threads: int | None, emit: Sink) -> Mapping[str, Any]:
    """What the manifest says of the allocation, with what was measured where there is a bound. Raises GateError for a
    file that loses more."""
    bound, inputs = bound_of(plan), prepared.calibration
    if bound is None:
        return plan.allocation
    from quantkit.evaluation.sides import Side  # for files with a bound alone, here and below
    from quantkit.quality.decoded import open_decoded
    from quantkit.tuning.target import below

    assert inputs is not None and prepared.model is not None
    text, fresh = _text(prepared, inputs)
    known, predicted = plan.allocation["calibration"], float(plan.allocation["predicted_kld"])
    like = _is_of(known, text)
    with closing(open_decoded(paths, prepared.checkpoint, prepared.model)) as made:
        sides = Side(prepared.checkpoint.name, prepared.checkpoint), Side(plan.files[0].name, made)
        found = _lost(sides, text, threads, emit)
        which = "text like that of --calib that it was not" if fresh else "text that it was"
        said = _words(found, f"{which} calibrated with", predicted if like else None)
        if not like:
            said += f"; {predicted:.3g} was predicted for {text_words(known)}"
        if found["kld"] > bound:
            hint = "leave --sensitivity out, so that what types cost is measured on the text of --calib"
            hint = f"{OPTION} {below(bound * SAFETY * predicted / found['kld'])}" if like else hint
            raise GateError(f"{OPTION} {bound:g}: the file has a {said}", hint=hint, key=OPTION)
        measured = {**found, "held_out": fresh}
        elsewhere, expected = inputs.elsewhere(prepared.checkpoint), plan.allocation.get("elsewhere")
        if elsewhere is not None and expected is not None:
            measured["elsewhere"] = other = _lost(sides, elsewhere, threads, emit, many=True)
            value = float(expected["predicted_kld"]) if like and _is_of(expected, elsewhere) else None
            said += f"; {_words(other, 'text of other kinds, most of it', value)}"
    emit(StageFinished("measure", 0.0, said))
    return {**plan.allocation, "measured": measured}


def _is_of(known: Mapping[str, Any], text: Samples) -> bool:
    """Whether a prediction is of the data that a text is of; `known` says of which it is."""
    return known.get("sha256") == text.record.sha256


def _lost(
    sides: tuple[Side, Side], text: Samples, threads: int | None, emit: Sink, *, many: bool = False
) -> dict[str, Any]:
    """Which text it is, its tokens, and the KL divergence of the second side from the first on it; of a text of `many`
    kinds on the middle half of its windows, as what types cost there."""
    from quantkit.evaluation.measure import measure  # torch
    from quantkit.tuning.middle import middle, standard_error

    corpus = corpus_of_samples(text)
    [scores] = measure(sides[0], [sides[1]], corpus, threads=threads, emit=emit)
    windows = scores.kl.reshape(len(text.tokens), -1).mean(1)
    kept = middle(windows) if many else np.ones(len(windows), bool)
    said = {"name": corpus.name, "sha256": corpus.sha256, "tokens": corpus.tokens}
    return {**said, "kld": float(windows[kept].mean()), "standard_error": standard_error(windows, kept)}


def _words(found: Mapping[str, Any], which: str, predicted: float | None) -> str:
    """What a file loses, beside what was predicted where that is of the same text, and on which text."""
    beside = "" if predicted is None else f" ({predicted:.3g} predicted)"
    return f"KL {found['kld']:.3g} nats per token{beside} on {counted(found['tokens'], 'token')} of {which}"


def _text(prepared: Prepared, inputs: Inputs) -> tuple[Samples, bool]:
    """Text of the same data that nothing was calibrated with, and True; where there is none the first of what was."""
    fresh = inputs.unseen(prepared.checkpoint)
    if fresh is not None and fresh.tokens.size >= LEAST_TOKENS:
        return fresh, True
    halves = inputs.halves()
    assert halves is not None
    return halves[1], False


def corpus_of_samples(samples: Samples) -> Corpus:
    """Windows of tokens as text to be compared on: each a document, every token behind another counts."""
    from quantkit.evaluation.corpus import Batch, Corpus, Cutting

    tokens, record = samples.tokens, samples.record
    count, seqlen = tokens.shape
    scored = np.ones(tokens.shape, bool)
    scored[:, : samples.first] = scored[:, -1] = False
    row, position = (part.astype(np.int32) for part in np.nonzero(scored))
    return Corpus(
        batches=(Batch(tokens, scored, np.arange(count, dtype=np.int32)),),
        batch=np.zeros(len(row), np.int32),
        row=row,
        window=row,
        position=position,
        target=tokens[row, position + 1].astype(np.int32),
        document=row,
        name=record.name,
        sha256=record.sha256,
        token_sha256=record.token_sha256,
        documents=count,
        cut=Cutting(window=max(seqlen, 4)),
        bos=record.bos,
    )
