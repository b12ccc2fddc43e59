"""Adapters as files of their own: equal to those of convert_lora_to_gguf.py, and llama.cpp predicts with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from adapters import LINEARS, Lora, make_adapter, weights_of
from commands import quantkit
from gguf import GGUFReader
from reference import REFERENCE

from quantkit.quality.engines.llamacpp import require_llamacpp

TESTS = Path(__file__).parents[1]
SCRIPT = REFERENCE / "convert_lora_to_gguf.py"
ALL = (
    *LINEARS, "qkv_proj", "gate_up_proj", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "q_a_proj",
    "c_fc", "c_attn", "c_proj", "in_proj", "out_proj", "w1", "w2", "w3",
)  # fmt: skip
EVERYTHING = Lora(modules=ALL)


@dataclass(frozen=True)
class Case:
    """An adapter of a checkpoint of `checkpoints`, and the types it is written in."""

    base: str
    lora: Lora = EVERYTHING
    types: tuple[str, ...] = ("f32",)
    name: str = "tuned"


CASES = {
    "types": Case("llama-untied-gqa", types=("f32", "f16", "bf16", "q8_0")),
    "embedding": Case("llama-biases", Lora(embedding=True, rank=32), ("f16", "q8_0"), name="Little-8B-lora-v2"),
    "norms": Case("llama-untied-gqa", Lora(saved=("model.norm.weight",), modules=("q_proj", "k_proj"))),
    "ranks": Case("qwen3", Lora(settings={"rank_pattern": {"layers.1.self_attn.q_proj": 2}}), ("q8_0",)),
    **{name: Case(name) for name in ("qwen3-moe", "phi3", "falcon-groups", "gemma3-with-vision", "lfm2")},
}
MORE = (
    "mistral-sliding", "qwen2-tied", "Qwen3-Embedding-0.1B", "qwen2-moe", "olmo3", "olmoe", "minimax-m2", "mamba",
    "mamba2", "gpt-oss", "lfm2-moe", "pythia", "gpt-neox-serial", "bloom", "falcon", "granite", "olmo2", "gemma2",
    "gemma3", "phi4-mini",
)  # fmt: skip


def _made(cases: Mapping[str, Case], folder: Path) -> Mapping[str, tuple[Path, Path]]:
    """Adapter and base of each case."""
    made = {}
    for key, case in cases.items():
        base = checkpoints.build(case.base, folder / key)
        made[key] = (make_adapter(folder / key / case.name, weights_of(base), case.lora, base=str(base)), base)
    return made


def _tensors(path: Path) -> dict[str, Any]:
    return {t.name: (t.tensor_type.name, tuple(map(int, t.shape)), t.data.tobytes()) for t in GGUFReader(path).tensors}


def _keys(path: Path) -> dict[str, Any]:
    fields = GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith(("GGUF.", "quantkit."))}


@dataclass(frozen=True)
class Reference:
    """Adapters, and what the reference makes of them in a process for all: its imports cost more than the rest."""

    cases: Mapping[str, Case]
    made: Mapping[str, tuple[Path, Path]]
    folder: Path

    def compare(self, key: str) -> None:
        """Write the adapter in all types of its case, and compare tensors and keys."""
        case, out = self.cases[key], self.folder / f"{key}-out"
        recipes = ",".join(f"lora-{qtype}" for qtype in case.types)
        seen = quantkit("convert", self.made[key][0], "--to", recipes, "-o", out)
        assert seen.status == 0, seen.stderr
        for qtype in case.types:
            own, wanted = out / f"{case.name}-LoRA-{qtype.upper()}.gguf", self.folder / f"{key}-{qtype}.gguf"
            assert _tensors(own) == _tensors(wanted), (key, qtype)
            assert _keys(own) == _keys(wanted), (key, qtype)


def _reference(cases: Mapping[str, Case], folder: Path) -> Reference:
    if not SCRIPT.is_file():
        pytest.skip("the reference lies unpacked without convert_lora_to_gguf.py: remove it, make reference")
    made = _made(cases, folder)
    jobs = [
        [str(made[key][0]), str(made[key][1]), str(folder / f"{key}-{qtype}.gguf"), qtype]
        for key, case in cases.items()
        for qtype in case.types
    ]
    command = [sys.executable, str(TESTS / "convert_lora_reference.py")]
    subprocess.run(command, input=json.dumps(jobs), text=True, check=True, capture_output=True)
    return Reference(cases, made, folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return _reference(CASES, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_reference(case: str, reference: Reference) -> None:
    reference.compare(case)


@pytest.mark.slow
def test_further_families_equal_to_the_reference(tmp_path: Path) -> None:
    reference = _reference({name: Case(name) for name in MORE}, tmp_path)
    for name in MORE:
        reference.compare(name)


def _logits(model: Path, adapter: Path | None, texts: Sequence[Sequence[int]], out: Path) -> Any:
    command = [sys.executable, TESTS / "llama_lora.py", require_llamacpp(), model, adapter or "-", out]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "GGML_NO_BACKTRACE": "1"}
    subprocess.run(
        [str(word) for word in command], input=json.dumps(texts), text=True, check=True, env=environment,
        capture_output=True,
    )  # fmt: skip
    return np.load(out)


@pytest.mark.parametrize(("key", "recipe"), [("llama-untied-gqa", "lora-q8_0"), ("qwen3-moe", "lora-f16")])
def test_a_file_is_verified_against_its_adapter(key: str, recipe: str, tmp_path: Path) -> None:
    made = _made({key: Case(key), "other": Case(key, Lora(seed=1, modules=ALL), name="other")}, tmp_path)
    (adapter, base), (other, _) = made[key], made["other"]
    assert quantkit("convert", adapter, "--to", recipe, "-o", tmp_path / "lora.gguf").status == 0
    verify = ("verify", tmp_path / "lora.gguf", "--against")
    seen = quantkit(*verify, adapter, "--json")
    assert seen.status == 0, seen.stderr
    checks = {check["check"]: check["ok"] for check in seen.json["checks"]}
    assert checks == {"files": True, "structure": True, "tokenizer": True, "numbers": True}
    adapter.joinpath("adapter_config.json").write_text(
        adapter.joinpath("adapter_config.json").read_text().replace(str(base), "/gone")
    )
    (tmp_path / "lora.manifest.json").unlink()
    assert quantkit(*verify, adapter, "--base", base).status == 0
    seen = quantkit(*verify, other, "--base", base)
    assert seen.status == 7 and "numbers" in seen.stderr
    assert quantkit(*verify, base).status == 2  # holds no adapter
    assert quantkit("verify", base, "--against", base, "--base", base).status == 2  # is no adapter
    for option in (("--adapter", adapter), ("--engine", "llama.cpp")):
        assert quantkit(*verify, adapter, "--base", base, *option).status == 2


FAR: Any = {"spread": 0.2}
RUN = {
    "scales": Case(
        "llama-untied-gqa", Lora(rank=3, settings={"use_rslora": True, "alpha_pattern": {"up_proj": 20.0}}, **FAR)
    ),
    "embedding": Case("qwen3", Lora(embedding=True, **FAR)),
    "experts": Case("qwen3-moe", Lora(**FAR)),
    "transposed": Case("gpt2", Lora(modules=("c_attn", "c_fc"), settings={"fan_in_fan_out": True}, **FAR)),
}


@pytest.mark.parametrize("case", RUN)
def test_predicts_as_the_merged_model(case: str, tmp_path: Path) -> None:
    """llama.cpp with base and adapter, beside llama.cpp with the merged model, all in float32."""
    pytest.importorskip("xllamacpp")
    [(adapter, base)] = _made({case: RUN[case]}, tmp_path).values()
    for arguments in (
        (base, "--to", "f32"),
        (base, "--adapter", adapter, "--to", "f32"),
        (adapter, "--to", "lora-f32"),
    ):
        seen = quantkit("convert", *arguments, "-o", tmp_path / "out")
        assert seen.status == 0, seen.stderr
    out, name = tmp_path / "out", base.name
    texts = [[5, 77, 130, 9, 301, 44], [17, 18, 250]]
    bare = _logits(out / f"{name}-F32.gguf", None, texts, tmp_path / "a.npy")
    adapted = _logits(out / f"{name}-F32.gguf", out / "tuned-LoRA-F32.gguf", texts, tmp_path / "b.npy")
    merged = _logits(out / f"{name}-tuned-F32.gguf", None, texts, tmp_path / "c.npy")
    far = np.abs(merged - bare).max()
    assert far > 0.02, "an adapter that does nothing proves nothing"
    assert np.abs(adapted - merged).max() < 2e-3 * far


def test_scales_that_one_alpha_does_not_say(tmp_path: Path) -> None:
    """The reference writes lora_alpha, which llama.cpp divides by the rank, whatever the configuration says."""
    lora = Lora(rank=4, alpha=8.0, settings={"use_rslora": True})
    [(adapter, _)] = _made({"a": Case("llama-untied-gqa", lora)}, tmp_path).values()
    assert quantkit("convert", adapter, "--to", "lora-f32", "-o", tmp_path / "out").status == 0
    assert _keys(tmp_path / "out" / "tuned-LoRA-F32.gguf")["adapter.lora.alpha"] == 8.0 * sqrt(4)


BAD = {
    "dora": (Lora(settings={"use_dora": True}), 4, "DoRA"),
    "biases": (Lora(biases=True), 4, "lora_bias"),
    "saved": (Lora(saved=("lm_head.weight",)), 4, "lm_head.weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_file_can_say_is_refused(case: str, tmp_path: Path) -> None:
    lora, code, words = BAD[case]
    [(adapter, _)] = _made({case: Case("llama-untied-gqa", lora)}, tmp_path).values()
    seen = quantkit("convert", adapter, "--to", "lora-f16", "-o", tmp_path / "out")
    assert seen.status == code and words in seen.stderr and "--adapter" in seen.stderr


def test_rows_that_do_not_stay_whole_and_other_mistakes(tmp_path: Path) -> None:
    case = Case("deepseek-v2", Lora(modules=("kv_b_proj",)))
    [(adapter, base)] = _made({"a": case}, tmp_path).values()
    out = ["-o", tmp_path / "out"]
    seen = quantkit("convert", adapter, "--to", "lora-f16", *out)
    assert seen.status == 4 and "kv_b_proj" in seen.stderr and "do not stay whole" in seen.stderr
    assert quantkit("convert", base, "--to", "lora-f16", *out).status == 2  # no adapter
    assert quantkit("convert", adapter, "--to", "lora-f16,q8_0", *out).status == 2
    for option in (("--keep", "ffn=q8_0"), ("--pure",), ("--preserve",), ("--mmproj", "f16"), ("--output-type", "f16")):
        seen = quantkit("convert", adapter, "--to", "lora-f16", *option, *out)
        assert (seen.status, f"{option[0]} is for models" in seen.stderr) == (2, True), option
    assert quantkit("convert", base, "--to", "q8_0", "--base", base, *out).status == 2
    assert quantkit("convert", adapter, "--to", "lora-f16", "--adapter", adapter, *out).status == 2
    other = checkpoints.build("llama-untied-gqa", tmp_path)
    assert quantkit("convert", adapter, "--to", "lora-f16", "--base", other, *out).status == 3  # has no kv_b_proj
    (adapter / "adapter_config.json").write_text(
        json.dumps({**json.loads((adapter / "adapter_config.json").read_text()), "base_model_name_or_path": None})
    )
    seen = quantkit("convert", adapter, "--to", "lora-f16", *out)
    assert seen.status == 2 and "--base" in seen.stderr
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
