"""Columns that are far apart in length are evened: the function stays, whatever scales a checkpoint came with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import family_table
import numpy as np
import pytest
from checkpoints import build
from commands import TINY
from folded import FAMILY
from predictions import next_token_logits
from scaled import described, scaled, weights

from quantkit.families.sites import sites_of
from quantkit.source import Checkpoint
from quantkit.source import evened as module
from quantkit.source.evened import EvenedCheckpoint, EvenedTensor, evened, nearer
from quantkit.source.memory import MemoryCheckpoint

CONTEXTS = [[1, 7, 3, 9], [1, 250, 40], [5]]


def changed_in(found: Checkpoint) -> set[str]:
    refs = {name: found.ref(name) for name in found.tensors()}
    return {name for name, ref in refs.items() if isinstance(ref, EvenedTensor) and ref.factors}


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaled(TINY, tmp_path_factory.mktemp("scaled") / "far")


def test_trained_weights_stay_as_they_are() -> None:
    found = evened(*described(TINY))
    assert isinstance(found, EvenedCheckpoint) and found.facts() == {}
    assert all(np.array_equal(values, weights(found.base)[name]) for name, values in weights(found).items())
    assert changed_in(found) == set()


@pytest.mark.parametrize("name", FAMILY)
def test_the_function_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever sites a family has: all of them are evened here, and what the model predicts is as before."""
    source, model = described((family_table.build if name in family_table.TABLE else build)(name, tmp_path))
    monkeypatch.setattr(module, "FAR", -1.0)
    found, sites = evened(source, model), sites_of(source.tensors(), source.config, model)
    assert isinstance(found, EvenedCheckpoint) and found.facts()["sites"] == len(sites) > 0
    before, changed = weights(source), changed_in(found)
    assert changed == {rows.tensor for site in sites for rows in site.rows}
    assert all((values != before[name]).any() for name, values in weights(found).items() if name in changed)
    expected = next_token_logits(source, CONTEXTS)
    assert np.abs(next_token_logits(found, CONTEXTS) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_scales_that_a_checkpoint_came_with_are_gone(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is far apart is what it would be in the checkpoint without scales, but for half a step on both sides."""
    found = evened(*described(far))
    assert isinstance(found, EvenedCheckpoint) and found.facts() == {"sites": 16, "tensors": 36}
    monkeypatch.setattr(module, "FAR", -1.0)
    plain, changed = evened(*described(TINY)), changed_in(found)
    ours, theirs, there = weights(found), weights(plain), weights(found.base)
    for name in changed:
        ratio = np.log2(np.abs(ours[name]) / np.abs(theirs[name]))[theirs[name] != 0]
        assert np.abs(ratio - np.median(ratio)).max() <= 4.1 / module.STEPS, name
        apart = np.log2(np.abs(there[name]) / np.abs(theirs[name]))[theirs[name] != 0]
        assert apart.std() > 8 * ratio.std(), name
    assert all(np.array_equal(ours[n], there[n]) for n in ours if n not in changed)


def test_rows_are_the_same_in_any_slab(far: Path) -> None:
    found = evened(*described(far))
    for name in changed_in(found):
        ref = found.ref(name)
        whole = ref.read(0, ref.info.rows)
        assert ref.info.dtype == "F32" and ref.info.nbytes == whole.nbytes
        pieces = [ref.read(start, min(start + 37, ref.info.rows)) for start in range(0, ref.info.rows, 37)]
        assert np.array_equal(np.concatenate(pieces), whole)
        assert np.array_equal(ref.read_packed(3, 9).view(np.float32), whole[3:9])


def test_it_looks_with_as_many_threads_as_it_is_told(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evened(*described(far)).far()
    assert expected
    monkeypatch.setattr(module, "core_count", lambda: pytest.fail("asked for cores"))
    for threads in (1, 2, 3):
        found = evened(*described(far), threads).far()
        assert [(site.producer, spread) for site, _, spread in found] == [(s.producer, one) for s, _, one in expected]
        assert all(np.array_equal(ours, theirs) for (_, ours, _), (_, theirs, _) in zip(found, expected, strict=True))


def test_it_is_told_which_one_a_file_was_made_of(far: Path) -> None:
    source, model = described(far)
    found = evened(source, model)
    for made, wanted in ((found, EvenedCheckpoint), (source, type(source))):
        damaged = {name: values * np.float32(1.07) for name, values in weights(made).items()}
        assert type(nearer(source, memory(source, damaged), model)) is wanted


def memory(source: Checkpoint, tensors: Mapping[str, np.ndarray]) -> MemoryCheckpoint:
    return MemoryCheckpoint(source.config, tensors)
