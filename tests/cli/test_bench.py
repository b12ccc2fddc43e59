"""The bench command, in real llama.cpp: on small files of one model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import TINY, quantkit

pytest.importorskip("xllamacpp")
HELD_OUT = TINY.parent / "held-out.jsonl"
SHORT = ("--prompt", 8, "--steps", 3, "--runs", 2, "--threads", 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "m.gguf"
    assert quantkit("convert", TINY, "--to", "q4_k_m", "-o", out, "--no-verify", "-q").status == 0
    return out


def test_a_file_beside_its_source(file: Path) -> None:
    """The source is converted for the time being: nothing of it is left."""
    before = sorted(file.parent.iterdir())
    ran = quantkit("bench", file, "--against", TINY, "--batch", "2", *SHORT, "--json")
    assert ran.status == 0, ran.stderr
    artifact, original = ran.json["models"]
    assert (artifact["role"], original["role"]) == ("artifact", "original")
    assert artifact["bytes"] == file.stat().st_size < original["bytes"]
    assert artifact["weights"] == original["weights"]
    for model in (artifact, original):
        [batch] = model["batches"]
        assert batch["batch"] == 2
        assert batch["peak_bytes"] > 10 << 20
        assert 0 < batch["latency_p50_seconds"] <= batch["latency_p95_seconds"]
        assert len(batch["runs_tokens_per_s"]) == 2
    [compared] = ran.json["compared"]
    assert compared["ratio_low"] <= compared["ratio"] <= compared["ratio_high"]
    assert sorted(file.parent.iterdir()) == before


REFUSED = [
    (("--engine", "vllm"), 2, '--engine "vllm" is unknown'),
    (("--batch", "0"), 2, "--batch 0"),
    (("--batch", "a"), 2, '--batch "a"'),
    (("--steps", "1"), 2, "--steps"),
]


@pytest.mark.parametrize(("options", "status", "said"), REFUSED)
def test_what_makes_no_sense(options: tuple[str, ...], status: int, said: str, file: Path) -> None:
    ran = quantkit("bench", file, *options)
    assert ran.status == status
    assert said in ran.stderr


def test_what_is_no_file_to_run(tmp_path: Path) -> None:
    assert quantkit("bench", TINY).status == 2
    assert quantkit("bench", tmp_path / "none.gguf").status == 3
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    assert quantkit("bench", tmp_path / "bad.gguf").status == 3


@pytest.mark.parametrize(
    "command", [("bench",), ("eval", "--against", TINY, "--data", "default", "--engine", "llama.cpp")]
)
def test_without_the_extra_it_says_what_to_install(
    command: tuple[str, ...], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    ran = quantkit(command[0], file, *command[1:])
    assert ran.status == 4
    assert "llama.cpp" in ran.stderr and "needs xllamacpp, which is not installed" in ran.stderr
    assert "pip install 'quantkit-cli[llamacpp]'" in ran.stderr


def test_eval_in_llama_cpp(file: Path) -> None:
    """The figures are the engine's: near our own run of the file, and as far from the original as that is."""
    data = (
        "--data",
        TINY.parent / "held-out.jsonl",
        "--tokens",
        300,
        "--window",
        64,
        "--against",
        TINY,
        "--threads",
        1,
    )
    ours, theirs = (
        quantkit("eval", file, *data, *engine, "--gate", "default", "--gate", "kld<0.5", "--json")
        for engine in ((), ("--engine", "llama.cpp"))
    )
    assert (ours.status, theirs.status) == (0, 0), theirs.stderr
    [own], [found] = ours.json["artifacts"], theirs.json["artifacts"]
    assert own["engine"] is None
    assert found["engine"]["name"] == "llama.cpp"
    assert 0 < found["engine"]["own_kl"]["value"] < 1e-3  # its 8-bit inputs of layers
    assert found["kl"]["value"] == pytest.approx(own["kl"]["value"], abs=1e-3)
    assert found["perplexity"]["value"] == pytest.approx(own["perplexity"]["value"], rel=5e-3)
    assert found["reference_perplexity"] == pytest.approx(own["reference_perplexity"], rel=1e-5)
    assert found["blocks"] == own["blocks"]
    assert found["weights"] == own["weights"]


def test_eval_in_transformers(file: Path) -> None:
    data = (
        "--data",
        TINY.parent / "held-out.jsonl",
        "--tokens",
        200,
        "--window",
        64,
        "--against",
        TINY,
        "--threads",
        1,
    )
    found = quantkit("eval", TINY, *data, "--engine", "transformers", "--json")
    assert found.status == 0, found.stderr
    [artifact] = found.json["artifacts"]
    assert artifact["engine"]["name"] == "transformers"
    assert artifact["engine"]["own_kl"]["value"] < 1e-6
    assert artifact["kl"]["value"] < 1e-6
    refused = quantkit("eval", file, *data, "--engine", "transformers")
    assert refused.status == 2
    assert "use --engine llama.cpp" in refused.stderr
