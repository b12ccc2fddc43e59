"""Sums: right, in a fixed order, the same for any order of merging, and the same after a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from walks import TINY, model_of, same_bits, statistics_of, windows

from quantkit.calibration.statistics.file import encode_statistics, open_statistics
from quantkit.calibration.statistics.sums import BAND, Accumulator, Linear, Part, Site, Statistics, joined, merge
from quantkit.calibration.text.samples import samples_of
from quantkit.errors import InputError
from quantkit.families.model import Rows

CPU = torch.device("cpu")
SITE, LINEAR = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
RECORDS = {name: samples_of(np.full((1, 3), n, np.int32)).record for n, name in enumerate("ab")}


def sums_of(x: torch.Tensor, *, gram: bool = True):
    accumulator = Accumulator(x.shape[1], gram=gram, device=CPU)
    accumulator.add(x)
    for band in range(-(-x.shape[1] // BAND)) if gram else ():
        accumulator.add_band(band, [x])
    return accumulator.sums


def statistics(parts: list[Part], model: str = "m") -> Statistics:
    linears = {name: Linear(name, Rows(name, 0, 7), 7, parts[0].sums.cols) for name in (SITE, LINEAR)}
    site = Site(SITE, (SITE, LINEAR), parts[0].sums.cols)
    data = {record.digest: record for record in RECORDS.values() if record.digest in {p.plan for p in parts}}
    return Statistics(model, {SITE: site}, linears, {SITE: joined(parts)}, data)


@pytest.mark.parametrize("cols", [1, 5, BAND - 1, BAND, BAND + 1, 2 * BAND + 40])
def test_sums_are_what_they_say(cols: int) -> None:
    x = torch.randn(37, cols, generator=torch.Generator().manual_seed(cols))
    sums = sums_of(x)
    exact = x.double()
    assert sums.tokens == 37
    assert torch.equal(sums.squares, x.square().double().sum(0))
    assert torch.equal(sums.magnitudes, exact.abs().sum(0))
    assert torch.equal(sums.peaks, x.abs().amax(0))
    full = sums.gram.full()
    assert torch.equal(full, full.T)
    assert torch.equal(full.diagonal(), sums.gram.diagonal())
    torch.testing.assert_close(full.double(), exact.T @ exact, rtol=0, atol=37 * 6e-8 * 16)  # 37 rounded products
    torch.testing.assert_close(sums.mean_square() * 37, sums.squares)
    torch.testing.assert_close(sums.mean_magnitude() * 37, sums.magnitudes)


def test_nothing_seen_is_zero_everywhere() -> None:
    sums = sums_of(torch.zeros(0, 9))
    assert sums.tokens == 0
    assert not sums.mean_square().any()
    assert not sums.gram.full().any()


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
    plans=st.lists(st.sampled_from("ab"), min_size=6, max_size=6),
)
def test_merging_in_any_order_and_grouping_gives_the_same_bits(cuts, order, plans) -> None:
    """Random parts of two data sets, merged by a random tree: equal to merging them all at once."""
    random = torch.Generator().manual_seed(sum(cuts))
    position = {"a": 0, "b": 0}
    pieces = []
    for length, plan in zip(cuts, plans, strict=False):
        start = position[plan]
        position[plan] = start + length
        x = torch.randn(length * 3, 6, generator=random) * 10.0 ** float(torch.randint(-6, 7, (1,), generator=random))
        pieces.append(statistics([Part(RECORDS[plan].digest, start, start + length, sums_of(x))]))
    at_once = merge(pieces)
    order.shuffle(pieces)
    while len(pieces) > 1:
        count = order.randint(2, len(pieces))
        pieces = [*pieces[count:], merge(pieces[:count])]
        order.shuffle(pieces)
    assert same_bits(at_once, merge(pieces))
    assert pieces[0].total(SITE).tokens == 3 * sum(cuts[: len(plans)])


def test_other_order_of_addition_would_show() -> None:
    """The property above has teeth: adding these parts in another order gives other bits."""
    parts = [sums_of(torch.randn(5, 6, generator=torch.Generator().manual_seed(n)) * 1.7**n) for n in range(3)]
    forward, backward = parts[0] + parts[1] + parts[2], parts[2] + parts[1] + parts[0]
    assert not torch.equal(forward.gram.full(), backward.gram.full())


def test_a_sample_counts_once() -> None:
    one = statistics([Part(RECORDS["a"].digest, 0, 4, sums_of(torch.ones(4, 6)))])
    other = statistics([Part(RECORDS["a"].digest, 3, 5, sums_of(torch.ones(2, 6)))])
    with pytest.raises(InputError, match="samples 3 to 3 of the same data are counted twice"):
        merge([one, other])


def test_statistics_of_different_models_do_not_merge() -> None:
    one = statistics([Part(RECORDS["a"].digest, 0, 4, sums_of(torch.ones(4, 6)))])
    with pytest.raises(InputError, match="different models"):
        merge([one, replace(one, model="other")])


def test_an_unknown_linear_is_an_error_with_the_nearest() -> None:
    one = statistics([Part(RECORDS["a"].digest, 0, 4, sums_of(torch.ones(4, 6)))])
    with pytest.raises(InputError, match=r'did you mean "model\.layers\.0\.mlp\.up_proj\.weight"'):
        one.total("model.layers.0.mlp.up_proj")


def test_a_gram_is_added_only_where_all_parts_have_one() -> None:
    parts = [Part(RECORDS["a"].digest, n, n + 1, sums_of(torch.ones(4, 6), gram=n != 1)) for n in range(3)]
    assert merge([statistics([part]) for part in parts]).total(SITE).gram is None


# Files


def saved(statistics: Statistics, path: Path) -> Path:
    encoded = encode_statistics(statistics)
    path.write_bytes(b"".join(encoded.pieces))
    assert path.stat().st_size == encoded.nbytes
    return path


@pytest.fixture(scope="module")
def measured() -> Statistics:
    return statistics_of(model_of(TINY), windows(2048, count=70, seqlen=6))


def test_a_file_gives_back_every_bit(measured: Statistics, tmp_path: Path) -> None:
    file = open_statistics(saved(measured, tmp_path / "s.qkc"))
    read = file.read()
    assert same_bits(measured, read)
    assert read.data == measured.data
    assert read.model == measured.model
    one = file.read(["model.layers.2.mlp.down_proj.weight"])
    assert list(one.sites) == list(one.linears) == ["model.layers.2.mlp.down_proj.weight"]
    file.close()
    assert b"".join(encode_statistics(read).pieces) == (tmp_path / "s.qkc").read_bytes()


@pytest.mark.parametrize("step", [1, 2])
def test_a_file_keeps_which_columns_of_the_source_a_linear_is(step: int, measured: Statistics, tmp_path: Path) -> None:
    """An expert of a stack that lies as (experts, in, out): its rows are columns there, or every second one."""
    name, linear = next(iter(measured.linears.items()))
    turned = replace(linear, source=Rows("stack", 8, 8 + linear.cols, range(3, 3 + step * linear.rows, step)))
    file = open_statistics(saved(replace(measured, linears={**measured.linears, name: turned}), tmp_path / "s.qkc"))
    assert file.read().linears == {**measured.linears, name: turned}
    file.close()


def test_the_safetensors_package_reads_it(measured: Statistics, tmp_path: Path) -> None:
    path = saved(measured, tmp_path / "s.qkc")
    with safe_open(path, "pt") as file:
        name = "model.layers.0.self_attn.q_proj.weight"
        assert torch.equal(file.get_tensor(f"{name}/0/squares"), measured.total(name).squares)
        assert file.metadata()["format"] == "quantkit-statistics 2"


def test_a_file_holds_no_text(measured: Statistics, tmp_path: Path) -> None:
    with safe_open(saved(measured, tmp_path / "s.qkc"), "pt") as file:
        facts = json.loads(file.metadata()["statistics"])
    [record] = facts["data"].values()
    assert set(record) == {
        "name", "sha256", "seed", "seqlen", "windows", "documents", "repeated_documents", "median_tokens", "tokens",
        "token_sha256", "repeated", "bos", "chat", "rendered", "ids", "parts", "seen",
    }  # fmt: skip


def rewritten(path: Path, change) -> Path:
    """The file with its facts changed."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    text = header["__metadata__"]["statistics"]
    facts = json.loads(text)
    change(header, facts)
    if header["__metadata__"]["statistics"] == text:
        header["__metadata__"]["statistics"] = json.dumps(facts)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + length :])
    return path


def of(facts: Any, site: int) -> Any:
    """The linear that gives a site its name."""
    return next(linear for linear in facts["linears"] if linear["name"] == facts["sites"][site]["name"])


INFINITE, HUGE = float("inf"), 10**400
NO_FACTS = [
    *(lambda h, f, v=v: f["sites"][0].update(cols=v) for v in (INFINITE, HUGE, -1, 0, 2.5, True, None, "16")),
    *(lambda h, f, v=v: f["sites"][0]["parts"][0].update(tokens=v) for v in (INFINITE, HUGE, -1, "abc", True, 0.5)),
    *(lambda h, f, v=v: f["sites"][0]["parts"][0].update(start=v) for v in (-5, INFINITE, "0", 99)),
    *(lambda h, f, v=v: f["sites"][0]["parts"][0].update(stop=v) for v in (-9, 0, 10**6, None)),
    *(lambda h, f, v=v: f["sites"][0]["parts"][0].update(gram=v) for v in (1, "yes", None)),
    *(lambda h, f, v=v: f["sites"][0].update(name=v) for v in (5, "\ud800", "\x1b[31m", ["a"])),
    *(lambda h, f, v=v: f["linears"][0].update(rows=v) for v in (10**18, 1, INFINITE, "8")),
    *(lambda h, f, v=v: f["linears"][0].update(name=v) for v in (5, None, [])),
    *(lambda h, f, v=v: f["linears"][0]["source"].update(tensor=v) for v in (5, None, {})),
    *(lambda h, f, v=v: f["linears"][0]["source"].update(more=v) for v in (5,)),
    *(
        lambda h, f, k=k: next(iter(f["data"].values())).update({k: "abc"})
        for k in ("tokens", "windows", "seed", "ids")
    ),
    *(lambda h, f, k=k: next(iter(f["data"].values())).update({k: 5}) for k in ("name", "sha256", "chat", "rendered")),
    *(lambda h, f, v=v: next(iter(f["data"].values())).update(ids=v) for v in ([INFINITE], [-1], ["1"], 7, None)),
    *(lambda h, f, k=k: f.update({k: 5}) for k in ("model", "data", "sites", "linears")),
    *(lambda h, f, k=k: f.update({k: [5]}) for k in ("sites", "linears")),
    *(lambda h, f, k=k: f.pop(k) for k in ("data", "sites", "linears")),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, f: h["__metadata__"].update(format="other"), "not a file of statistics"),
        (lambda h, f: f.pop("model"), "facts are damaged"),
        (lambda h, f: f["sites"][0].update(cols="many"), "facts are damaged"),
        (lambda h, f: f["sites"][0].update(cols=17), "do not belong together"),
        (lambda h, f: f["sites"][0].update(linears=["unknown"]), "do not belong together"),
        (lambda h, f: f["data"].update(x=next(iter(f["data"].values()))), "do not belong together"),
        (lambda h, f: f["sites"][0]["parts"][0].update(plan="x"), "facts are damaged"),
        (lambda h, f: next(iter(f["data"].values())).update(text="secret"), "facts are damaged"),
        (lambda h, f: h["__metadata__"].update(statistics="\ud800"), "lone surrogate"),
        *((each, "facts are damaged") for each in NO_FACTS),
        (lambda h, f: f["sites"][0].update(parts=[]), "do not belong together"),
        (lambda h, f: f["linears"].append(f["linears"][0]), "have one name"),
        (lambda h, f: f["sites"].append(f["sites"][0]), "have one name"),
        (lambda h, f: [f["sites"][0].update(cols=1 << 40), of(f, 0).update(cols=1 << 40)], "holds no sums of 1,099,5"),
        (lambda h, f: h.update({"x": h.pop(f"{f['sites'][0]['name']}/0/peaks")}), "expected F32"),
    ],
)
def test_a_damaged_file_is_refused(change, message: str, measured: Statistics, tmp_path: Path) -> None:
    path = rewritten(saved(measured, tmp_path / "s.qkc"), change)
    with pytest.raises(InputError, match=message) as caught:
        open_statistics(path).read()
    assert caught.value.path == str(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_sums_that_cannot_be_are_refused(value: float, measured: Statistics, tmp_path: Path) -> None:
    path = saved(measured, tmp_path / "s.qkc")
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    raw[start : start + 8] = np.float64(value).tobytes()
    path.write_bytes(raw)
    with pytest.raises(InputError, match="not finite or negative"):
        open_statistics(path).read()


def test_a_cut_file_is_refused(measured: Statistics, tmp_path: Path) -> None:
    path = saved(measured, tmp_path / "s.qkc")
    raw = path.read_bytes()
    for stop in (0, 5, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:stop])
        with pytest.raises(InputError):
            open_statistics(path)
