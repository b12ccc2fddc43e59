"""quantkit convert: one command from a checkpoint to files that llama.cpp runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import encoder_table
import gguf
import numpy as np
import pytest
from commands import TINY, quantkit
from oracles import ggml

from quantkit.formats.gguf.file import read_gguf
from quantkit.formats.gguf.imatrix import Entry, Imatrix, encode_imatrix_gguf
from quantkit.qtypes import base
from quantkit.quality.tensor_errors import undecodable
from quantkit.recipes.read import gguf_recipe_names, load_recipe
from quantkit.report.manifest import read_manifest

# Mixtures of slow types that others hold, too.
ALIKE = {"iq1_s", "iq2_xxs", "iq2_xs", "iq2_m", "iq3_xs", "iq3_s"}
RECIPES = [name for name in gguf_recipe_names() if name not in ALIKE]
FREE_RECIPES = [name for name in RECIPES if not load_recipe(name).needs_imatrix]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def source_weights() -> dict[str, Any]:
    """The tiny model as published: name to torch tensor."""
    from safetensors.torch import load_file

    return load_file(TINY / "model.safetensors")


def source_tensor(name: str) -> np.ndarray:
    """A tensor of the tiny model by GGUF name, as ggml sees it: float32, query and key rows in rope order."""
    import torch

    weights = source_weights()
    if name == "token_embd.weight":
        return weights["model.embed_tokens.weight"].to(torch.float32).numpy()
    if name == "output_norm.weight":
        return weights["model.norm.weight"].to(torch.float32).numpy()
    _, layer, rest = name.split(".", 2)
    names = {
        "attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight",
        "attn_v.weight": "self_attn.v_proj.weight", "attn_output.weight": "self_attn.o_proj.weight",
        "ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight",
        "ffn_down.weight": "mlp.down_proj.weight", "attn_norm.weight": "input_layernorm.weight",
        "ffn_norm.weight": "post_attention_layernorm.weight",
    }  # fmt: skip
    w = weights[f"model.layers.{layer}.{names[rest]}"].to(torch.float32)
    heads = {"attn_q.weight": 4, "attn_k.weight": 2}.get(rest)
    if heads:
        w = w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
    return w.numpy()


@pytest.fixture(scope="module")
def imatrix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """An importance matrix of the tiny model, and its weights by tensor."""
    rng = np.random.default_rng(7)
    weights = {}
    for layer in range(4):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            weights[f"blk.{layer}.{name}.weight"] = rng.gamma(0.5, size=768 if name == "ffn_down" else 256)
    weights = {name: w.astype(np.float32) for name, w in weights.items()}
    entries = {name: Entry(w[None] * np.float32(4), np.array([4])) for name, w in weights.items()}
    path = tmp_path_factory.mktemp("imatrix") / "tiny.imatrix.gguf"
    path.write_bytes(encode_imatrix_gguf(Imatrix(path.name, entries, 1, 512, ("calibration.txt",), "")))
    return path, weights


@cache
def by_ggml(name: str, number: int, importance: bytes | None) -> np.ndarray:
    """The bytes of a tensor in a type, which several recipes give it, by ggml's own encoder."""
    weights = None if importance is None else np.frombuffer(importance, np.float32)
    return ggml.quantize(number, np.atleast_2d(source_tensor(name)), weights).reshape(-1)


def check_tensors(path: Path, importance: dict[str, np.ndarray]) -> None:
    """Every tensor of a file is what ggml's own encoder makes of the source."""
    for name, number, raw in stored_tensors(path):
        weights = importance.get(name)
        expected = by_ggml(name, number, None if weights is None else weights.tobytes())
        assert np.array_equal(raw, expected), name


def stored_tensors(path: Path) -> list[tuple[str, int, np.ndarray]]:
    """Name, type number and bytes of each tensor, by the gguf package if it knows the types, else by our parser."""
    found = read_gguf(path).tensors
    if all(t.type_id in set(gguf.GGMLQuantizationType) for t in found):
        tensors = gguf.GGUFReader(path).tensors
        return [(t.name, int(t.tensor_type), t.data.view(np.uint8).reshape(-1)) for t in tensors]
    raw = np.fromfile(path, np.uint8)
    return [(t.name, t.type_id, raw[t.offset : t.offset + t.nbytes]) for t in found]


@pytest.mark.parametrize("recipe", FREE_RECIPES)
def test_every_tensor_is_what_ggml_writes(recipe: str, tmp_path: Path) -> None:
    outcome = quantkit("convert", TINY, "--to", recipe, "-o", tmp_path, "--json")
    assert outcome.status == 0, outcome.stderr
    [artifact] = outcome.json["artifacts"]
    path = tmp_path / f"docs-llama-tiny-{load_recipe(recipe).title}.gguf"
    assert artifact["files"] == [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path), "path": str(path)}
    ]
    check_tensors(path, {})


@pytest.mark.parametrize("recipe", RECIPES)
def test_with_importance_every_tensor_is_what_ggml_writes(
    recipe: str, tmp_path: Path, imatrix: tuple[Path, dict[str, np.ndarray]]
) -> None:
    path = tmp_path / "model.gguf"
    outcome = quantkit("convert", TINY, "--to", recipe, "-o", path, "--imatrix", imatrix[0])
    assert outcome.status == 0, outcome.stderr
    check_tensors(path, imatrix[1])


@pytest.mark.parametrize("recipe", ["q1_0", "q2_0"])
def test_types_that_the_gguf_package_does_not_know_are_said_not_to_be_checked(recipe: str, tmp_path: Path) -> None:
    if undecodable(frozenset({recipe})) is None:
        pytest.skip(f"this gguf package knows {recipe}")
    path = tmp_path / "model.gguf"
    outcome = quantkit("convert", TINY, "--to", recipe, "-o", path)
    assert outcome.status == 0, outcome.stderr
    assert f"does not decode {recipe.upper()}" in outcome.stderr
    checks = {check["check"]: check for check in read_manifest(tmp_path / "model.manifest.json").facts["checks"]}
    assert (checks["numbers"]["ok"], checks["numbers"]["not_compared"]) == (None, 28)
    assert checks["tokenizer"]["ok"] is True
    with ggml.Model(path) as loaded:
        assert np.isfinite(loaded.logits([1, 5, 9])).all()
    [known] = [t for t in read_gguf(path).tensors if t.qtype == "q6_k"]
    raw = np.fromfile(path, np.uint8)
    raw[known.offset : known.offset + known.nbytes // 2] = raw[known.offset + known.nbytes // 2 :][: known.nbytes // 2]
    raw.tofile(tmp_path / "damaged.gguf")
    outcome = quantkit("verify", tmp_path / "damaged.gguf", "--against", TINY)
    assert (outcome.status, "far from the source, worst token_embd.weight" in outcome.stderr) == (7, True)


def test_a_recipe_that_needs_importance_says_so(tmp_path: Path) -> None:
    outcome = quantkit("convert", TINY, "--to", "q2_k_s", "-o", tmp_path)
    assert outcome.status == 2
    assert "--imatrix" in outcome.stderr


def test_several_recipes_in_one_read_equal_one_at_a_time(tmp_path: Path) -> None:
    together, apart = tmp_path / "together", tmp_path / "apart"
    assert quantkit("convert", TINY, "--to", "q4_k_m,q8_0,bf16", "-o", together).status == 0
    for recipe in ("q4_k_m", "q8_0", "bf16"):
        assert quantkit("convert", TINY, "--to", recipe, "-o", apart).status == 0
    names = sorted(p.name for p in together.glob("*.gguf"))
    assert len(names) == 3
    assert [sha256(together / n) for n in names] == [sha256(apart / n) for n in names]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_bytes_do_not_depend_on_the_thread_count(threads: int, tmp_path: Path) -> None:
    assert quantkit("convert", TINY, "--to", "q4_k_m", "-o", tmp_path / "a.gguf", "--threads", threads).status == 0
    assert quantkit("convert", TINY, "--to", "q4_k_m", "-o", tmp_path / "b.gguf", "--threads", 3).status == 0
    assert sha256(tmp_path / "a.gguf") == sha256(tmp_path / "b.gguf")


def test_stdout_is_the_path_and_stderr_the_talk(tmp_path: Path) -> None:
    outcome = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path)
    assert outcome.stdout == f"{tmp_path / 'docs-llama-tiny-Q8_0.gguf'}\n"
    for word in ("plan", "quantize", "verify", "sha256", "bits per weight"):
        assert word in outcome.stderr
    quiet = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path / "more", "--quiet")
    assert quiet.stderr == ""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what a process reads")
def test_what_is_built_already_is_found_with_one_look_at_each_byte(tmp_path: Path) -> None:
    """The hash that began with the source is the one that is compared."""

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    command = ("convert", TINY, "--to", "q8_0", "-o", tmp_path, "--no-verify")
    made = Path(quantkit(*command).stdout.strip())
    before = read_bytes()
    assert "already built" in quantkit(*command).stderr
    files = sum(path.stat().st_size for path in (*TINY.iterdir(), made))
    assert files <= read_bytes() - before < files + 1_000_000


def test_the_same_command_again_finds_it_built(tmp_path: Path) -> None:
    first = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path)
    path = Path(first.stdout.strip())
    before = path.stat()
    again = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path)
    assert again.status == 0
    assert again.stdout == first.stdout
    assert f"already built (sha256 {sha256(path)})" in again.stderr
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("name", ["bert-mean", "xlm-roberta"])
def test_files_of_models_that_pool_are_found_again_and_verify(name: str, tmp_path: Path) -> None:
    """Their manifests say how they pool, which is a number."""
    command = ("convert", encoder_table.build(name, tmp_path), "--to", "f32", "-o", tmp_path / "out")
    first, again = quantkit(*command), quantkit(*command)
    assert (first.status, again.status, again.stdout) == (0, 0, first.stdout), again.stderr
    assert "already built" in again.stderr
    path = Path(first.stdout.strip())
    assert read_manifest(path.with_suffix(".manifest.json")).facts["model"]["pooling_type"] > 0
    assert quantkit("verify", path).status == 0


def test_an_output_that_differs_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"precious")
    refused = quantkit("convert", TINY, "--to", "q8_0", "-o", path, "--json")
    assert refused.status == 6
    assert refused.json["error"]["code"] == "exists"
    assert "--force" in refused.stderr
    assert path.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.gguf"]
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", path, "--force").status == 0
    assert path.read_bytes()[:4] == b"GGUF"


def test_a_changed_artifact_is_not_taken_for_built(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", path).status == 0
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", path).status == 6


def test_a_changed_source_is_not_taken_for_built(tmp_path: Path) -> None:
    source = tmp_path / "docs-llama-tiny"
    shutil.copytree(TINY, source)
    path = tmp_path / "model.gguf"
    assert quantkit("convert", source, "--to", "q8_0", "-o", path).status == 0
    weights = source / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    assert quantkit("convert", source, "--to", "q8_0", "-o", path).status == 6


def test_manifest_and_checksums_describe_the_artifact(tmp_path: Path) -> None:
    outcome = quantkit("convert", TINY, "--to", "q4_k_m", "-o", tmp_path, "--json")
    path = Path(outcome.json["artifacts"][0]["files"][0]["path"])
    manifest = json.loads((tmp_path / f"{path.stem}.manifest.json").read_text())
    assert manifest["schema"] == "quantkit.manifest/1"
    assert manifest["artifact"] == [{"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}]
    weights = next(f for f in manifest["source"]["files"] if f["name"] == "model.safetensors")
    assert weights["sha256"] == sha256(TINY / "model.safetensors")
    data = path.read_bytes()
    for tensor in manifest["tensors"]:
        stored = data[tensor["offset"] : tensor["offset"] + tensor["bytes"]]
        assert hashlib.sha256(stored).hexdigest() == tensor["sha256"], tensor["name"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)


def test_no_stray_files_are_left(tmp_path: Path) -> None:
    assert quantkit("convert", TINY, "--to", "q8_0,q4_0", "-o", tmp_path).status == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "SHA256SUMS",
        "docs-llama-tiny-Q4_0.gguf",
        "docs-llama-tiny-Q4_0.manifest.json",
        "docs-llama-tiny-Q8_0.gguf",
        "docs-llama-tiny-Q8_0.manifest.json",
    ]


def test_shards_hold_the_same_tensors_and_load(tmp_path: Path) -> None:
    outcome = quantkit(
        "convert", TINY, "--to", "q8_0", "-o", tmp_path, "--split-max-size", "1M", "--engine", "llama.cpp"
    )
    assert outcome.status == 0, outcome.stderr
    shards = sorted(tmp_path.glob("*.gguf"))
    assert len(shards) > 3
    assert [Path(line) for line in outcome.stdout.splitlines()] == shards
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path / "whole.gguf").status == 0
    whole = {t.name: t.data.tobytes() for t in gguf.GGUFReader(tmp_path / "whole.gguf").tensors}
    split = {t.name: t.data.tobytes() for shard in shards for t in gguf.GGUFReader(shard).tensors}
    assert split == whole
    assert quantkit("verify", shards[0], "--against", TINY).status == 0


def test_overrides_change_types_and_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keep = ["--keep", "ffn_down=q8_0", "--keep", "blk.0.attn_v=bf16", "--embedding-type", "q8_0"]
    assert quantkit("convert", TINY, "--to", "q4_k_m", *keep, "-o", path).status == 0
    types = {t.name: base.get(t.tensor_type.name.lower()).name for t in gguf.GGUFReader(path).tensors}
    assert types["blk.3.ffn_down.weight"] == "q8_0"
    assert types["blk.0.attn_v.weight"] == "bf16"
    assert types["token_embd.weight"] == "q8_0"
    assert "--keep ffn_down=q8_0" in json.loads((tmp_path / "model.manifest.json").read_text())["recipe"]["name"]


def test_a_gguf_source_gives_the_same_bytes_as_the_checkpoint(tmp_path: Path) -> None:
    assert quantkit("convert", TINY, "--to", "bf16,q4_k_m", "-o", tmp_path).status == 0
    middle = tmp_path / "docs-llama-tiny-BF16.gguf"
    again = tmp_path / "again.gguf"
    assert quantkit("convert", middle, "--to", "q4_k_m", "-o", again).status == 0
    direct = {t.name: t.data.tobytes() for t in gguf.GGUFReader(tmp_path / "docs-llama-tiny-Q4_K_M.gguf").tensors}
    assert {t.name: t.data.tobytes() for t in gguf.GGUFReader(again).tensors} == direct


def test_a_quantized_source_needs_permission(tmp_path: Path) -> None:
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path).status == 0
    source = tmp_path / "docs-llama-tiny-Q8_0.gguf"
    refused = quantkit("convert", source, "--to", "q4_k_m", "-o", tmp_path / "twice.gguf")
    assert refused.status == 4
    assert "--allow-requantize" in refused.stderr
    outcome = quantkit("convert", source, "--to", "q4_k_m", "-o", tmp_path / "twice.gguf", "--allow-requantize")
    assert outcome.status == 0, outcome.stderr


def test_quantize_then_pack_equals_convert(tmp_path: Path) -> None:
    work = tmp_path / "work"
    outcome = quantkit("quantize", TINY, "--to", "q4_k_m,q8_0", "-o", work, "--json")
    assert outcome.status == 0, outcome.stderr
    folders = [Path(f) for f in outcome.json["work"]]
    for folder in folders:
        assert quantkit("pack", folder, "-o", tmp_path / "packed").status == 0
    assert quantkit("convert", TINY, "--to", "q4_k_m,q8_0", "-o", tmp_path / "direct").status == 0
    for direct in (tmp_path / "direct").glob("*.gguf"):
        assert sha256(tmp_path / "packed" / direct.name) == sha256(direct)
    again = quantkit("pack", folders[0], "-o", tmp_path / "packed", "--json")
    assert (again.status, again.json["artifact"]["built"]) == (0, False)
    file = Path(again.json["artifact"]["files"][0]["path"])
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert quantkit("pack", folders[0], "-o", tmp_path / "packed").status == 6
    assert quantkit("pack", folders[0], "-o", tmp_path / "packed", "--force").status == 0
    assert file.read_bytes() == whole
    assert quantkit("verify", next((tmp_path / "packed").glob("*.gguf")), "--against", TINY).status == 0


def test_dry_run_is_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    dry = quantkit("convert", TINY, "--to", "q4_k_m", "-o", tmp_path, "--dry-run", "--json")
    plan = quantkit("plan", TINY, "--to", "q4_k_m", "-o", tmp_path, "--json")
    assert dry.status == plan.status == 0
    assert dry.json["plans"][0]["files"] == plan.json["plans"][0]["files"]
    assert dry.json["plans"][0]["digest"] == plan.json["plans"][0]["digest"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", FREE_RECIPES)
def test_the_plan_is_right_to_the_byte(recipe: str, tmp_path: Path) -> None:
    [planned] = quantkit("plan", TINY, "--to", recipe, "--json").json["plans"]
    outcome = quantkit("convert", TINY, "--to", recipe, "-o", tmp_path, "--no-verify")
    assert outcome.status == 0
    assert Path(outcome.stdout.strip()).stat().st_size == planned["files"][0]["bytes"]


def test_llama_cpp_loads_and_agrees(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    outcome = quantkit("convert", TINY, "--to", "q8_0", "-o", path, "--engine", "llama.cpp", "--json")
    assert outcome.status == 0, outcome.stderr
    checks = {c["check"]: c for c in outcome.json["artifacts"][0]["checks"]}
    assert checks["llama.cpp"]["kl_mean"] < 0.01
    assert checks["llama.cpp"]["tokenizer_differences"] == 0


def test_additional_chat_templates_reach_the_file(tmp_path: Path) -> None:
    source = tmp_path / "docs-llama-tiny"
    shutil.copytree(TINY, source)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    path = tmp_path / "model.gguf"
    assert quantkit("convert", source, "--to", "q8_0", "-o", path).status == 0
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    assert fields["tokenizer.chat_template.tool_use"].contents() == "{{ tools }}"
