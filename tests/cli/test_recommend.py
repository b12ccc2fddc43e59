"""quantkit recommend: exact sizes, rules with their sources, measurements before rules, and answers that say no."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, quantkit
from machine_speed import check
from published import require

from quantkit import RecommendRequest, recommend
from quantkit.errors import UsageError
from quantkit.evaluation.gates import PROFILES
from quantkit.pipeline.advice import (
    CONDITIONS,
    DRIVERS,
    GGUF_LADDER,
    KV_SOURCE,
    OF_GGUF,
    RUNGS,
    SERVER_LADDER,
    SPECIAL,
    WORKLOADS,
    Facts,
)
from quantkit.pipeline.measured import Measurement
from quantkit.pipeline.recommend import tokens_of
from quantkit.pipeline.recommend_words import commands
from quantkit.recipes.read import load_recipe, recipe_names

SIZES = {
    "tiny": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}


def make(folder: Path, which: str) -> Path:
    """A Llama of a real one's shape, its weights holes in a file: headers are all that is read of it."""
    config = json.loads((TINY / "config.json").read_text())
    config |= SIZES[which] | {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072}
    out = folder / which
    shutil.copytree(TINY, out, ignore=shutil.ignore_patterns("*.safetensors"))
    (out / "config.json").write_text(json.dumps(config))
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = config["num_attention_heads"] * 128, 1024
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        shapes |= {block + f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shapes |= {block + f"mlp.{name}_proj.weight": (ffn, hidden) for name in ("gate", "up")}
        shapes |= {block + "mlp.down_proj.weight": (hidden, ffn)}
        shapes |= {block + "self_attn.q_proj.weight": (queries, hidden)}
        shapes |= {block + f"self_attn.{name}_proj.weight": (keys, hidden) for name in "kv"}
        shapes |= {block + "self_attn.o_proj.weight": (hidden, queries)}
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(out / "model.safetensors", 8 + len(text) + end)
    return out


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sparse"), "8b")


def ask(source: Path, *options: object) -> dict[str, Any]:
    found = quantkit("recommend", source, *options, "--json")
    assert found.status == 0, found.stderr
    require(found.json)
    return found.json


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_rule_has_a_gate_a_rung_and_a_source(name: str) -> None:
    workload = WORKLOADS[name]
    assert workload.gate in PROFILES
    assert workload.start in RUNGS
    assert workload.least in GGUF_LADDER
    assert workload.least <= workload.start


def test_rules_name_what_exists() -> None:
    rules = [*WORKLOADS.values(), *DRIVERS.values(), *CONDITIONS]
    assert all(len(rule.why) > 20 and rule.source for rule in rules)
    named = {name for ladder in (GGUF_LADDER, SERVER_LADDER) for names in ladder.values() for name in names} | SPECIAL
    assert named <= set(recipe_names())
    for bits, names in SERVER_LADDER.items():
        assert {load_recipe(name).mixture for name in names} == {None}, bits
    root = Path(__file__).parents[2]
    for rule in rules:
        if rule.source.startswith("docs/"):
            assert (root / rule.source.partition(",")[0].partition(";")[0]).is_file(), rule.source


@pytest.mark.parametrize(
    ("facts", "effects"),
    [
        (Facts("chat", 8 * 10**9, 8192, True, False), []),
        (Facts("high-stakes", 8 * 10**9, 8192, True, False), ["keep"]),
        (Facts("high-stakes", 8 * 10**9, 8192, False, False), []),
        (Facts("chat", 10**8, 8192, True, False), ["keep", "higher"]),
        (Facts("chat", 10**9, 8192, True, False), ["higher"]),
        (Facts("summarize", 8 * 10**9, 131072, True, False), ["eight"]),
        (Facts("edge", 10**9, 131072, True, False), []),
        (Facts("chat", 8 * 10**9, 8192, False, True), ["keep"]),
    ],
)
def test_conditions(facts: Facts, effects: list[str]) -> None:
    assert [condition.effect for condition in CONDITIONS if condition.holds(facts)] == effects


@pytest.mark.parametrize(
    ("options", "recipe", "following"),
    [
        (("--workload", "chat"), "q4_k_m", ["q5_k_m", "q6_k", "q8_0"]),
        (("--workload", "code"), "q5_k_m", ["q6_k", "q8_0"]),
        (("--workload", "math"), "q8_0", []),
        (("--workload", "math", "--driver", "cost"), "q6_k", ["q8_0"]),
        (("--workload", "summarize", "--context", "64k", "--memory", "80GB"), "q8_0", []),
        (("--workload", "edge"), "q4_k_m", ["q5_k_m", "q6_k", "q8_0"]),
        (("--workload", "edge", "--memory", "5.3GB"), "q3_k_m", []),
        (("--workload", "code", "--memory", "6.2GB"), "q4_k_m", []),
        (("--driver", "throughput"), "fp8", []),
        (("--driver", "throughput", "--memory", "7GB"), "w4a16", []),
        (("--for", "vllm"), "w4a16", ["fp8"]),
    ],
)
def test_the_ladder_of_an_8b(eight: Path, options: tuple[object, ...], recipe: str, following: list[str]) -> None:
    given = () if "--memory" in options else ("--memory", "24GB")
    found = ask(eight, *options, *given)
    assert (found["verdict"], found["recipe"], found["next"]) == ("quantize", recipe, following)
    assert found["chosen"]["needs"]["bytes"] <= found["memory_bytes"]
    assert all(reason["source"] for reason in found["reasons"])


def test_sizes_are_those_of_the_plan(eight: Path) -> None:
    found = ask(eight, "--memory", "24GB", "--context", "32k", "--kv", "q8_0", "--slots", 2)
    plan = quantkit("plan", eight, "--to", "q4_k_m", "--ctx", 65536, "--kv", "q8_0", "--json").json["plans"][0]
    needs = found["chosen"]["needs"]
    assert (needs["weights"], needs["cache"]) == (plan["serving"]["weight_bytes"], plan["serving"]["kv_bytes"])
    assert needs["cache"] == 2 * 32768 * 2 * 32 * 8 * 128 // 32 * 34
    assert found["chosen"]["file_bytes"] == plan["size"]["bytes"]
    assert needs["overhead"] == 500_000_000 + 4 * 512 * (2048 + 2 * 4096)


def test_it_may_say_no(eight: Path, tmp_path: Path) -> None:
    kept = ask(eight, "--workload", "high-stakes", "--memory", "24GB")
    assert (kept["verdict"], kept["recipe"], kept["original"]["fits"]) == ("do not quantize", None, True)
    tiny = ask(TINY)
    assert (tiny["verdict"], tiny["memory_of_machine"]) == ("do not quantize", True)
    assert "this machine's memory" in " ".join(quantkit("recommend", TINY).stdout.split())
    assert quantkit("convert", TINY, "--to", "fp8", "-o", tmp_path / "fp8", "--no-verify").status == 0
    assert ask(tmp_path / "fp8")["reasons"][0]["why"].startswith("the source is quantized already")
    small = ask(eight, "--workload", "high-stakes", "--memory", "8GB")
    assert (small["verdict"], small["wanted"]["recipe"]) == ("does not fit", "q8_0")
    assert small["largest"]["needs"]["bytes"] <= 8 * 10**9
    nothing = quantkit("recommend", eight, "--memory", "1GB")
    assert (nothing.status, "nothing fits in 1.00 GB" in nothing.stderr) == (5, True)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("memory", ["24GB", "8GB", "4.9GB"])
def test_lines_fit_the_terminal(eight: Path, columns: int, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(eight.parent)
    found = quantkit("recommend", eight.name, "--memory", memory)
    assert found.status == 0, found.stderr
    assert max(map(len, found.stdout.splitlines())) <= columns
    assert "overhead" in found.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workload", "maths"), 'did you mean "math"'),
        (("--driver", "memmory"), 'did you mean "memory"'),
        (("--kv", "q8"), 'did you mean "q8_0"'),
        (("--kv", "q4_k"), '--kv "q4_k" is unknown'),
        (("--memory", "0"), "is 0 bytes"),
        (("--memory", "24"), '"24GB"'),
        (("--memory", "rtx4095"), "rtx4090"),
        (("--context", "0"), "is no number of tokens"),
        (("--context", "-5"), "is no number of tokens"),
        (("--context", "lots"), "is no number of tokens"),
        (("--context", "2k"), "the model takes 1,024 tokens"),
        (("--slots", "0"), "--slots 0"),
        (("--for", "vlm"), "vllm"),
    ],
)
def test_what_makes_no_sense(options: tuple[object, ...], said: str) -> None:
    found = quantkit("recommend", TINY, *options)
    assert (found.status, said in found.stderr) == (2, True), found.stderr


def test_what_it_says_to_type_is_what_it_recommends(eight: Path) -> None:
    """The ladder that tune walks is the one of the answer; a GGUF file that is quantized is said to be so."""
    served = recommend(RecommendRequest(str(eight), memory="80GB", consumers=("vllm",)))
    [_, (_, tune)] = commands(served)
    assert served.chosen is not None
    assert any(served.chosen.recipe in names for names in SERVER_LADDER.values())
    assert ("--servers" in tune, tune[tune.index("--for") + 1]) == (True, "vllm")
    [_, (_, tune)] = commands(recommend(RecommendRequest(str(eight), memory="80GB", consumers=("llama.cpp",))))
    assert "--servers" not in tune


@pytest.mark.parametrize(
    "wish",
    [{}, {"workload": "math"}, {"driver": "throughput"}, {"driver": "cost"}, {"consumers": "vllm"},
     {"workload": "edge", "memory": "4.9GB"}],
    ids=str,
)  # fmt: skip
def test_what_it_says_to_type_can_be_typed(
    eight: Path, wish: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text is not given to a recipe that reads none, which convert would refuse."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held-out.jsonl").write_text('{"text": "All work and no play."}\n')
    (_, [_, *words]), *_ = commands(recommend(RecommendRequest(str(eight), **{"memory": "24GB", **wish})))
    done = quantkit(*words, "--dry-run")
    assert done.status == 0, done.stderr


def test_a_quantized_file_is_no_source(tmp_path: Path) -> None:
    assert quantkit("convert", TINY, "--to", "q4_0", "-o", tmp_path, "--no-verify").status == 0
    found = recommend(RecommendRequest(str(next(tmp_path.glob("*.gguf")))))
    assert (found.verdict, "quantized already" in found.reasons[0].why) == ("do not quantize", True)
    assert 4.5 <= found.original_bits < 16


def test_numbers_of_tokens() -> None:
    assert [tokens_of(text) for text in ("32k", "8192", "1m", "128K")] == [32768, 8192, 1 << 20, 131072]
    with pytest.raises(UsageError):
        tokens_of("9" * 40)


def line(recipe: str, reference: str, high: float) -> str:
    body = {
        "schema": "quantkit.eval-history/1", "name": f"x-{recipe}.gguf", "recipe": recipe, "bytes": 5,
        "reference": reference, "tokens": 9000, "kl": {"value": high / 2, "high": high},
        "perplexity_ratio": {"value": 1.0, "high": 1.001},
    }  # fmt: skip
    return json.dumps(body)


@pytest.mark.parametrize(
    ("bounds", "chosen", "decided"),
    [
        ({}, "q4_k_m", "rules"),
        ({"q5_k_m": 0.01}, "q5_k_m", "measured"),
        ({"q4_k_m": 0.5}, "q5_k_m", "measured"),
        ({"q4_k_m": 0.5, "q5_k_m": 0.5, "q6_k": 0.01}, "q6_k", "measured"),
        ({"q3_k_m": 0.5}, "q4_k_m", "rules"),
    ],
)
def test_reasons_are_what_decided(
    eight: Path, bounds: dict[str, float], chosen: str, decided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule is told where it chose, and a measurement where that did: never both."""
    found = tuple(Measurement(name, 5, high / 2, high, 1.001, 9000, "n.jsonl") for name, high in bounds.items())
    monkeypatch.setattr("quantkit.pipeline.recommend._Answer._measured", lambda self: found)
    answer = recommend(RecommendRequest(str(eight), memory="24GB", context="4k"))
    assert answer.chosen is not None
    assert answer.chosen.recipe == chosen
    assert {"measured" if r.source.endswith("measured") else "rules" for r in answer.reasons} == {decided}


@pytest.mark.parametrize("consumer", ["ollama", "lmstudio", "llama.cpp", "vllm", "mlx"])
def test_the_ladder_is_that_of_the_consumers(eight: Path, consumer: str) -> None:
    found = recommend(RecommendRequest(str(eight), consumers=(consumer,), memory="24GB"))
    assert {load_recipe(choice.recipe).mixture is not None for choice in found.ladder} == {consumer in OF_GGUF}


def test_measurements_of_the_model_come_before_rules(tmp_path: Path) -> None:
    source = make(tmp_path / "models", "tiny")
    model = quantkit("recommend", source, "--workload", "math", "--memory", "24GB", "--json").json
    assert model["verdict"] == "do not quantize"  # the rules: it is tiny
    rules = recommend(RecommendRequest(str(source), memory="24GB"))
    assert rules.chosen is None
    from quantkit.report.sealed import identity
    from quantkit.source import open_source
    from quantkit.source.identity import Origin

    reference = identity("original", Origin(open_source(str(source))).files)
    record = tmp_path / "models" / "nightly.jsonl"
    up = [choice.recipe for choice in rules.ladder]
    record.write_text("\n".join([line(up[0], reference, 0.5), "no json", line(up[1], reference, 0.02), "{}"]))
    (tmp_path / "models" / "other.json").write_text('{"schema": "quantkit.eval/1", "artifacts": 7}')
    found = recommend(RecommendRequest(str(source), memory="24GB"))
    told = {choice.recipe: choice.measured.passes("assistant") for choice in found.ladder if choice.measured}
    assert told == {up[0]: False, up[1]: True}
    assert found.chosen is not None
    assert found.chosen.recipe == up[1]
    assert [reason.source for reason in found.reasons] == ["nightly.jsonl, measured", KV_SOURCE], "no rule decided"
    kept = recommend(RecommendRequest(str(source), workload="high-stakes", memory="24GB"))
    assert kept.verdict == "do not quantize"  # whatever was measured
    # what eval --json printed counts also with the error of a gate behind it, and not on text of the calibration
    record.unlink()
    printed = tmp_path / "models" / "measured.json"
    body = json.loads(line(up[1], reference, 0.02))
    whole = {"schema": "quantkit.eval/1", "reference": {"sha256": reference}, "artifacts": [body | {"held_out": True}]}
    printed.write_text(f'{json.dumps(whole)}\n{{"schema": "quantkit.error/1"}}\n')
    assert [c.recipe for c in recommend(RecommendRequest(str(source))).ladder if c.measured] == [up[1]]
    whole["artifacts"] = [body | {"held_out": False}]
    printed.write_text(json.dumps(whole))
    assert not any(c.measured for c in recommend(RecommendRequest(str(source))).ladder)
    # of another model, or with rules alone, it counts for nothing
    record.write_text(line(up[1], "0" * 64, 0.02))
    assert not any(c.measured for c in recommend(RecommendRequest(str(source))).ladder)
    record.write_text(line(up[1], reference, 0.02))
    assert not any(c.measured for c in recommend(RecommendRequest(str(source), beside=False)).ladder)
    assert any(c.measured for c in recommend(RecommendRequest(str(source), beside=False, records=(record,))).ladder)


MEASURED = """
import os, sys
from quantkit.cli.main import main
status = main(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print("measured", sum(os.times()[:2]), peak, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
def test_a_70b_on_36_gigabytes(tmp_path: Path) -> None:
    """At four bits it does not fit, and that is said with the numbers, in seconds and little memory."""
    source = make(tmp_path, "70b")
    command = [
        sys.executable,
        "-c",
        MEASURED,
        "recommend",
        str(source),
        "--memory",
        "36GB",
        "--context",
        "32k",
        "--json",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["verdict"] == "does not fit"
    assert (found["wanted"]["recipe"], found["wanted"]["fits"]) == ("q4_k_m", False)
    assert found["wanted"]["needs"]["cache"] == 32768 * 327680
    assert 41e9 < found["wanted"]["needs"]["weights"] < 43e9
    assert found["largest"]["needs"]["bytes"] <= 36 * 10**9
    assert all(
        found["largest"]["needs"]["weights"] >= choice["needs"]["weights"]
        for choice in found["ladder"]
        if choice["fits"]
    )
    _, seconds, kilobytes = ran.stderr.splitlines()[-1].split()
    check(float(seconds), 10)
    assert int(kilobytes) / 1024 < 600
