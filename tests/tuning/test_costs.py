"""Costs against the truth: one tensor of a model rounded, all the text run through it, its predictions compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from walks import TINY, logits_after, whole_model

from quantkit.calibration.inputs import open_calibration_model
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.text.spec import shipped_beside
from quantkit.calibration.walk.walk import BlockView, How
from quantkit.errors import InterruptedRunError
from quantkit.events import BlockProgress, Event, Sink, TensorProgress, ignore, never
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.prepared import Prepared
from quantkit.pipeline.request import Request
from quantkit.qtypes import base
from quantkit.tuning.judging import Judged
from quantkit.tuning.measure import Task, measure

TEXT = TINY.parent / "calibration.jsonl"
LINEARS = {"blk.1.ffn_up.weight": "mlp.up_proj", "blk.2.ffn_down.weight": "mlp.down_proj"}
TABLE = "token_embd.weight"
Costs = Mapping[str, Mapping[str, float]]
Types = Mapping[str, tuple[str, ...]]
OTHERS = 16  # windows of text of other kinds
TYPES = dict.fromkeys((*LINEARS, TABLE), ("q3_k", "q6_k"))


@cache
def prepared(method: str | None) -> Prepared:
    return prepare(Request(str(TINY), calib=(str(TEXT),), samples=24, seqlen=128, method=method, threads=2))


def costs_of(method: str | None, threads: int = 2, emit: Sink = ignore) -> tuple[Judged, ...]:
    found = prepared(method)
    assert found.calibration is not None
    halves = found.calibration.halves()
    assert halves is not None
    model = open_calibration_model(found.checkpoint, Request(str(TINY), calib=("x",), threads=threads).calibration())
    return measure(Task(model, found.plans[0], types_of(found), *halves, None, elsewhere_of(found)), emit, never)


def elsewhere_of(found: Prepared) -> Samples:
    """Text of other kinds, of more than one part."""
    assert found.calibration is not None
    samples = shipped_beside(found.checkpoint, replace(found.calibration.spec, samples=2 * OTHERS), None)
    assert samples is not None
    return samples


def types_of(found: Prepared) -> Types:
    """TYPES, and the plan's own type of each tensor."""
    own = {unit.name: unit.word for unit in found.plans[0].units}
    return {name: tuple(dict.fromkeys((*types, own[name]))) for name, types in TYPES.items()}


@cache
def judged(method: str | None) -> tuple[Judged, ...]:
    return costs_of(method)


def measured(method: str | None) -> Costs:
    return judged(method)[0].costs


def true_cost(name: str, qtype: str) -> float:
    """KL divergence of the judged text, in nats per token, with the whole tensor as its encoder rounds it."""
    found = prepared("rtn")
    assert found.calibration is not None
    _, judged = found.calibration.halves() or ()
    model = open_calibration_model(found.checkpoint, found.calibration.spec)
    unit = next(unit for unit in found.plans[0].units if unit.name == name)
    kind = base.get(qtype)

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if index != unit.tensor.layer:
            return {}
        [linear] = [key for key in block.linears if LINEARS[name] in key]
        weight = block.weight(linear).numpy()
        squares = unit.importance[0] if unit.importance is not None else None
        return {linear: torch.from_numpy(kind.decode(kind.encode(weight, squares), weight.shape[1]))}

    candidate, reference = logits_after(model, judged, visit, How(keep_reference=True))
    p, q = (logits.double().log_softmax(-1) for logits in (reference, candidate))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_costs_are_what_is_lost() -> None:
    """By plain encoders, of which the truth is easily made: each within a factor of two, their mean within a third.

    What is predicted is expected over errors of rows that know nothing of each other; that of one tensor of a small
    model has as few signs as a coin that is tossed some times.
    """
    ratios = [measured("rtn")[name][kind] / true_cost(name, kind) for name in LINEARS for kind in TYPES[name]]
    assert all(0.5 < ratio < 2 for ratio in ratios), ratios
    assert 0.75 < np.exp(np.mean(np.log(ratios))) < 1.33, ratios


def test_larger_types_cost_less_and_feedback_less_than_encoders() -> None:
    fed, plain = measured(None), measured("rtn")
    for name in TYPES:
        assert 0 < fed[name]["q6_k"] < fed[name]["q3_k"] / 8
        assert fed[name]["q3_k"] < plain[name]["q3_k"]


def test_text_of_other_kinds_is_judged_by_what_was_rounded_for_the_first() -> None:
    """An embedding that is rounded by gradients of the very text that judges it would look better than it is."""
    found = prepared(None)
    assert found.calibration is not None
    learned, _ = found.calibration.halves() or ()
    model = open_calibration_model(found.checkpoint, found.calibration.spec)
    types = {TABLE: TYPES[TABLE]}
    [alone] = measure(Task(model, found.plans[0], types, learned, elsewhere_of(found)), ignore, never)
    own, other = judged(None)
    for kind in TYPES[TABLE]:
        assert other.costs[TABLE][kind] > 1.05 * alone.costs[TABLE][kind]
    assert own.costs.keys() == other.costs.keys()


def test_the_perplexity_is_that_of_the_text() -> None:
    """As transformers' model in one piece has it; text of other kinds is harder to read."""
    found = prepared(None)
    assert found.calibration is not None
    _, text = found.calibration.halves() or ()
    tokens = torch.from_numpy(text.tokens).long()
    with torch.no_grad():
        log = torch.log_softmax(whole_model(TINY)(tokens).logits[:, :-1], -1)
    own, other = judged(None)
    expected = torch.exp(-log.gather(-1, tokens[:, 1:, None]).mean())
    assert own.perplexity == pytest.approx(float(expected), rel=1e-4)
    assert other.perplexity is not None and other.perplexity > own.perplexity


def test_the_standard_error_is_that_of_windows_of_the_text() -> None:
    """Some percent, of a few thousand tokens; text of one window has none."""
    words = {unit.name: unit.word for unit in prepared(None).plans[0].units}
    for one in judged(None):
        total = sum(one.costs[name][words[name]] for name in TYPES)
        assert one.error is not None
        assert 0.005 * total < one.error < 0.3 * total


def test_any_number_of_threads_measures_the_same_and_tells_how_far_it_is() -> None:
    """Blocks go there, and there and back again: the bar is full at the end, not before the way back."""
    heard: list[Event] = []
    assert costs_of(None, threads=1, emit=heard.append) == judged(None)
    bars = [(e.tensor, e.done_bytes / e.total_bytes) for e in heard if isinstance(e, TensorProgress)]
    names = [f"model.layers.{index}" for index in range(4)]
    assert [name for name, _ in bars] == [*names, "head", *2 * ["embedding", *names, *names[::-1]]]
    shares = [share for _, share in bars]
    assert shares == sorted(shares)
    assert shares[4] < 0.7
    assert shares[13] == pytest.approx((shares[4] + 1) / 2, abs=0.01), "the way of the first text is half of both"
    assert shares[-1] == 1.0
    assert {(e.block, e.index) for e in heard if isinstance(e, BlockProgress)} >= set(
        zip(names, range(1, 5), strict=True)
    )


def test_it_stops_between_blocks() -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    found = prepared(None)
    assert found.calibration is not None
    model = open_calibration_model(found.checkpoint, found.calibration.spec)
    with pytest.raises(InterruptedRunError):
        measure(Task(model, found.plans[0], TYPES, *(found.calibration.halves() or ())), ignore, stop)
