"""What a benchmark says: figures of runs with known times, and reasons that follow from them and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quantkit.pipeline import bench_figures
from quantkit.pipeline.bench import Benchmark, BenchRequest
from quantkit.pipeline.bench_figures import Batch, Model, Run, judged
from quantkit.pipeline.bench_words import bench_lines

MB = 10**6


def model(role: str, nbytes: int, steps: dict[int, float], types: str = "q4_k", spread: float = 0.0) -> Model:
    """A model whose steps take so many seconds by batch; runs differ by `spread`, up and down."""
    batches = tuple(
        Batch(b, 100, tuple(Run(0.5, (1.0,) * b, (s * f,) * 20, 3 * nbytes) for f in (1 - spread, 1.0, 1 + spread)))
        for b, s in steps.items()
    )
    return Model(role, f"{role}-Q4_K_M.gguf", f"{role}.gguf", nbytes, nbytes, {types: nbytes}, batches)


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_figures, "cache_bytes", lambda: 32 * MB)


ORIGINAL = model("original", 400 * MB, {1: 0.04, 8: 0.05}, "bf16")


def test_figures_are_those_of_the_runs() -> None:
    steps = [0.01 * n for n in range(1, 101)]
    batch = Batch(4, 100, (Run(0.1, (1.0, 3.0), tuple(steps), 7), Run(0.3, (2.0, 2.0), tuple(steps), 9)))
    assert batch.prompt_per_s == pytest.approx(50)
    assert batch.first_token == pytest.approx(2)
    assert batch.per_s == pytest.approx(4 / 0.505)
    assert batch.latency(0.5) == pytest.approx(0.50)
    assert batch.latency(0.95) == pytest.approx(0.95)
    assert batch.peak_bytes == 9
    assert ORIGINAL.bytes_per_token(ORIGINAL.batches[1]) == 50 * MB


def test_a_faster_file_needs_no_reason() -> None:
    one, eight = judged(model("artifact", 120 * MB, {1: 0.015, 8: 0.03}), ORIGINAL)
    assert one.faster
    assert one.ratio == pytest.approx(0.04 / 0.015)
    assert one.why == eight.why == ()


def why(artifact: Model, original: Model = ORIGINAL, at: int = 0) -> str:
    found = judged(artifact, original)[at]
    assert not found.faster
    return "; ".join(found.why)


def test_a_type_without_a_fast_kernel_is_told_by_its_rate() -> None:
    said = why(model("artifact", 120 * MB, {1: 0.06}, "iq2_xxs"), replace(ORIGINAL, batches=ORIGINAL.batches[:1]))
    assert said == (
        "unpacking iq2_xxs costs more than its bytes save: 2.00 GB/s of weights are read here, 10.00 GB/s of bf16"
    )


def test_arithmetic_is_told_by_how_time_grows_with_the_batch() -> None:
    artifact, original = (
        model("artifact", 120 * MB, {1: 0.01, 8: 0.07}),
        model("original", 400 * MB, {1: 0.03, 8: 0.07}),
    )
    said = why(artifact, original, 1)
    assert said == "arithmetic decides: a step of 8 sequences takes 7.0 times one of 1, so that bytes of weights do not"


def test_a_model_that_fits_into_the_cache_does_not_wait_for_memory() -> None:
    artifact = model("artifact", 4 * MB, {1: 0.001})
    said = why(artifact, model("original", 12 * MB, {1: 0.001}, "bf16"))
    assert "too small to wait for memory: the original's 12.00 MB fit into the 32.00 MB of cache" in said
    assert "too small" not in why(model("artifact", 120 * MB, {1: 0.06}))


def test_a_busy_machine_is_told_by_runs_that_do_not_agree() -> None:
    artifact = model("artifact", 120 * MB, {1: 0.04}, spread=0.3)
    assert "the runs do not agree" in why(artifact)
    assert "the runs do not agree" not in why(model("artifact", 120 * MB, {1: 0.06}, spread=0.01))


def test_a_larger_file_is_said_to_be_one() -> None:
    assert why(model("artifact", 500 * MB, {1: 0.05})) == "it is no smaller: 500.00 MB, the original 400.00 MB"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits(width: int) -> None:
    artifact = model("artifact", 120 * MB, {1: 0.06, 8: 0.07})
    named = replace(artifact, name=f"a-model-with-{'a-long-' * 12}name-Q4_K_M.gguf")
    request = BenchRequest(artifact=named.path, against="x")
    found = Benchmark("llama.cpp", "2026.10", 2, request, (named, ORIGINAL), judged(named, ORIGINAL), 3.0)
    lines = bench_lines(found, width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "micro benchmark" in text
    assert "batch 1: A is NOT faster: 0.67x of B's tokens/s" in text
    assert "unpacking q4_k costs more than its bytes save" in text
