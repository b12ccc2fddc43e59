"""AWQ, SmoothQuant and folding: the function stays, rounding gets better."""

from __future__ import annotations

from dataclasses import replace

import layers
import numpy as np
import pytest
import torch

from quantkit.calibration.walk.weights import Held, named
from quantkit.errors import InputError, UnsupportedError, VerificationError
from quantkit.families.folds import Fold
from quantkit.families.known import folds_of, known_families
from quantkit.methods import base
from quantkit.methods.base import Layer
from quantkit.methods.settings import Settings, in_turn
from quantkit.methods.transforms import awq, folding
from quantkit.methods.transforms.folding import SiteWeights, check_fold, fold, per_channel
from quantkit.methods.transforms.smoothquant import smoothing_scales

HEAD, QUERIES, VALUES = 16, 8, 2  # heads of queries and of values
HIDDEN, INNER = HEAD * QUERIES, 256
NORM = Fold("norm", ("q", "k"), norm=True)
HEADS = Fold("v", ("o",), heads=True)
PLAIN = Fold("up", ("down",))


def matrix(rows: int, cols: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32) / np.float32(cols**0.5)


SITE_WEIGHTS = {
    "norm": SiteWeights(NORM, matrix(1, HIDDEN, 0)[0] + 1, {"q": matrix(64, HIDDEN, 1), "k": matrix(32, HIDDEN, 2)}),
    "centered": SiteWeights(replace(NORM, centered=True), matrix(1, HIDDEN, 0)[0], {"q": matrix(64, HIDDEN, 1)}),
    "heads": SiteWeights(
        HEADS, matrix(VALUES * HEAD, HIDDEN, 3), {"o": matrix(HIDDEN, HIDDEN, 4)}, matrix(1, VALUES * HEAD, 5)[0], HEAD
    ),
    "fused-heads": SiteWeights(
        HEADS, matrix(HIDDEN + 2 * VALUES * HEAD, HIDDEN, 3), {"o": matrix(HIDDEN, HIDDEN, 4)}, head=HEAD
    ),
    "up": SiteWeights(PLAIN, matrix(INNER, HIDDEN, 6), {"down": matrix(HIDDEN, INNER, 7)}),
    "fused-up": SiteWeights(PLAIN, matrix(2 * INNER, HIDDEN, 6), {"down": matrix(HIDDEN, INNER, 7)}),
}
each_site = pytest.mark.parametrize("name", SITE_WEIGHTS)


def scales(weights: SiteWeights) -> np.ndarray:
    return np.exp(np.random.default_rng(9).standard_normal(weights.channels)).astype(np.float32)


@each_site
def test_folding_moves_scales_and_keeps_the_function(name):
    before = SITE_WEIGHTS[name]
    scale = scales(before)
    after = fold(before, scale)
    for consumer, weight in before.consumers.items():
        assert np.allclose(after.consumers[consumer], weight * scale[before.channel_of])
    assert not np.array_equal(after.producer, before.producer)


@each_site
def test_a_wrong_fold_is_noticed(name):
    before = SITE_WEIGHTS[name]
    after = fold(before, scales(before))
    broken = after.producer.copy()
    broken.reshape(-1)[-1] *= np.float32(1.01)
    broken.reshape(-1)[-1] += np.float32(0.01)
    with pytest.raises(VerificationError, match="folding scales into"):
        check_fold(before, replace(after, producer=broken))


def attention(v: np.ndarray, bias: np.ndarray, o: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What grouped-query attention gives when every query looks at all tokens alike: torch's own."""

    def heads(t, count):
        return torch.from_numpy(t).reshape(1, -1, count, HEAD).transpose(1, 2)

    queries = np.zeros((len(x), HIDDEN), np.float32)
    keys = np.zeros((len(x), VALUES * HEAD), np.float32)
    values = (x @ v.T + bias).astype(np.float32)
    out = torch.nn.functional.scaled_dot_product_attention(
        heads(queries, QUERIES), heads(keys, VALUES), heads(values, VALUES), enable_gqa=True
    )
    return out.transpose(1, 2).reshape(len(x), HIDDEN).numpy() @ o.T


def test_value_channels_are_those_of_grouped_query_attention():
    before = SITE_WEIGHTS["heads"]
    after = fold(before, scales(before))
    x = matrix(5, HIDDEN, 8)
    expected = attention(before.producer, before.bias, before.consumers["o"], x)
    found = attention(after.producer, after.bias, after.consumers["o"], x)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_scales_must_be_positive_numbers(bad):
    scale = scales(SITE_WEIGHTS["up"])
    scale[3] = bad
    with pytest.raises(InputError, match="positive numbers"):
        fold(SITE_WEIGHTS["up"], scale)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="up has 128 rows"):
        SiteWeights(PLAIN, matrix(128, HIDDEN, 6), {"down": matrix(HIDDEN, INNER, 7)})
    with pytest.raises(InputError, match="make no heads of 48"):
        fold(replace(SITE_WEIGHTS["heads"], head=48), np.ones(32, np.float32))


def test_statistics_of_columns_become_those_of_channels():
    weights = SITE_WEIGHTS["heads"]
    columns = np.arange(HIDDEN, dtype=np.float64)
    by_head = columns.reshape(VALUES, QUERIES // VALUES, HEAD).mean(axis=1).reshape(-1)
    assert np.array_equal(per_channel(weights, columns), by_head)


def outlier_site(rows: int = 64) -> tuple[SiteWeights, np.ndarray]:
    """A norm and two consumers; a few channels are a hundred times as large as the others."""
    x = layers.inputs(256, seed=3)
    x[:, ::50] *= 20
    weights = {name: matrix(rows, 256, seed) for seed, name in enumerate(("q", "k"))}
    return SiteWeights(NORM, np.ones(256, np.float32), weights), x


@pytest.mark.parametrize(
    ("name", "method"),
    [("int4-g128", "rtn"), ("int3-g64-asymmetric", "rtn"), ("q4_k", "rtn"), ("q4_0", "rtn"), ("q4_k", "gptq")],
)
def test_awq_lowers_the_loss_it_reports(name, method):
    weights, x = outlier_site()
    hessian = torch.from_numpy(x.T @ x)
    target, chosen = layers.TARGETS[name](256), Settings(shares=(1.0,))
    quantizer = awq.Quantizer(base.get(method), {"q": target, "k": target}, chosen)
    found = awq.search_scales(weights, np.abs(x).mean(axis=0, dtype=np.float64), hessian, quantizer, in_turn)
    assert found.loss <= found.before
    if method == "rtn":
        assert found.loss < 0.95 * found.before
        assert found.ratio is not None

    def rounded_loss(site: SiteWeights, spread: np.ndarray) -> float:
        scaled = hessian / torch.from_numpy(spread[:, None] * spread)
        importance = scaled.diagonal().numpy()
        total = 0.0
        for consumer, weight in site.consumers.items():
            result = base.get(method).quantize(Layer(consumer, weight, scaled, importance), target, chosen, in_turn)
            error = (result.values() - weight) / spread
            total += layers.loss(error, np.zeros_like(error), hessian).sum()
        return total

    # What was searched is what folding gives; 1 %, because a division rounds otherwise than a multiplication by 1 / s
    # and may turn a code.
    folded = fold(weights, found.scale)
    assert rounded_loss(folded, found.scale) == pytest.approx(found.loss, rel=1e-2)
    assert rounded_loss(weights, np.ones(256, np.float32)) == pytest.approx(found.before, rel=1e-2)


def test_awq_scales_nothing_where_nothing_helps():
    weights, _ = outlier_site()
    target = layers.TARGETS["llm-int8"](256)
    constant = {name: np.full_like(weight, 0.5) for name, weight in weights.consumers.items()}
    quantizer = awq.Quantizer(base.get("rtn"), {"q": target})
    x = np.linspace(1, 2, 256)
    found = awq.search_scales(replace(weights, consumers=constant), x, torch.eye(256), quantizer, in_turn)
    assert found.ratio is None
    assert (found.scale == 1).all()


@pytest.mark.parametrize("name", ["int3-g64-asymmetric", "q4_0", "int4-g128"])
def test_clipping_lowers_the_loss(name):
    weights, x = outlier_site()
    hessian, target = torch.from_numpy(x.T @ x), layers.TARGETS[name](256)
    blocks = torch.block_diag(*[hessian[s : s + target.span, s : s + target.span] for s in range(0, 256, target.span)])
    weight = weights.consumers["q"]
    clipped = awq.clip_weights(weight, hessian, target, in_turn)
    before, after = (
        layers.loss(weight, base.get("rtn").quantize(Layer("q", w), target, Settings(), in_turn).values(), blocks)
        for w in (weight, clipped)
    )
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < before.sum()
    assert (np.abs(clipped) <= np.abs(weight)).all()


def test_targets_that_span_the_matrix_are_not_clipped():
    weight = matrix(64, 256, 0)
    assert np.array_equal(awq.clip_weights(weight, torch.eye(256), layers.TARGETS["fp8-tensor"](256), in_turn), weight)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_smoothing_balances_activations_and_weights(alpha):
    weights, x = outlier_site()
    peaks = np.abs(x).max(axis=0)
    scale = smoothing_scales(weights, peaks, alpha)
    folded = fold(weights, scale)
    x_peaks = peaks / scale
    w_peaks = np.max([np.abs(w).max(axis=0) for w in folded.consumers.values()], axis=0)
    # both are products of x_peak and w_peak, raised to 1 - alpha and alpha
    product = peaks * np.max([np.abs(w).max(axis=0) for w in weights.consumers.values()], axis=0)
    assert np.allclose(x_peaks, product ** (1 - alpha), rtol=1e-4)
    assert np.allclose(w_peaks, product**alpha, rtol=1e-4)


def test_channels_that_are_always_zero_are_smoothed_by_the_floor():
    weights, _ = outlier_site()
    scale = smoothing_scales(weights, np.zeros(256, np.float32))
    assert (scale > 0).all()
    assert np.isfinite(scale).all()
    fold(weights, scale)


WITHOUT = {  # fused matrices without a gate behind norms with biases; blocks whose places nobody has listed yet
    "gpt_neox", "bloom", "falcon", "gpt_bigcode", "mpt", "bamba", "mamba", "mamba2", "granite_swa", "granite_moe_swa",
    "deepseek4",
}  # fmt: skip


def test_every_family_has_sites_of_tensors_it_knows():
    for family in known_families():
        if family.unserved or family.unwalked:  # no norms of its checkpoints could take scales
            continue
        rows = (tensor for stack in family.all_stacks() for tensor in stack.rows)
        known = {f"model.layers.0.{tensor.source.format(0)}": tensor for tensor in rows}
        held = Held(known, family.published)
        assert family.folds or family.name in WITHOUT
        for site in family.folds:
            for name in (site.producer, *site.consumers):
                assert named(f"model.layers.0.{name.format(0)}.weight", held), (family.name, name)


def test_an_expert_gets_its_number():
    site = next(site for site in folds_of("qwen3_moe", {}) if site.expert)
    assert site.of_expert(7).producer == "mlp.experts.7.up_proj"
    assert site.of_expert(7).consumers == ("mlp.experts.7.down_proj",)


@pytest.mark.parametrize("family", ["olmo", "olmoe"])
def test_values_that_are_clipped_take_no_scales(family):
    for clip, moved in ((None, True), (8.0, False)):
        config = {"model_type": family, "clip_qkv": clip}
        assert any(fold.producer == "self_attn.v_proj" for fold in folds_of(family, config)) is moved


def test_unknown_families_are_refused():
    with pytest.raises(UnsupportedError, match='did you mean "llama"'):
        folds_of("lama", {})


def test_probes_are_the_same_in_every_run():
    assert folding.PROBES > 1
    weights = SITE_WEIGHTS["up"]
    assert np.array_equal(fold(weights, scales(weights)).producer, fold(weights, scales(weights)).producer)
