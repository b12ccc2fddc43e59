"""Blocks that hand on more than a hidden state: vectors of tokens, keys and values of earlier blocks, four streams."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from walks import CARRYING, TINY, carrying, logits_after, model_of, windows

from quantkit.calibration.text.spec import row_width
from quantkit.calibration.walk import weights
from quantkit.calibration.walk.carried import Carried
from quantkit.calibration.walk.model import embed, read_embedding, token_rows
from quantkit.calibration.walk.threads import workers
from quantkit.calibration.walk.walk import BlockView

KEPT = {"full": (2, 7, 2), "window": (1, 7, 4)}  # heads, tokens, channels of a head


@pytest.mark.parametrize(("axis", "shape"), [(0, (2, 5, 7, 3)), (-2, (5, 7, 2, 3))])
def test_a_row_holds_what_the_model_has(axis: int, shape: tuple[int, ...]) -> None:
    shared = {"full": (2, 2), "window": (1, 4)}
    carried = Carried(2, 3, blocks=2, vector=1, shared=shared, chosen=3, token="input_ids", axis=axis)
    hidden, vectors = torch.randn(shape), [torch.randn(5, 7, 1) for _ in range(2)]
    keys = {kind: (torch.randn(5, *place), torch.randn(5, *place)) for kind, place in KEPT.items()}
    ids = torch.arange(35).reshape(5, 7) + (1 << 24) - 40
    rows = carried.pack(hidden, ids, vectors)
    assert rows.shape == (5, 7, carried.width + 2 + 1 + 2 * 4 + 2 * 4 + 3)
    places = torch.tensor([4, 2], dtype=torch.int32).expand(5, 7, 2)

    def first(streams, per_layer_input, input_ids, shared_kv_states, prev_topk_indices):
        assert torch.equal(streams, hidden)
        assert torch.equal(per_layer_input, vectors[0])
        assert torch.equal(input_ids, ids)
        assert not any(one.any() for both in shared_kv_states.values() for one in both)
        shared_kv_states.update(keys)
        return streams + 1, places

    def second(streams, per_layer_input, input_ids, shared_kv_states, prev_topk_indices):
        assert torch.equal(streams, hidden + 1)
        assert torch.equal(per_layer_input, vectors[1])
        assert torch.equal(input_ids, ids)
        assert all(torch.equal(*pair) for kind in keys for pair in zip(shared_kv_states[kind], keys[kind], strict=True))
        assert torch.equal(prev_topk_indices, torch.tensor([4, 2, 4], dtype=torch.int32).expand(5, 7, 3))
        return streams, None  # the next block chooses for itself

    after = carried.through(1, second, carried.through(0, first, rows))
    assert torch.equal(carried.hidden_of(after[..., : carried.width]), hidden + 1)


@pytest.mark.parametrize("name", CARRYING)
def test_looking_at_a_block_changes_nothing(name: str, tmp_path: Path) -> None:
    """Runs that stop early and go on where earlier ones stopped leave keys and values for later blocks all the same."""
    folder, samples = carrying(name, tmp_path), windows(390, count=3, seqlen=70)

    def look(index: int, block: BlockView) -> dict[str, torch.Tensor]:
        for site in block.sites:
            found = block.statistics(site.linears, hessian=True)
            assert all((found.total(linear).squares > 0).any() for linear in site.linears)
        return {}

    seen, _ = logits_after(model_of(folder), samples, look)
    plain, _ = logits_after(model_of(folder), samples)
    assert (seen - plain).abs().max() <= 2e-5 * plain.abs().max()


@pytest.mark.parametrize("name", CARRYING)
def test_it_is_known_how_much_there_is_for_a_token(name: str, tmp_path: Path) -> None:
    model, samples = model_of(carrying(name, tmp_path)), windows(390, count=1, seqlen=5)
    with workers(1, model.device) as pool:
        embedded = embed(model, samples, read_embedding(model, token_rows(samples)), pool)
    assert embedded.hidden.shape[-1] == row_width(model.checkpoint)


def test_tables_are_read_a_slab_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However near the rows are to each other that text needs: a table of vectors may be larger than memory."""
    model = model_of(TINY)
    rows = np.arange(0, model.rows, 2)
    whole = read_embedding(model, rows)
    monkeypatch.setattr(weights, "SLAB_WEIGHTS", 1 << 12)
    tracemalloc.start()
    found = read_embedding(model, rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert torch.equal(found, whole)
    assert peak < 1.5 * found.numel() * found.element_size()
