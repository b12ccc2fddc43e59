"""Sampled rows are compared together; the figures are those of comparing each on its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import llama_folder
import numpy as np
import pytest

import quantkit
from quantkit.plan.describe import describe_source
from quantkit.quality.against import of_gguf
from quantkit.quality.checks import numbers
from quantkit.quality.checks.base import VerifyOptions
from quantkit.quality.made_gguf import GGUFMade, open_gguf
from quantkit.quality.reference import Reference
from quantkit.quality.tensor_errors import compare
from quantkit.source import open_source

ROWS = 24  # of the largest: more than one unit of the row order of a query


@pytest.fixture(scope="module", params=["q8_0", "bf16"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = llama_folder.write(tmp_path_factory.mktemp("sampled") / "model")
    [artifact] = quantkit.convert(
        quantkit.Request(folder, (request.param,)), quantkit.Output(folder.parent / "made.gguf")
    )
    return folder, artifact.path


def figures(source: Path, path: Path) -> dict[str, object]:
    with closing(open_source(str(source))) as checkpoint, open_gguf([path]) as artifact:
        against = of_gguf(Reference(checkpoint, describe_source(checkpoint)))
        check = numbers.check_numbers(artifact, against, VerifyOptions(sample_rows=ROWS, threads=1))
        return {"ok": check.ok, "detail": check.detail, **check.data}


def test_rows_together_give_the_figures_of_single_ones(made, monkeypatch):
    together = figures(*made)
    assert together["ok"] is True
    assert together["sampled"] is True
    for weights in (1, 100):  # one row at a time, a few at once
        monkeypatch.setattr(numbers, "SLAB_WEIGHTS", weights)
        assert figures(*made) == together


def test_a_swap_of_two_sampled_rows_is_seen(made, monkeypatch):
    rows = GGUFMade.picked

    def swapped(self, name, spans):
        found = rows(self, name, spans)
        return found if len(found) < 3 else np.concatenate([found[1:2], found[:1], found[2:]])

    monkeypatch.setattr(GGUFMade, "picked", swapped)
    assert figures(*made)["ok"] is False


def test_an_error_is_the_sum_over_its_parts():
    rng = np.random.default_rng(0)
    source, decoded = rng.standard_normal((2, 300, 64), np.float32)
    whole = compare("w", "q4_0", source, decoded)
    parts = compare("w", "q4_0", source[:7], decoded[:7]) + compare("w", "q4_0", source[7:], decoded[7:])
    assert (parts.weights, parts.largest) == (whole.weights, whole.largest)
    assert (parts.signal, parts.noise) == pytest.approx((whole.signal, whole.noise), rel=1e-12)
    exact = (source.astype(np.float64) - decoded) ** 2
    assert whole.noise == pytest.approx(exact.sum(), rel=1e-12)
    assert whole.largest == pytest.approx(np.sqrt(exact.max()), rel=1e-12)
    assert compare("w", "f32", source, source).snr_db == np.inf
    for bad in (np.nan, np.inf):
        decoded[3, 3] = bad
        assert compare("w", "f32", source, decoded).snr_db == -np.inf
