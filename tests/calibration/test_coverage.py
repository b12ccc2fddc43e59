"""Warnings say what is missing, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build
from walks import TINY, model_of, statistics_of, windows

from quantkit.calibration import coverage
from quantkit.calibration.coverage import check_coverage
from quantkit.calibration.statistics.sums import Accumulator, Linear, Part, Site, Statistics
from quantkit.calibration.text import warnings
from quantkit.calibration.text.samples import DataRecord, samples_of
from quantkit.families.model import Rows

GOOD = DataRecord(
    name="good.jsonl", sha256="0" * 64, seed=0, seqlen=512, windows=500, documents=100, repeated_documents=0,
    median_tokens=400, tokens=512 * 128, token_sha256="1" * 64, repeated=0, bos=1, chat=True, rendered=True,
    ids=tuple(range(128)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({"chat": False, "rendered": False}, None),
        ({"tokens": 32_000}, warnings.FEW_TOKENS),
        ({"repeated": 7}, warnings.REPEATED),
        ({"repeated": 6}, None),
        ({"repeated_documents": 6}, warnings.REPEATED),
        ({"rendered": False}, warnings.RAW_CHAT),
        ({"seqlen": 2049}, warnings.LENGTHS),
        ({"median_tokens": 63}, warnings.LENGTHS),
        ({"median_tokens": 10, "seqlen": 64}, None),
    ],
)
def test_data_warnings(change: dict[str, object], code: str | None) -> None:
    found = [warning[0] for warning in warnings.data_warnings(replace(GOOD, **change), context=2048)]
    assert found == ([code] if code else [])


def experts(tokens: list[int], cols: int = 4) -> Statistics:
    """One block of experts of which each saw so many tokens."""
    sites, parts, linears = {}, {}, {}
    for number, count in enumerate(tokens):
        for matrices in (("gate_proj", "up_proj"), ("down_proj",)):
            names = tuple(f"model.layers.0.mlp.experts.{number}.{m}.weight" for m in matrices)
            sums = Accumulator(cols, gram=True, device=torch.device("cpu"))
            sums.add(torch.ones(count, cols))
            sites[names[0]] = Site(names[0], names, cols)
            parts[names[0]] = (Part(GOOD.digest, 0, 128, sums.sums),)
            linears |= {name: Linear(name, Rows(name, 0, 3), 3, cols) for name in names}
    return Statistics("m", sites, linears, parts, {GOOD.digest: GOOD})


def test_experts_without_and_with_few_tokens_are_named() -> None:
    found = check_coverage(experts([900, 0, 30, 1000, 0]))
    assert found.experts == {"model.layers.0.mlp.experts": (900, 0, 30, 1000, 0)}
    messages = dict(found.warnings)
    assert messages.keys() == {coverage.UNSEEN_EXPERTS, coverage.RARE_EXPERTS}
    assert messages[coverage.UNSEEN_EXPERTS].startswith("2 experts saw no token: model.layers.0.mlp.experts.1, ")
    assert "experts.2" in messages[coverage.RARE_EXPERTS]


def test_fewer_tokens_than_columns_make_a_hessian_singular() -> None:
    found = check_coverage(experts([9, 10, 11], cols=10))
    assert dict(found.warnings)[coverage.RANK].startswith("2 Hessians have fewer tokens than columns")
    assert found.shortest == 0.9
    assert not check_coverage(experts([10, 11], cols=10)).warnings


def test_columns_that_are_always_zero_are_counted() -> None:
    statistics = experts([50])
    name = "model.layers.0.mlp.experts.0.down_proj.weight"
    sums = statistics.parts[name][0].sums
    squares = sums.squares.clone()
    squares[:3] = 0
    parts = {**statistics.parts, name: (Part(GOOD.digest, 0, 128, replace(sums, squares=squares)),)}
    message = dict(check_coverage(replace(statistics, parts=parts)).warnings)[coverage.DEAD_COLUMNS]
    assert message == f"3 columns in 1 sites are zero for every token: 3 of {name}"


def test_a_real_run_is_summed_up(tmp_path: Path) -> None:
    samples = samples_of(np.repeat(windows(2048, count=1, seqlen=20).tokens, 3, axis=0))
    found = check_coverage(statistics_of(model_of(TINY), samples), context=1024)
    assert (found.samples, found.tokens, found.repeated, dict(found.experts)) == (3, 60, 2, {})
    assert [code for code, _ in found.warnings] == [warnings.FEW_TOKENS, warnings.REPEATED, coverage.RANK]
    mixture = check_coverage(statistics_of(model_of(build("qwen3-moe", tmp_path)), windows(400, count=2, seqlen=30)))
    assert {len(tokens) for tokens in mixture.experts.values()} == {12}
    assert {sum(tokens) for tokens in mixture.experts.values()} == {60 * 3}
