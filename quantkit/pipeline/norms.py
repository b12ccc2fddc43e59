"""Norms of a file with feedback, fitted to its rounded weights: they are floats anyway, so it costs no bytes.

What is left of the error of all weights is made up for where that can be done for nothing: the norms move so that the
file's own predictions come nearer to the original's (`calibration.walk.refit`). They keep their new values only where
text of other documents says that these are better, by more than the standard error of the difference.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.calibration.inputs import open_calibration_model, scratch_for
from quantkit.calibration.text.samples import Samples
from quantkit.errors import InterruptedRunError
from quantkit.events import BlockProgress, Sink, StageFinished, StageStarted
from quantkit.pipeline.never_worse import is_classic
from quantkit.pipeline.prepared import Prepared
from quantkit.plan.base import Plan, Unit
from quantkit.plan.reading import order_rows
from quantkit.quality.decoded import open_decoded
from quantkit.storage import Job
from quantkit.tensors import F32
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.calibration.walk.refit import Refitted

STAGE = "norms"
EMBEDDING = "token_embd.weight"
MARK = "norms_"  # before the figures in the journal
OTHERS = "other_documents"
REFITTED, SOURCE = "refitted", "source"

Figures = Mapping[str, float | int | str]


def refit_norms(prepared: Prepared, plan: Plan, job: Job, emit: Sink, stop: Callable[[], bool]) -> None:
    """Fit the norms of a finished file, all of whose tensors are in the journal, and enter there what came of it.

    They begin as the source has them, whatever is in the file: a run that is killed while they are written ends with
    the same bytes as any other. Raises InterruptedRunError between steps, and what running the model raises.
    """
    if not plan.refits or _journalled(plan, job) or is_classic(plan, job):
        return
    assert prepared.calibration is not None
    text = prepared.calibration.apart()
    units = [unit for unit in plan.units if unit.name in plan.refits]
    if text is None:
        _enter(units, job, {"kept": SOURCE, "why": "too little text"})
        return
    emit(StageStarted(STAGE))
    start = time.monotonic()
    learned, judged, apart = text
    found = _fitted(prepared, job, (learned, judged), units, (emit, stop))
    if not np.isfinite(found.before + found.after).all():
        _enter(units, job, {"kept": SOURCE, "why": "no finite predictions"})
        emit(StageFinished(STAGE, time.monotonic() - start, "no finite predictions: norms stay as they are"))
        return
    from quantkit.evaluation.figures import estimate  # for fitted norms alone

    change = estimate(found.after - found.before, np.arange(len(found.before)))
    error = change.error or 0.0
    better = change.value < -error
    figures: Figures = {
        "kept": REFITTED if better else SOURCE,
        "tokens": found.tokens,
        "judged_tokens": judged.tokens.size,
        OTHERS: int(apart),
        "kld_before": float(found.before.mean()),
        "kld_after": float(found.after.mean()),
        "standard_error": error,
    }
    _enter(units, job, figures, found.values if better else None)
    emit(StageFinished(STAGE, time.monotonic() - start, _words(figures)))


def norms_facts(plan: Plan, job: Job) -> dict[str, Any]:
    """The manifest's word on norms that may move: how many there are, whose values they have, and the figures of both
    on text that was not learned from."""
    if not plan.refits:
        return {}
    figures = _journalled(plan, job) or {"kept": SOURCE, "why": "the classic file is kept"}
    if OTHERS in figures:
        figures = {**figures, OTHERS: bool(figures[OTHERS])}
    return {"norms": {"tensors": len(plan.refits), **figures}}


def _fitted(
    prepared: Prepared,
    job: Job,
    text: tuple[Samples, Samples],
    units: Sequence[Unit],
    listeners: tuple[Sink, Callable[[], bool]],
) -> Refitted:
    """The norms of `units` as they do least damage."""
    from quantkit.calibration.walk.refit import refit  # torch

    (emit, stop), source, inputs = listeners, prepared.checkpoint, prepared.calibration
    assert inputs is not None and prepared.model is not None

    def beat(done: int, count: int) -> None:
        if stop():
            raise InterruptedRunError("interrupted in the norms", hint="run the same command again to resume")
        emit(BlockProgress(STAGE, "step", done, count, done, count))

    vectors = {unit.source.tensor: unit.tensor.add for unit in units}
    rows = next(t.shape[0] for t in prepared.model.tensors if t.name == EMBEDDING)
    scratch = scratch_for(inputs.spec, job.folder)
    with closing(open_decoded(job.paths, source, prepared.model)) as made:
        models = tuple(open_calibration_model(one, inputs.spec, scratch) for one in (source, made))
        return refit((models[0], models[1]), text, vectors, rows, beat)


def _enter(units: Sequence[Unit], job: Job, figures: Figures, values: Mapping[str, F32] | None = None) -> None:
    """Journal the figures with every norm, and write their new `values` by the names of the source, if any."""
    facts = {f"{MARK}{name}": value for name, value in figures.items()}
    for unit in units:
        [planned] = unit.outputs
        record = job.records[planned.name]
        digest = record.sha256
        if values is not None:
            raw = values[unit.source.tensor].astype("<f4").view(np.uint8).reshape(-1, 4)
            data = np.ascontiguousarray(order_rows(unit.tensor, raw)).reshape(-1)
            job.write(planned.file, planned.offset, data)
            digest = hashlib.sha256(data.data).hexdigest()
        job.finish(replace(record, sha256=digest, extra={**record.extra, **facts}))
    job.flush()


def _journalled(plan: Plan, job: Job) -> dict[str, Any] | None:
    """The figures of a fit all of whose norms are written, None where there is none."""
    found = [job.records[name].extra for name in plan.refits]
    if not found or any(f"{MARK}kept" not in extra for extra in found):
        return None
    return {name.removeprefix(MARK): value for name, value in found[0].items() if name.startswith(MARK)}


def _words(figures: Figures) -> str:
    before, after = float(figures["kld_before"]), float(figures["kld_after"])
    which = "other documents" if figures[OTHERS] else "other windows"
    kept = "norms are refitted" if figures["kept"] == REFITTED else "norms stay as they are"
    return f"KL {before:.3g} to {after:.3g} on {counted(int(figures['judged_tokens']), 'token')} of {which}: {kept}"
