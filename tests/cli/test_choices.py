"""Options that choose by name, of all commands: another name is a usage error (2) that names the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.cli.app import program

# What is typed, and what is meant; an option of two words gets the value behind what its first half needs.
TYPED: dict[str, tuple[str, str]] = {
    "--activations": ("memry", "memory"),
    "--device": ("cdua", "cuda"),
    "--driver": ("latncy", "latency"),
    "--embedding-type": ("q8-0", "q8_0"),
    "--engine": ("lama.cpp", "llama.cpp"),
    "--fit": ("rtx4091", "rtx4090"),
    "--for": ("vlm", "vllm"),
    "--gate": ("asistant", "assistant"),
    "--harness": ("lmeval", "lm-eval"),
    "--json-schema": ("convrt", "convert"),
    "--keep": ("attn_v=q8-0", "q8_0"),
    "--layout": ("lmstudo", "lmstudio"),
    "--kv": ("q8-0", "q8_0"),
    "--memory": ("rtx4091", "rtx4090"),
    "--method": ("gtpq", "gptq"),
    "--mmproj": ("bf-16", "bf16"),
    "--on-fallback": ("eror", "error"),
    "--output-type": ("q8-0", "q8_0"),
    "--pre": ("lama-bpe", "llama-bpe"),
    "--score": ("second-hal", "second-half"),
    "--to": ("q4_kk_m", "q4_k_m"),
    "--workload": ("cht", "chat"),
}
# Metavars of options that take something else than one of some names.
FREE = {"FILE", "SRC", "DIR", "OUT", "WORK", "N", "TEXT", "SIZE", "NATS", "BITS", "PERCENT", "TOKENS", "N[,N...]", "D",
        "FILE|SRC", "default|FILE", "golden|json|copy|FILE", "FILE|NAME", "FILE|DIR", "ORG/NAME",
        "FILE.html", "NAMES", "PUB.pem", "KEY.pem", "DATE", "BRANCH"}  # fmt: skip
# A person, or a file of the folder itself.
NAMED = {("card", "--quantized-by"), ("release", "--quantized-by"), ("release", "--primary")}
# What else a command needs to get as far as its options.
BEFORE: dict[str, list[object]] = {
    "bench": ["m.gguf"],
    "calibrate": [TINY, "--data", "x.jsonl", "-o", "s.gguf"],
    "card": ["m.gguf"],
    "compare": ["m.gguf", "n.gguf"],
    "convert": [TINY],
    "eval": ["m.gguf", "--against", TINY, "--data", "x.txt"],
    "plan": [TINY],
    "quantize": [TINY, "-o", "work"],
    "recommend": [TINY],
    "sensitivity": [TINY, "--calib", "x.jsonl", "-o", "s.json"],
    "tune": [TINY, "--dry-run"],
    "schemes": [],
    "verify": ["m.gguf", "--against", TINY],
}
MORE: dict[tuple[str, str], list[object]] = {("verify", "--gate"): ["--data", "x.txt"]}
# Where names of the kind are known once a file was read, which is not there.
LATER = {("--pre", command) for command in ("bench", "calibrate", "compare", "eval", "sensitivity", "verify")}


def choosing() -> list[tuple[str, str]]:
    """All commands' options that choose by name."""
    found = []
    for name, command in program().commands.items():
        for option in command.params:
            if option.opts[0].startswith("-") and option.metavar and option.metavar not in FREE:
                found.append((name, option.opts[0]))
    return [pair for pair in found if pair not in NAMED]


def test_every_option_that_chooses_is_listed() -> None:
    found = choosing()
    assert len(found) > 50
    assert {option for _, option in found} == set(TYPED)


@pytest.mark.parametrize(("command", "option"), [pair for pair in choosing() if pair[::-1] not in LATER])
def test_another_name_is_a_usage_error(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed, meant = TYPED[option]
    found = quantkit(command, *BEFORE[command], *MORE.get((command, option), []), option, typed)
    assert found.status == 2, found.stderr
    assert f'did you mean "{meant}"' in found.stderr
    assert "hint: " in found.stderr
    assert not list(tmp_path.iterdir())
