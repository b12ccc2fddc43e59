"""Norms fitted to a damaged model: gradients against transformers' own in one piece, and what comes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build
from transformers import AutoModelForCausalLM
from walks import TINY, windows

from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk import refit as refitting
from quantkit.calibration.walk.model import open_model
from quantkit.calibration.walk.refit import Refitted, refit
from quantkit.calibration.walk.threads import workers
from quantkit.evaluation.sides import with_tensors
from quantkit.methods.settings import REFIT_REACH
from quantkit.source import Checkpoint, open_source
from quantkit.source.memory import MemoryTensor
from quantkit.tensors import TensorInfo

NORM = "norm.weight"


def damaged(source: Checkpoint, scale: float = 0.97) -> Checkpoint:
    """The source with shorter projections behind the norms of its blocks."""
    changed = {}
    for name, info in source.tensors().items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            values = np.float32(scale) * source.ref(name).read(0, info.rows).reshape(info.shape)
            changed[name] = MemoryTensor(TensorInfo(name, "F32", info.shape, values.nbytes), values)
    return with_tensors(source, changed)


def norms(source: Checkpoint, add: float = 0.0) -> dict[str, float]:
    return {name: add for name in source.tensors() if name.endswith(NORM)}


def fitted(source: Checkpoint, samples: Samples, *, threads: int = 1, judged: int = 2) -> Refitted:
    models = tuple(open_model(one, threads=threads) for one in (source, damaged(source)))
    count = len(samples.tokens)
    text = samples.cut(0, count - judged), samples.cut(count - judged, count)
    return refit((models[0], models[1]), text, norms(source), models[0].rows)


def in_one_piece(folder: Path, other: Checkpoint, samples: Samples, vectors: dict[str, float]) -> dict[str, np.ndarray]:
    """The gradients of the mean divergence with regard to norms, by transformers and autograd alone."""
    first, second = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2))
    state = second.state_dict()
    for name, info in other.tensors().items():
        state[name].copy_(torch.from_numpy(other.ref(name).read(0, info.rows)).reshape(info.shape))
    ids = torch.from_numpy(samples.tokens).long()
    with torch.no_grad():
        ours = torch.log_softmax(first(ids).logits, -1)
    apart = (ours.exp() * (ours - torch.log_softmax(second(ids).logits, -1))).sum(-1).mean()
    moving = [second.get_parameter(name) for name in vectors]
    return {n: g.numpy() for n, g in zip(vectors, torch.autograd.grad(apart, moving), strict=True)}


@pytest.mark.parametrize(("name", "add"), [("gemma2", 1.0), ("qwen3", 0.0), ("olmo2", 0.0)])
def test_it_follows_the_gradient_of_the_whole_model(name: str, add: float, tmp_path: Path) -> None:
    """Norms that are stored less one, and capped logits; norms of heads; norms behind what they norm."""
    folder = build(name, tmp_path / "source", spread=0.2)
    source, samples = open_source(str(folder)), windows(400, count=5, seqlen=40)
    vectors = norms(source, add)
    models = tuple(open_model(one, threads=1) for one in (source, damaged(source)))
    with workers(1, models[0].device) as pool:
        text = samples.cut(0, 4), samples.cut(4, 5)
        fit = refitting._Fit((models[0], models[1]), text, vectors, models[0].rows, pool)
        gradients, *kept = (fit._new(4) for _ in range(models[1].count + 2))
        found = fit._gradients(range(4), kept, gradients)
    expected = in_one_piece(folder, damaged(source), samples.cut(0, 4), vectors)
    assert found.keys() == expected.keys()
    largest = max(np.abs(one).max() for one in expected.values())
    for name, one in expected.items():
        assert np.abs(found[name].numpy() - one).max() < 2e-3 * largest, name


def test_what_norms_can_take_back_they_do(tmp_path: Path) -> None:
    """Projections that are too short by 3 % are made up for by longer norms, on windows that were not learned from."""
    source = open_source(str(build("llama-untied-gqa", tmp_path / "source", spread=0.3)))
    found = fitted(source, windows(400, count=10, seqlen=40))
    assert (found.after < 0.95 * found.before).all(), "five steps of 0.001 at most, falling"
    assert found.tokens == 8 * 40
    moved = []
    for name, values in found.values.items():
        factor = values / source.ref(name).read(0, len(values))[:, 0] - 1
        assert np.abs(factor).max() <= REFIT_REACH * 1.0001
        moved.append(factor.mean())
    assert np.mean(moved) > 0.0003


def test_any_number_of_threads_and_any_memory_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    source, samples = open_source(str(TINY)), windows(2048, count=6, seqlen=70)
    monkeypatch.setattr(refitting, "REFIT_STEPS", 2)
    one = fitted(source, samples)
    monkeypatch.setattr(refitting, "REFIT_KEPT_BYTES", 0)
    three = fitted(source, samples, threads=3)
    assert one.values.keys() == three.values.keys()
    assert all(np.array_equal(values, three.values[name]) for name, values in one.values.items())
    assert np.array_equal(one.before, three.before)
    assert np.array_equal(one.after, three.after)


def test_only_windows_that_a_step_takes_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far apart in the text, and no other; with little text all of them again and again."""
    text = windows(100, count=9, seqlen=10)
    monkeypatch.setattr(refitting, "REFIT_STEP_TOKENS", 20)
    monkeypatch.setattr(refitting, "REFIT_STEPS", 2)
    learned, steps = refitting._batches(text)
    assert steps == [[0, 1], [2, 3]]
    assert np.array_equal(learned, text.tokens[[0, 4, 8, 1]])
    monkeypatch.setattr(refitting, "REFIT_STEPS", 100)
    learned, steps = refitting._batches(text)
    assert len(steps) == 23, "five times nine windows, two a step"
    assert sorted(map(tuple, learned.tolist())) == sorted(map(tuple, text.tokens.tolist()))
    taken = [window for step in steps for window in step]
    assert sorted(taken[:9]) == list(range(9))
    assert taken[9:18] == taken[:9]
