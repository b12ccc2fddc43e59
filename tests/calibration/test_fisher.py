"""What errors of the embedding cost: one backward pass, block by block, against transformers' own in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build
from walks import CARRYING, TINY, carrying, model_of, statistics_of, whole_model, windows

from quantkit.calibration.text import spec
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk import fisher, kept_runs
from quantkit.calibration.walk.fisher import SEED, downstream, drawn
from quantkit.calibration.walk.kept_runs import held_bytes, parameter_bytes
from quantkit.calibration.walk.known import NO_ARGUMENTS
from quantkit.calibration.walk.model import BlockModel, block_at, resident_block
from quantkit.calibration.walk.reading import is_readable
from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.skeleton import Arguments
from quantkit.errors import NonFiniteError


def in_one_piece(folder: Path, samples: Samples) -> tuple[np.ndarray, np.ndarray, float]:
    """G, X^T X of the head and the mean square norm of gradients at the logits before any cap, with the same draws."""
    model = whole_model(folder)
    kept: dict[str, torch.Tensor] = {}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding.register_forward_hook(lambda module, args, out: kept.update(embedded=out.detach().requires_grad_()))
    embedding.register_forward_hook(lambda module, args, out: kept["embedded"])
    head.register_forward_hook(lambda module, args, out: kept.update(read=args[0], given=out))
    model.requires_grad_(requires_grad=False)
    fisher_, gram, squares = 0, 0, 0.0
    for number, ids in enumerate(torch.from_numpy(samples.tokens).long()):
        log = torch.log_softmax(model(ids[None]).logits[0], -1)
        labels = drawn(log, SEED + number * len(ids))
        found = torch.autograd.grad(log.gather(1, labels).sum(), [kept["embedded"], kept["given"]])
        g, x = found[0][0].double().numpy(), kept["read"][0].detach().double().numpy()
        fisher_, gram, squares = fisher_ + g.T @ g, gram + x.T @ x, squares + float(found[1].double().square().sum())
    return fisher_, gram, squares / samples.tokens.size


@pytest.mark.parametrize("name", ["gemma2", "qwen3-moe", pytest.param("granite", marks=pytest.mark.slow)])
def test_it_is_the_gradient_of_the_whole_model(name: str, tmp_path: Path) -> None:
    """Scaled embeddings and capped logits, experts, factors before the head."""
    folder, samples = build(name, tmp_path / "source"), windows(400, count=5, seqlen=40)
    found = downstream(model_of(folder), samples)
    fisher_, gram, weight = in_one_piece(folder, samples)
    for ours, theirs in ((found.embedding, fisher_), (found.head, gram)):
        assert np.abs(ours.full().numpy() - theirs).max() < 1e-3 * np.abs(theirs).max()
    assert found.weight == pytest.approx(weight, rel=1e-3)
    assert found.tokens == samples.tokens.size
    tied = found.tied().numpy()
    assert np.allclose(tied, fisher_ + weight * gram, atol=1e-3 * np.abs(tied).max())


@pytest.mark.parametrize("name", CARRYING)
def test_gradients_come_back_through_all_that_blocks_hand_on(name: str, tmp_path: Path) -> None:
    folder, samples = carrying(name, tmp_path), windows(390, count=3, seqlen=40)
    found = downstream(model_of(folder), samples)
    fisher_, gram, _ = in_one_piece(folder, samples)
    for ours, theirs in ((found.embedding, fisher_), (found.head, gram)):
        assert np.abs(ours.full().numpy() - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    samples = windows(2048, count=9, seqlen=130)
    one, three = (downstream(model_of(TINY, threads), samples) for threads in (1, 3))
    assert torch.equal(one.tied(), three.tied())
    assert torch.equal(one.embedding.full(), three.embedding.full())


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_blocks_whose_runs_are_kept_give_the_same_bits(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the last blocks are kept, as many as there is room for, and each other block is loaded twice."""
    samples, model = windows(2048, count=2, seqlen=40), model_of(TINY)
    sizes: list[int] = []

    def counted(module: torch.nn.Module, run: Callable[[], torch.Tensor]) -> int:
        sizes.append(held_bytes(module, run))
        return sizes[-1]

    monkeypatch.setattr(fisher, "held_bytes", counted)
    expected = downstream(model, samples)
    downstream(model, windows(2048, count=6, seqlen=40))
    assert len(set(sizes)) == 1, "of one sample, however many there are"
    size = parameter_bytes(resident_block(model, 0, NO_ARGUMENTS).module) + 2 * sizes[0]
    loaded: list[int] = []

    def load(model: BlockModel, index: int, arguments: Sequence[Arguments]) -> Resident:
        loaded.append(index)
        return block_at(model, index, arguments)

    monkeypatch.setattr(fisher, "block_at", load)
    monkeypatch.setattr(kept_runs, "FISHER_KEPT_BYTES", kept * size)
    found = downstream(model, samples)
    assert loaded == [0, 1, 2, 3, *reversed(range(4 - kept))]
    assert torch.equal(found.embedding.full(), expected.embedding.full())


def test_what_gradients_need_is_counted_once() -> None:
    """SiLU's input, which is saved by it and by the product; SiLU itself; the output. No parameter."""
    linear, read = torch.nn.Linear(8, 16).requires_grad_(False), torch.zeros(1, 4, 8, requires_grad=True)

    def run() -> torch.Tensor:
        given = linear(read)
        return given * torch.nn.functional.silu(given)

    assert held_bytes(linear, run) == 3 * 4 * 16 * 4


@pytest.mark.parametrize(
    ("name", "seqlen", "count"),
    # the last have masks for every sequence, or slopes: a block is called with one, and with several
    [("", 300, 4), ("", 40, 6), ("qwen3-moe", 40, 6), ("gemma2", 40, 6), ("falcon", 40, 6), ("bloom", 40, 6)],
)
def test_runs_show_what_a_walk_would_of_the_first_samples(name: str, seqlen: int, count: int, tmp_path: Path) -> None:
    """Sums of squares and magnitudes of everything that matrices read, the head's included, bit for bit."""
    folder = build(name, tmp_path) if name else TINY
    model, samples = model_of(folder), windows(400, count=6, seqlen=seqlen)
    first = samples.cut(0, count)
    found, expected = downstream(model, samples, first=first).read, statistics_of(model, first, hessian=False)
    assert found is not None
    assert (found.model, found.sites, found.linears, found.data) == (
        expected.model, expected.sites, expected.linears, expected.data,
    )  # fmt: skip
    for linear in expected.linears:
        ours, theirs = found.total(linear), expected.total(linear)
        assert ours.tokens == theirs.tokens
        for sums in ("squares", "magnitudes", "peaks"):
            assert torch.equal(getattr(ours, sums), getattr(theirs, sums)), (linear, sums)


def test_runs_that_would_show_other_sums_are_not_read() -> None:
    """A part of a chunk, more than a span, samples that are not run."""
    samples, tiny = windows(400, count=70, seqlen=300), model_of(TINY)
    assert is_readable(tiny, samples.cut(0, 4), samples)
    assert not is_readable(tiny, samples.cut(0, 3), samples)
    assert is_readable(tiny, samples.cut(0, 3), samples.part(0, 3))
    assert not is_readable(tiny, samples.cut(0, 66), samples)
    assert not is_readable(tiny, samples.cut(0, 4), samples.part(0, 2))


@pytest.mark.parametrize(
    ("tied", "most", "run"), [(True, 100, 3), (True, 1 << 14, 6), (False, 100, 3), (False, 1 << 14, 4)]
)
def test_it_takes_no_more_tokens_than_it_needs(
    tied: bool, most: int, run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TINY if tied else build("llama-untied-gqa", tmp_path)
    samples = windows(400, count=6, seqlen=30)
    monkeypatch.setattr(spec, "FISHER_TOKENS", most)
    hidden = model_of(folder).skeleton.model.config.hidden_size
    monkeypatch.setattr(spec, "FISHER_SHARE", Fraction(120, hidden))
    found = downstream(model_of(folder), samples)
    assert found.tokens == 30 * run
    assert torch.equal(found.tied(), downstream(model_of(folder), samples.part(0, run)).tied())


@pytest.mark.parametrize("labels", [2, 50, 700])
def test_labels_are_drawn_as_often_as_they_are_likely(labels: int) -> None:
    """Counts of 65,536 draws against their chances, by chi squared; those that cannot be are never drawn."""
    count, draws = 1 << 16, torch.Generator().manual_seed(labels)
    log = torch.log_softmax(2 * torch.randn(labels, generator=draws), 0)
    log[[0, -1] if labels > 2 else []] = -torch.inf
    log -= log.logsumexp(0)
    step = count // 64
    found = torch.cat([drawn(log.expand(step, labels), SEED + number) for number in range(64)])
    assert found.shape == (count, 1)
    counts, expected = torch.bincount(found[:, 0], minlength=labels).double(), count * log.double().exp()
    assert not counts[expected == 0].any()
    apart = ((counts - expected).square() / expected)[expected > 0].sum()
    assert abs(apart - labels) < 6 * (2 * labels) ** 0.5 + 4


def test_gradients_that_are_no_numbers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    true = fisher._head_gradient

    def broken(*args: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gradient, inputs, square = true(*args)  # type: ignore[arg-type]
        return gradient * torch.inf, inputs, square

    monkeypatch.setattr(fisher, "_head_gradient", broken)
    with pytest.raises(NonFiniteError, match=r"block model.layers.3") as caught:
        downstream(model_of(TINY), windows(2048, count=1, seqlen=30))
    assert caught.value.hint


class Gradients:
    """A watch that adds up g^T x of every linear that it is shown: the gradient at its weight."""

    def __init__(self, linears: tuple[str, ...]) -> None:
        self.found: dict[str, torch.Tensor] = {}
        self.read: dict[tuple[int, int], torch.Tensor] = {}
        self.embedded: list[torch.Tensor] = []
        self._linears = [f"model.layers.{{}}.{name}.weight" for name in linears]

    def linears(self, index: int) -> frozenset[str]:
        return frozenset(name.format(index) for name in self._linears)

    def head(self, place: tuple[int, int], inputs: torch.Tensor, log: torch.Tensor) -> None:
        assert len(inputs) == len(log)
        self.read[place] = inputs

    def seen(self, samples: int, inputs: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> object:
        return {name: gradients[name].T @ inputs[name].detach() for name in gradients}

    def add(self, index: int, results: list[dict[str, torch.Tensor]]) -> None:
        for name in results[0]:
            self.found[name] = sum(one[name] for one in results)

    def embedding(self, gradients: torch.Tensor) -> None:
        self.embedded.append(gradients)


@pytest.mark.parametrize(
    ("name", "linears"),
    [
        ("gemma2", ("self_attn.v_proj", "mlp.down_proj")),
        ("", ("self_attn.v_proj", "mlp.down_proj")),
        ("deepseek-v4", ("self_attn.o_a_proj", "self_attn.kv_proj")),
    ],
)
def test_a_watch_sees_the_gradient_of_every_weight(name: str, linears: tuple[str, ...], tmp_path: Path) -> None:
    """Inputs and gradients multiplied are what transformers' model in one piece has as gradients of its weights: with
    norms behind the last linear of a block, without, and of a linear in groups of rows."""
    make = carrying if name in CARRYING else build
    folder, samples = make(name, tmp_path) if name else TINY, windows(390, count=5, seqlen=40)
    watch = Gradients(linears)
    found = downstream(model_of(folder), samples, watch=watch)
    model = whole_model(folder)
    for number, ids in enumerate(torch.from_numpy(samples.tokens).long()):
        log = torch.log_softmax(model(ids[None]).logits[0], -1)
        log.gather(1, drawn(log, SEED + number * len(ids))).sum().backward()
    expected = dict(model.named_parameters())
    assert watch.found
    for name, gradient in watch.found.items():
        assert torch.allclose(gradient, expected[name].grad, atol=1e-3 * float(expected[name].grad.abs().max())), name
    flat = torch.cat(watch.embedded)
    assert torch.allclose(flat.T @ flat, found.embedding.full(), rtol=1e-3, atol=1e-3)
    read = torch.cat([watch.read[place] for place in sorted(watch.read)])
    assert torch.allclose(read.T @ read, found.head.full(), rtol=1e-3, atol=1e-2)
