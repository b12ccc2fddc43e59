"""GPTQ on every target: against rounding, against the published algorithm, against itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import gguf
import layers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import InputError, NonFiniteError, NumericError, UnsupportedError
from quantkit.methods import base, method_names
from quantkit.methods.base import Layer
from quantkit.methods.settings import DEFAULTS, Order, Settings, in_turn
from quantkit.qtypes import base as qtypes
from quantkit.qtypes.schemes.base import nearest
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.target import type_target

GPTQ, RTN = base.get("gptq"), base.get("rtn")
LAYER = layers.layer()

each_target = pytest.mark.parametrize("name", layers.TARGETS)
each_order = pytest.mark.parametrize("order", Order)


def target(name: str, cols: int = 512) -> base.Target:
    return layers.TARGETS[name](cols)


def nearest_on(weight: np.ndarray, found: base.Rounded) -> np.ndarray:
    """Nearest codes on the grid of a result, in the layout of the result, by the ground floor's own rounding."""
    weight = weight if found.order is None else weight[:, found.order]
    return nearest(weight.reshape(len(found.grid.scale), -1), found.grid).reshape(weight.shape)


def reference(target: base.Target, layout: np.ndarray, found: base.Rounded) -> base.Rounded:
    """What feedback has to beat: the type's own encoder given the mean squares of the inputs, or the nearest codes."""
    if target.encode is not None:
        squares = LAYER.hessian.diagonal().numpy()
        codes, grid = target.encode(layout, squares if found.order is None else squares[found.order])
        return base.Rounded(codes, grid, found.order)
    plain = base.Rounded(np.empty(0), target.fit(layout, None), found.order)
    return replace(plain, codes=nearest_on(LAYER.weight, plain))


def published(
    weight: np.ndarray, hessian: torch.Tensor, scheme: Integers, damping: float = DEFAULTS.damping
) -> np.ndarray:
    """The loop of arXiv 2210.17323, algorithm 1, one column at a time and with the inverse; scales at every group."""
    w, h = torch.from_numpy(weight).double(), hessian.double().clone()
    h += damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    codes = np.empty(weight.shape, np.int16)
    for k in range(w.shape[1]):
        if k % scheme.group == 0:
            grid = scheme.fit(w[:, k : k + scheme.group].float().numpy())
        codes[:, k] = nearest(w[:, k : k + 1].float().numpy(), grid)[:, 0]
        value = torch.from_numpy(grid.values(codes[:, k : k + 1])).double()[:, 0]
        w[:, k:] -= ((w[:, k] - value) / u[k, k])[:, None] * u[k, k:]
    return codes


def test_methods_are_found_by_file_name():
    assert {"gptq", "rtn"} <= set(method_names())
    with pytest.raises(UnsupportedError, match='did you mean "gptq"'):
        base.get("gptqq")


@pytest.mark.parametrize("name", [name for name, made in layers.TARGETS.items() if made(512).columnwise])
@each_order
def test_without_correlations_it_is_rounding_to_nearest(name, order):
    hessian = torch.eye(512) * 7
    found = GPTQ.quantize(replace(LAYER, hessian=hessian), target(name), Settings(order=order), in_turn)
    assert np.array_equal(found.codes, nearest_on(LAYER.weight, found))


@each_target
def test_rounding_takes_the_nearest_code(name):
    importance = LAYER.hessian.diagonal().numpy()
    found = RTN.quantize(replace(LAYER, importance=importance), target(name), Settings(), in_turn)
    assert np.array_equal(found.codes, nearest_on(LAYER.weight, found))


@each_target
@each_order
def test_no_row_is_worse_than_rounded(name, order):
    found = GPTQ.quantize(LAYER, target(name), Settings(order=order), in_turn)
    layout = LAYER.weight if found.order is None else np.ascontiguousarray(LAYER.weight[:, found.order])
    plain = reference(target(name), layout, found)
    ours, theirs = (layers.loss(LAYER.weight, r.values(), LAYER.hessian, DEFAULTS.damping) for r in (found, plain))
    assert (ours <= theirs * (1 + 1e-5)).all()  # sums in float32
    assert ours.sum() < 0.7 * theirs.sum()
    assert found.report.loss == pytest.approx(ours.sum(), rel=1e-4)
    assert found.report.rounding_loss == pytest.approx(theirs.sum(), rel=1e-4)


@pytest.mark.parametrize("scheme", [Integers(4, 128), Integers(4, 32, "full-range"), Integers(3, 256, "asymmetric")])
def test_it_is_the_published_algorithm(scheme):
    plain = Settings(order=Order.STORAGE, shares=(1.0,), passes=0)
    found = GPTQ.quantize(LAYER, scheme.target(512), plain, in_turn)
    # float32 here, float64 there: a weight half-way between two codes may fall on either side, and its row with it
    same = (found.codes == published(LAYER.weight, LAYER.hessian, scheme)).all(axis=1)
    assert same.mean() > 0.9


def test_the_permuted_order_is_the_published_algorithm_on_permuted_columns():
    scheme = Integers(4, 128)
    settings_ = Settings(order=Order.PERMUTED, shares=(1.0,), passes=0)
    found = GPTQ.quantize(LAYER, scheme.target(512), settings_, in_turn)
    assert np.array_equal(found.order, np.argsort(-LAYER.hessian.diagonal().numpy(), kind="stable"))
    order = torch.from_numpy(found.order.astype(np.int64))
    expected = published(LAYER.weight[:, found.order], LAYER.hessian[order][:, order], scheme)
    assert (found.codes == expected).all(axis=1).mean() > 0.9
    assert np.abs(found.values() - LAYER.weight).max() < np.abs(LAYER.weight).max()


@each_target
@each_order
def test_a_factor_on_the_hessian_changes_nothing(name, order):
    one = GPTQ.quantize(LAYER, target(name), Settings(order=order, passes=1), in_turn)
    scaled = replace(LAYER, hessian=LAYER.hessian * 2.0**-20)  # a power of two: exact
    other = GPTQ.quantize(scaled, target(name), Settings(order=order, passes=1), in_turn)
    assert np.array_equal(one.codes, other.codes)
    assert other.report.loss == pytest.approx(one.report.loss * 2.0**-20)


@pytest.mark.parametrize("name", ["q4_k", "int4-g128", "fp8-tile"])
def test_codes_do_not_depend_on_threads(name):
    layer = layers.layer(rows=600, cols=768)
    before = torch.get_num_threads()
    results = []

    def quantize(run: base.Run) -> None:
        results.append(GPTQ.quantize(layer, target(name, 768), Settings(passes=1), run))

    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            quantize(in_turn)
            with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                quantize(lambda function, items, pool=pool: list(pool.map(function, items)))
    finally:
        torch.set_num_threads(before)
    assert len({(r.codes.tobytes(), r.grid.scale.tobytes(), r.report) for r in results}) == 1


@each_target
@settings(derandomize=True, max_examples=4, deadline=None)
@given(rows=st.integers(1, 70), seed=st.integers(0, 99), order=st.sampled_from(Order), passes=st.integers(0, 1))
def test_rows_are_rounded_independently(name, rows, seed, order, passes):
    layer = layers.layer(rows=rows, cols=256, seed=seed)
    chosen = Settings(order=order, passes=passes)
    whole = GPTQ.quantize(layer, target(name, 256), chosen, in_turn)
    if target(name, 256).span == 0 and name != "fp8-channel" and name != "llm-int8":
        return  # scales are shared by rows
    last = GPTQ.quantize(replace(layer, weight=layer.weight[-1:]), target(name, 256), chosen, in_turn)
    # a product of one row may be summed in another order than the same row among others
    assert (whole.codes[-1] == last.codes[0]).mean() > 0.8
    assert last.report.loss <= last.report.rounding_loss


@pytest.mark.parametrize("name", layers.TYPES)
def test_results_can_be_packed(name):
    qtype = qtypes.get(name)
    found = GPTQ.quantize(LAYER, type_target(qtype), Settings(), in_turn)
    raw = qtype.pack(found.codes.reshape(-1, qtype.block), found.grid)
    assert np.array_equal(qtype.decode(raw, 512), found.values())
    try:
        decoded = gguf.dequantize(raw.reshape(len(LAYER.weight), -1), gguf.GGMLQuantizationType(qtype.gguf))
    except (NotImplementedError, ValueError):
        pytest.skip(f"the gguf package does not decode {name}")
    assert np.array_equal(decoded.view(np.uint32), found.values().view(np.uint32)), "the last bit, and signs of zero"


@each_target
def test_coordinate_descent_only_improves(name):
    before, after = (GPTQ.quantize(LAYER, target(name), Settings(passes=passes), in_turn) for passes in (0, 2))
    losses = [layers.loss(LAYER.weight, r.values(), LAYER.hessian, DEFAULTS.damping) for r in (before, after)]
    assert (losses[1] <= losses[0] * (1 + 1e-5)).all()
    assert after.report.flips == np.count_nonzero(before.codes != after.codes)
    assert after.report.loss == pytest.approx(losses[1].sum(), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in layers.TYPES if qtypes.get(name).units is not None])
def test_scales_inside_a_block_are_refitted(name):
    whole = target(name)
    held, moved = (
        GPTQ.quantize(LAYER, one, Settings(rounds=0, order=Order.WITHIN), in_turn).report.loss
        for one in (replace(whole, units=None), whole)
    )
    assert moved < 0.998 * held
    assert GPTQ.quantize(LAYER, whole, Settings(rounds=1), in_turn).report.loss < moved


def test_inputs_stay_as_they_were():
    layer = layers.layer(rows=8)
    weight, hessian = layer.weight.copy(), layer.hessian.clone()
    for order in Order:
        GPTQ.quantize(layer, target("q4_k"), Settings(order=order, passes=1), in_turn)
    assert np.array_equal(layer.weight, weight)
    assert torch.equal(layer.hessian, hessian)


def test_columns_without_input_are_rounded_to_nearest():
    dead = [3, 100, 101, 500]
    hessian = LAYER.hessian.clone()
    hessian[dead] = 0
    hessian[:, dead] = 0
    found = GPTQ.quantize(replace(LAYER, hessian=hessian), target("q8_0"), Settings(order=Order.STORAGE), in_turn)
    assert found.report.dead == 4
    assert np.array_equal(found.codes[:, dead], nearest_on(LAYER.weight, found)[:, dead])


def with_eigenvalue(value: float) -> torch.Tensor:
    """The layer's Hessian divided by its mean diagonal, with one eigenvalue replaced."""
    values, vectors = torch.linalg.eigh(LAYER.hessian.double())
    values = values / values.mean()
    values[0] = value
    return ((vectors * values) @ vectors.T).float()


def test_damping_grows_until_the_hessian_is_definite():
    found = GPTQ.quantize(
        replace(LAYER, hessian=with_eigenvalue(-0.05)), target("q8_0"), Settings(damping=0.01), in_turn
    )
    assert found.report.damping == pytest.approx(0.1)
    assert found.report.tried == (0.01,)


@pytest.mark.parametrize(
    ("hessian", "error", "message"),
    [
        (with_eigenvalue(-5.0), NumericError, "stays indefinite with a damping of 0.03, 0.3, 1 "),
        (torch.zeros(512, 512), NumericError, "is zero"),
        (torch.full((512, 512), torch.nan), NonFiniteError, "not finite"),
        (torch.eye(512) * torch.inf, NonFiniteError, "not finite"),
        (torch.eye(256), InputError, r"is \[256, 256\], its weight has 512 columns"),
        (None, InputError, "needs the Hessian"),
    ],
)
def test_statistics_it_cannot_use_are_refused(hessian, error, message):
    with pytest.raises(error, match=message) as caught:
        GPTQ.quantize(replace(LAYER, hessian=hessian), target("q4_k"), Settings(), in_turn)
    assert caught.value.tensor == LAYER.name
    assert LAYER.name in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("method", [GPTQ, RTN], ids=lambda method: method.name)
def test_weights_it_cannot_use_are_refused(method):
    broken = LAYER.weight.copy()
    broken[3, 7] = np.inf
    with pytest.raises(NonFiniteError, match=r"block.proj.weight: weight inf at index 1543") as caught:
        method.quantize(replace(LAYER, weight=broken), target("q4_k"), Settings(), in_turn)
    assert (caught.value.tensor, caught.value.index) == (LAYER.name, 3 * 512 + 7)
    with pytest.raises(NonFiniteError, match=r"block.proj.weight: .*float16"):
        method.quantize(replace(LAYER, weight=LAYER.weight * 1e9), target("q8_0"), Settings(), in_turn)
    odd = Layer("odd.weight", LAYER.weight[:, :384], LAYER.hessian[:384, :384])
    with pytest.raises(InputError, match=r"odd.weight: rows of 384 weights do not divide into 256"):
        method.quantize(odd, target("q4_k"), Settings(), in_turn)


def test_types_whose_encoder_alone_can_choose_are_refused():
    vectors = replace(target("q4_k"), columnwise=False)
    with pytest.raises(UnsupportedError, match="only its type's own encoder"):
        GPTQ.quantize(LAYER, vectors, Settings(), in_turn)
