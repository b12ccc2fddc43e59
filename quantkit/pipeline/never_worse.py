"""The guard of files with feedback: measured on held-out text beside the classic file, and never worse than that.

The classic file has the same types, each tensor rounded by the encoder of its type with an importance matrix of the
same text. It is made row by row as it is read, and never written, unless it turns out to be the better one. A quarter
of the text, the beginnings of some windows, will do if the difference is beyond doubt, which the figures alone decide:
any run of the same command measures the same tokens.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.calibration.inputs import Inputs
from quantkit.calibration.text.samples import Samples, samples_of
from quantkit.calibration.text.spec import IMPORTANCE_TOKENS
from quantkit.evaluation.sides import Side
from quantkit.events import Sink, StageFinished, StageStarted, Warned
from quantkit.families.known import family_named
from quantkit.filling.slabs import encode_slab
from quantkit.formats.gguf.imatrix import match_importance
from quantkit.pipeline.guard import LEAST_TOKENS, corpus_of_samples
from quantkit.pipeline.prepared import Prepared
from quantkit.plan.base import Plan, Unit
from quantkit.plan.reading import SLAB_WEIGHTS, Slab, cut
from quantkit.qtypes import base
from quantkit.quality.decoded import open_decoded
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.storage import Job, Record
from quantkit.tensors import U8
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.evaluation.scores import F64

STAGE = "guard"
TOKENS = 4096  # of text that was not calibrated with, that both files are measured on
FIRST_TOKENS = 1024  # that are measured first, in windows enough for a standard error
BEYOND_DOUBT = 6.0  # standard errors of the difference: more of the text is then not needed
FEEDBACK, CLASSIC = "feedback", "classic"
FIGURES = ("tokens", "kld", "classic_kld", "difference", "standard_error")


def never_worse(
    prepared: Prepared, plan: Plan, job: Job, threads: int | None, emit: Sink, *, measures: bool
) -> Mapping[str, Any] | None:
    """What the manifest says of the guard; None where none is made: without feedback, without held-out text, and of
    encoders, which predict nothing.

    A file that does more damage than the classic one, by more than the standard error of the difference, becomes that:
    its tensors are written anew. Without `measures` only a run that was killed while it wrote them is gone on with:
    half of them is neither file. Raises what measuring raises.
    """
    inputs = prepared.calibration
    if plan.way != "blocks" or plan.is_checkpoint or plan.is_encoder or inputs is None or prepared.model is None:
        return None
    if family_named(plan.family).embeds:
        return None
    known = _journalled(plan, job)
    fresh = _held_out(prepared.checkpoint, inputs) if measures and known is None else None
    if known is None and fresh is None:
        return None
    emit(StageStarted(STAGE))
    start = time.monotonic()
    classic = _classic_units(prepared, plan, inputs, emit)
    found = known or _measured(prepared, (plan, classic), job, (threads, fresh), emit)
    worse = known is not None or found["difference"] > found["standard_error"]
    if worse:
        _write(prepared.checkpoint, classic, job, found)
        what = f"{plan.files[0].name}: feedback does more damage than the classic encoding on held-out text"
        emit(Warned("guard", f"{what}; the classic one is kept"))
    emit(StageFinished(STAGE, time.monotonic() - start, _words(found, CLASSIC if worse else FEEDBACK)))
    return {**found, "kept": CLASSIC if worse else FEEDBACK}


def _words(found: Mapping[str, Any], kept: str) -> str:
    ratio = f"{found['kld'] / found['classic_kld']:.2f} of" if found["classic_kld"] > 0 else "for"
    return (
        f"KL {found['kld']:.3g}, {ratio} the classic file's {found['classic_kld']:.3g}, on "
        f"{counted(found['tokens'], 'token')} of held-out text: {kept} is kept"
    )


def _held_out(checkpoint: Checkpoint, inputs: Inputs) -> Samples | None:
    """Text of the same data that nothing was calibrated with, None where too little is left."""
    fresh = inputs.unseen(checkpoint)
    if fresh is None or fresh.tokens.size < LEAST_TOKENS:
        return None
    count, seqlen = fresh.tokens.shape
    return fresh.cut(0, min(count, max(1, TOKENS // seqlen)))


def _classic_units(prepared: Prepared, plan: Plan, inputs: Inputs, emit: Sink) -> dict[str, Unit]:
    """The rounded units of a plan with weights of importance, and the norms that may have moved, by name."""
    assert prepared.model is not None
    imatrix = inputs.part(IMPORTANCE_TOKENS).importance(prepared.checkpoint, prepared.model, emit)
    shapes = {unit.name: unit.tensor.shape for unit in plan.rounded}
    found, _ = match_importance(imatrix, shapes, {unit.name for unit in plan.units})
    used = {unit.name for unit in plan.rounded if base.get(unit.word).uses_importance}
    rounded = {u.name: replace(u, importance=found.get(u.name) if u.name in used else None) for u in plan.rounded}
    return {**rounded, **{unit.name: unit for unit in plan.units if unit.name in plan.refits}}


def _measured(
    prepared: Prepared,
    asked: tuple[Plan, Mapping[str, Unit]],
    job: Job,
    how: tuple[int | None, Samples | None],
    emit: Sink,
) -> dict[str, Any]:
    """The figures of both files on the same tokens."""
    from quantkit.evaluation.measure import measure  # torch

    (plan, units), (threads, fresh) = asked, how
    assert prepared.model is not None and fresh is not None
    source = prepared.checkpoint
    with closing(open_decoded(job.paths, source, prepared.model)) as made:
        encoded = {
            name: (_Encoded(source, units[name], tensor.offset), tensor) if name in units else (file, tensor)
            for name, (file, tensor) in made.stored.items()
        }
        sides = [Side(plan.files[0].name, made), Side(CLASSIC, replace(made, stored=encoded))]
        for text in _in_turn(fresh):
            scores = measure(Side(source.name, source), sides, corpus_of_samples(text), threads=threads, emit=emit)
            ours, theirs = (found.kl.reshape(len(text.tokens), -1) for found in scores)
            figures = _figures(ours, theirs)
            if abs(figures["difference"]) > BEYOND_DOUBT * figures["standard_error"]:
                break
    return figures


def _in_turn(text: Samples) -> tuple[Samples, ...]:
    """What is measured on first, and all of the text, which is where that leaves doubt."""
    from quantkit.evaluation.figures import DOCUMENTS  # for files with feedback alone

    count, seqlen = text.tokens.shape
    first = max(DOCUMENTS, -(-FIRST_TOKENS // seqlen))
    length = seqlen if text.middle else min(seqlen, FIRST_TOKENS // first + 1)  # the last of them predicts nothing
    if count < first or first * length == text.tokens.size:
        return (text,)
    return (text.cut(0, first) if length == seqlen else samples_of(text.tokens[:first, :length])), text


def _figures(ours: F64, theirs: F64) -> dict[str, Any]:
    """FIGURES of the divergences of both files, (windows, tokens) each."""
    from quantkit.evaluation.figures import estimate

    windows = np.indices(ours.shape)[0].reshape(-1)
    difference = estimate((ours - theirs).reshape(-1), windows)
    found = (ours.size, float(ours.mean()), float(theirs.mean()), difference.value, difference.error or 0.0)
    return dict(zip(FIGURES, found, strict=True))


@record
class _Encoded:
    """A tensor of the file as the encoder of its type makes it of the source, in the place of the file's bytes."""

    checkpoint: Checkpoint
    unit: Unit
    offset: int

    def read(self, start: int, stop: int) -> U8:
        """Bytes [start, stop) of the file, which are whole rows of the tensor."""
        [planned], tensor = self.unit.outputs, self.unit.tensor
        row_bytes = planned.nbytes // tensor.rows
        first, last = (start - self.offset) // row_bytes, (stop - self.offset) // row_bytes
        height = tensor.shape[-2] if len(tensor.shape) == 3 else tensor.rows
        step = max(SLAB_WEIGHTS // tensor.cols // tensor.unit, 1) * tensor.unit
        pieces = []
        while first < last:
            matrix = first // height
            end = min(last, first + step, (matrix + 1) * height)
            pieces.append(encode_slab(self.checkpoint, self.unit, Slab(first, end, matrix)).reshape(-1))
            first = end
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)


def _write(checkpoint: Checkpoint, units: Mapping[str, Unit], job: Job, found: Mapping[str, Any]) -> None:
    """Put classic tensors in the place of those with feedback. The figures go into the journal: a run that is killed
    here goes on without measuring what is neither."""
    facts = {"method": "rtn", **{f"guard_{name}": value for name, value in found.items()}}
    for unit in units.values():
        [planned], digest, written = unit.outputs, hashlib.sha256(), 0
        for slab in cut(unit.tensor):
            data = np.ascontiguousarray(encode_slab(checkpoint, unit, slab)).reshape(-1)
            job.write(planned.file, planned.offset + written, data)
            digest.update(data.data)
            written += data.nbytes
        place = (planned.name, planned.file, planned.offset, planned.nbytes)
        job.finish(Record(*place, digest.hexdigest(), facts))
    job.flush()


def is_classic(plan: Plan, job: Job) -> bool:
    """Whether an earlier run has begun to write the classic tensors."""
    return _journalled(plan, job) is not None


def _journalled(plan: Plan, job: Job) -> dict[str, Any] | None:
    """The figures with which an earlier run began to write the classic tensors, None where none has."""
    for unit in plan.rounded:
        extra = job.records[unit.outputs[0].name].extra
        if f"guard_{FIGURES[0]}" in extra:
            return {name: extra[f"guard_{name}"] for name in FIGURES}
    return None
