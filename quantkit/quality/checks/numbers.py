"""Are the weights of an artifact near the source's? One check for every container, and one shape of its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite, isinf
from typing import Any

import numpy as np

from quantkit.errors import QuantkitError
from quantkit.families.factors import factor_of, graph_of, of_rows
from quantkit.families.model import ModelTensor
from quantkit.formats.containers.packed import as_stored
from quantkit.machine import core_count, worker_pool
from quantkit.plan.codes import codes_of
from quantkit.plan.reading import SLAB_WEIGHTS, Slab, cut, order_rows, read_slab
from quantkit.quality.against import Against
from quantkit.quality.checks.base import Check, VerifyOptions
from quantkit.quality.feedback import gain
from quantkit.quality.made import Held, Made
from quantkit.quality.tensor_errors import TensorError, compare, compare_moved
from quantkit.records import record
from quantkit.tensors import F32
from quantkit.units import counted
from quantkit.untrusted import shown

WORST_TENSORS = 5
MOVED = "scales were moved between layers (--engine torch compares predictions)"
FACTORS = "up to factors of rows and columns, since scales were moved between layers"
MOVED_FLOOR_DB = 30.0  # of weights that are floats: BF16 alone leaves 50
FEWEST_ROWS = 64  # that tell anything up to factors of their columns
CODES_FLOOR_DB = 100.0  # of codes that are the source's: products with their scales are rounded to float32 once more
OWN = "by quantkit's own reader, for want of another"


@record
class Undecoded:
    """A weight that cannot be decoded, and why."""

    name: str
    why: str


def check_numbers(made: Made, against: Against, options: VerifyOptions) -> Check:
    """Every weight, decoded by another reader than quantkit's, against the source.

    With `sample_rows` only about that many evenly spaced rows of each are compared. A weight fails when its signal to
    noise ratio is below the floor of its type. Where scales were moved between layers, that is what they are up to
    factors of rows and columns, which leave nothing of vectors. The check counts as not made where a weight is not
    compared for that or since no reader knows its type, unless another one fails.
    """
    held = made.held()
    wrong = _places(against.weights, held)
    if wrong:
        return Check("numbers", False, wrong, _figures((), 0, sampled=False))
    left = {t.name: why for t in against.weights if (why := _why_not(t, held[t.name], against.moved)) is not None}
    known = [t for t in against.weights if t.name not in left]
    with worker_pool(options.threads or core_count()) as pool:
        rows, beside = options.sample_rows, _beside(against.weights, held)
        jobs = [pool.submit(_tensor_error, made, against, t, (held[t.name], beside.get(t.name)), rows) for t in known]
        found = [job.result() for job in jobs]
    damaged = [one for one in found if isinstance(one, Undecoded)]
    errors = [one for one in found if isinstance(one, TensorError)]
    data = _figures(errors, len(left), sampled=against.partly or options.sample_rows is not None)
    if damaged:
        return Check("numbers", False, f"{damaged[0].name} does not decode: {damaged[0].why}", data)
    floors = {
        name: MOVED_FLOOR_DB if against.moved and isinf(one.floor_db) else one.floor_db for name, one in held.items()
    }
    floors |= dict.fromkeys(_carried(against, held), CODES_FLOOR_DB)
    checked = _judge(errors, floors, data)
    own = sum(held[t.name].own for t in known)
    if own:
        checked = replace(checked, detail=f"{checked.detail}; {counted(own, 'tensor')} {OWN}")
    if against.moved:
        checked = replace(checked, detail=f"{checked.detail}, {FACTORS}")
    if left and checked.ok:
        why = "; ".join(dict.fromkeys(left.values()))
        what = (
            f"{len(left)} of {counted(len(against.weights), 'tensor')} "
            f"are not compared, because {why}; others: {checked.detail}"
        )
        checked = replace(checked, ok=None, detail=what)
    return _with_gain(checked, against.noted)


def read_ahead(against: Against, options: VerifyOptions) -> None:
    """Read the rows of the source that `check_numbers` compares, for whoever keeps what is read."""
    for tensor in against.weights:
        for slab in _slabs(tensor, SLAB_WEIGHTS, options.sample_rows, against.moved):
            read_slab(against.source, tensor, slab.start, slab.stop)


def _carried(against: Against, held: Mapping[str, Held]) -> list[str]:
    """The weights that a GGUF file holds as the type whose codes the source has: none of them was rounded."""
    if against.reference is None:
        return []
    sources, graph = against.source.tensors(), graph_of(against.reference.model)
    found = ((t.name, codes_of(t, sources, graph)) for t in against.weights)
    return [name for name, codes in found if codes and not codes.lost and held[name].type == codes.qtype]


def _why_not(tensor: ModelTensor, held: Held, moved: bool) -> str | None:
    """Why a weight cannot be compared, None where it can. Of a vector nothing is left up to factors of its rows."""
    return MOVED if moved and tensor.cols == 1 and held.undecoded is None else held.undecoded


def _places(weights: Sequence[ModelTensor], held: Mapping[str, Held]) -> str | None:
    """What is wrong with names and shapes; None where every weight is there."""
    missing = [t.name for t in weights if t.name not in held]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        return f"{counted(len(missing), 'tensor')} of the source {verb} missing, first {missing[0]}"
    other = next((t for t in weights if held[t.name].shape != t.shape), None)
    if other is None:
        return None
    return f"{shown(other.name)} is {list(held[other.name].shape)}, the source has {list(other.shape)}"


def _judge(errors: Sequence[TensorError], floors: Mapping[str, float], data: dict[str, Any]) -> Check:
    failed = [e for e in errors if e.snr_db < floors[e.name] or e.snr_db <= 0]  # at 0 dB zeros would be as good
    if failed:
        first = min(failed, key=lambda e: e.snr_db)
        what = (
            f"{counted(len(failed), 'tensor', 'is', 'are')} far from the source, "
            f"worst {first.name} {first.qtype} {first.snr_db:.1f} dB"
        )
        return Check("numbers", False, what, data)
    worst = _lossy(errors)[:1]
    return Check("numbers", True, f"worst {worst[0].name} {worst[0].snr_db:.1f} dB" if worst else "exact", data)


def _figures(errors: Sequence[TensorError], not_compared: int, *, sampled: bool) -> dict[str, Any]:
    """What the check says for JSON, whatever comes of it and for every container."""
    return {
        "compared_tensors": len(errors),
        "compared_weights": sum(e.weights for e in errors),
        "sampled": sampled,
        "not_compared": not_compared,
        "worst": [
            {"tensor": e.name, "type": e.qtype, "snr_db": round(e.snr_db, 2) if isfinite(e.snr_db) else None}
            for e in _lossy(errors)[:WORST_TENSORS]
        ],
    }


def _lossy(errors: Sequence[TensorError]) -> list[TensorError]:
    return sorted((e for e in errors if not isinf(e.snr_db) or e.snr_db < 0), key=lambda e: e.snr_db)


def _with_gain(check: Check, noted: Sequence[Mapping[str, Any]]) -> Check:
    """A check that passed, with the loss after feedback beside the plain errors."""
    found = gain(noted)
    if found is None or check.ok is False:
        return check
    return replace(check, detail=f"{check.detail}; {found.words()}", data={**check.data, "feedback": found.as_json()})


def _tensor_error(
    made: Made, against: Against, tensor: ModelTensor, how: tuple[Held, tuple[str, int] | None], sample_rows: int | None
) -> TensorError | Undecoded:
    """Error of one weight, summed over its compared slabs. `how` it is held, and the tensor of its factors."""
    held, beside = how
    total = TensorError(tensor.name, held.type, 0, 0.0, 0.0, 0.0)
    measure = compare_moved if against.moved else compare
    for slabs in _gathered(tensor, _slabs(tensor, held.together, sample_rows, against.moved)):
        try:
            decoded = made.picked(tensor.name, [(slab.start, slab.stop) for slab in slabs])
            if beside is not None:
                rows = np.concatenate([np.arange(slab.start, slab.stop) for slab in slabs])
                decoded = decoded * of_rows(made.rows(beside[0], 0, beside[1]), tensor.rows, rows)
        except QuantkitError as error:
            return Undecoded(tensor.name, error.message)
        expected = _expected(against, tensor, held, slabs)
        total = total + measure(tensor.name, held.type, expected, decoded.reshape(expected.shape))
    return total


def _beside(weights: Sequence[ModelTensor], held: Mapping[str, Held]) -> dict[str, tuple[str, int]]:
    """The tensors of factors beside weights, and how many, by the weights' names: the source has none such."""
    names = {tensor.name for tensor in weights}
    found = {name: other for name in names if (other := factor_of(name)) is not None}
    return {n: (other, held[other].shape[0]) for n, other in found.items() if other in held and other not in names}


def _gathered(tensor: ModelTensor, slabs: Sequence[Slab]) -> Iterator[list[Slab]]:
    """Slabs that are compared together: many small ones cost more in calls than in arithmetic."""
    gathered: list[Slab] = []
    rows = 0
    for slab in slabs:
        rows += slab.stop - slab.start
        if gathered and rows * tensor.cols > SLAB_WEIGHTS:
            yield gathered
            gathered, rows = [], slab.stop - slab.start
        gathered.append(slab)
    if gathered:
        yield gathered


def _expected(against: Against, tensor: ModelTensor, held: Held, slabs: Sequence[Slab]) -> F32:
    """Rows of the source as they should be, in the order of the artifact."""
    pieces = [read_slab(against.source, tensor, slab.start, slab.stop) for slab in slabs]
    source = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    rows = order_rows(tensor, source.view(np.uint8)).view(np.float32)
    # what must be equal is held in a type that may be narrower than the source's
    return as_stored(rows, held.plain) if held.plain is not None and held.floor_db == inf else rows


def _slabs(tensor: ModelTensor, together: int, sample_rows: int | None, moved: bool) -> list[Slab]:
    """Slabs of the whole tensor, or evenly spaced units of its rows; rows side by side where scales were `moved`."""
    rows, cols = tensor.rows, tensor.cols
    if sample_rows is None or rows <= sample_rows or cols == 1:
        return list(cut(tensor, together))
    if moved:
        return [Slab(0, min(max(sample_rows, FEWEST_ROWS), rows), 0)]
    unit = tensor.unit
    units = rows // unit
    picked = sorted({i * units // max(sample_rows // unit, 1) for i in range(max(sample_rows // unit, 1))})
    return [Slab(i * unit, (i + 1) * unit, 0) for i in picked]
