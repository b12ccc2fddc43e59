"""Which linears' errors later tokens read, and how often tokens count for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import build
from walks import TINY, logits_after, model_of, windows

from quantkit.calibration.statistics import sums
from quantkit.calibration.statistics.sums import Site
from quantkit.calibration.walk.passes import far_of
from quantkit.calibration.walk.reach import _counts, _evened, reached

READ = {
    "llama-untied-gqa": {"q_proj", "k_proj", "v_proj"},
    "phi3": {"qkv_proj"},
    "gemma2": {"q_proj", "k_proj", "v_proj"},
    "qwen2-moe": {"q_proj", "k_proj", "v_proj"},
    "mixtral-4x1M": {"q_proj", "k_proj", "v_proj"},
}


def looked_at(folder: Path, look, *, seqlen: int = 24, count: int = 2) -> None:
    """Call look(block, its pass over the samples) for every block."""

    def visit(index, block):
        if not block.is_head:
            look(block, block._pass(block._activations.candidate))
        return {}

    logits_after(model_of(folder), windows(400, count=count, seqlen=seqlen), visit)


@pytest.mark.parametrize("name", READ)
def test_what_attention_reads_reaches_far_and_nothing_else(name: str, tmp_path: Path) -> None:
    """Found by gradients, in every block: no router, no expert, no part of the feed-forward network."""
    found = []

    def look(block, work) -> None:
        [far] = far_of(work, block.sites)
        found.append({linear.split(".")[-2] for linear in far.site.linears})
        assert far.ends.linears == (f"{block.name}.self_attn.o_proj.weight",)

    looked_at(build(name, tmp_path), look)
    assert found and all(one == READ[name] for one in found)


def test_a_sample_of_one_token_has_no_later_one() -> None:
    looked_at(TINY, lambda block, work: far_of(work, block.sites) == () or pytest.fail("one token"), seqlen=1)


def test_counts_are_of_the_sample_alone_and_double_its_energy() -> None:
    def look(block, work) -> None:
        far = far_of(work, block.sites)
        [both] = reached(work.resident, work.hidden, far, [0, 1]).counts.values()
        [second] = reached(work.resident, work.hidden[1:], far, [1]).counts.values()
        assert torch.allclose(both[len(second) :], second, rtol=1e-4)
        assert (both >= 1).all()
        inputs = block.statistics(far[0].site.linears, hessian=True).total(far[0].site.name)
        assert inputs.gram.diagonal().sum() == pytest.approx(2 * float(inputs.squares.sum()), rel=1e-5)

    looked_at(TINY, look)


def test_counts_do_not_depend_on_the_size_of_gradients() -> None:
    """Not where their squares have no room in float32, either: what small weights of later layers leave."""
    linear = "model.layers.0.self_attn.v_proj.weight"
    site, hidden = Site(linear, (linear,), 32), torch.zeros(2, 5, 32)
    inputs, gradients = torch.randn(10, 32), torch.randn(10, 64)
    expected = _counts(site, inputs, {linear: gradients}, hidden)
    for size in (1e-19, 1e-24, 1e25):
        assert torch.allclose(_counts(site, inputs, {linear: gradients * size}, hidden), expected, rtol=1e-4)
    assert torch.equal(_counts(site, inputs, {linear: gradients * 0}, hidden), torch.ones(10))


def test_tokens_count_as_often_as_they_are_read() -> None:
    """With the same attention to all earlier tokens, an error of token t's values is read at every position p >= t,
    each time by 1 / (p + 1)."""
    count, seqlen = 8, 24
    steps = torch.arange(1, seqlen + 1, dtype=torch.float64)
    read = torch.stack([(steps[t:] ** -2).sum() for t in range(seqlen)])

    def look(block, work) -> None:
        far = far_of(work, block.sites)
        for matrix in ("q_proj", "k_proj"):
            name = f"{block.name}.self_attn.{matrix}.weight"
            block.replace({name: torch.zeros_like(block.weight(name))})
        [counts] = reached(work.resident, work.hidden, far, range(count)).counts.values()
        found = (counts.reshape(count, seqlen) - 1).double()
        expected = read / read.sum()
        assert ((found / found.sum(1, keepdim=True)).mean(0) - expected).abs().max() < 0.15 * expected[0]

    looked_at(TINY, look, seqlen=seqlen, count=count)


def test_products_of_gradients_are_those_of_all_samples_divided_by_their_length() -> None:
    """By the sums that a plain loop makes of the same gradients; rows cut out of them are those of the whole."""

    def look(block, work) -> None:
        far = far_of(work, block.sites)
        names = far[0].site.linears
        found = block.statistics(names, hessian=True, outputs=True)
        assert set(found.outputs) == set(names)
        each = [reached(work.resident, work.hidden[k : k + 1], far, [k]).outputs for k in range(len(work.hidden))]
        for name in names:
            rows = block.linears[name].rows
            expected = sum(one[name].double().T @ one[name].double() for one in each)
            [whole] = found.outputs[name].blocks(0, rows)
            assert torch.allclose(whole.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.diagonal().max()))
            [some] = found.outputs[name].blocks(3, rows - 5)
            assert torch.equal(some, whole[3 : rows - 5, 3 : rows - 5])

    looked_at(TINY, look, count=5)


def test_a_gradient_counts_with_its_length_and_not_with_its_square() -> None:
    gradients = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-24, 4e-24], [3e18, 4e18]])
    found = _evened(gradients)
    assert torch.allclose(found.square().sum(1), gradients.double().norm(dim=1).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("asked", [{}, {"hessian": True}, {"outputs": True}])
def test_products_of_gradients_are_made_where_they_are_asked_for_beside_those_of_inputs(asked: dict) -> None:
    looked_at(TINY, lambda block, _: block.statistics(**asked).outputs == {} or pytest.fail("not asked for"))


def test_rows_of_several_groups_keep_their_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "GROUP", 10)
    rows = torch.randn(30, 24)
    into = sums.OutputSums(24, device=torch.device("cpu"))
    into.add([rows[:20], rows[20:]])
    whole = rows.T @ rows
    cuts = [(0, 10), (10, 20), (20, 24)]
    for found, (start, stop) in zip(into.sums.blocks(0, 24), cuts, strict=True):
        assert torch.allclose(found, whole[start:stop, start:stop], rtol=1e-4, atol=1e-4)
    assert [len(one) for one in into.sums.blocks(5, 21)] == [5, 10, 1]
    assert torch.equal(into.sums.blocks(5, 21)[0], into.sums.blocks(0, 24)[0][5:, 5:])


@pytest.mark.parametrize("threads", [1, 3])
def test_products_of_gradients_have_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    found = []
    for count in (2, threads):
        model, taken = replace(model_of(TINY), threads=count), {}

        def visit(index, block, taken=taken):
            if not block.is_head:
                taken |= block.statistics(hessian=True, outputs=True).outputs
            return {}

        logits_after(model, windows(400, count=5, seqlen=300), visit)
        found.append(taken)
    assert found[0].keys() == found[1].keys() and found[0]
    for name, one in found[0].items():
        for a, b in zip(one.groups, found[1][name].groups, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a.bands, b.bands, strict=True))
